"""Forms of exported files. Needs no torch."""

from __future__ import annotations

FORMS = {"float32": ".onnx", "int8": ".int8.onnx", "torchscript": ".pt"}
"""Endings of the files of each form of export."""
ONNX_FORMS = ("float32", "int8")
