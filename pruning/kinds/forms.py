"""Forms of exported files. Does not import torch."""

from __future__ import annotations

FORMS = {"float32": ".onnx", "int8": ".int8.onnx", "torchscript": ".pt"}
"""File name ending of each form of export."""
ONNX_FORMS = ("float32", "int8")
