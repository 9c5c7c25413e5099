"""What runs networks that are timed, and what language models do then. Needs no torch."""

from __future__ import annotations

PYTORCH = "pytorch"
BACKENDS = (PYTORCH, "torchscript", "onnx", "int8")
"""Of encoders."""
LM_BACKENDS = (PYTORCH, "onnx", "int8")
"""Of language models."""
SCORING, STEPS = "scoring", "steps"
