"""Names of backends, and of the work of language models, for timing. Does not import torch."""

from __future__ import annotations

PYTORCH = "pytorch"
BACKENDS = (PYTORCH, "torchscript", "onnx", "int8")
"""Backends for encoders."""
LM_BACKENDS = (PYTORCH, "onnx", "int8")
"""Backends for language models."""
SCORING, STEPS = "scoring", "steps"
