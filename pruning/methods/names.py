"""Names of methods and techniques of pruning, and which go together. Needs no torch."""

from __future__ import annotations

from pruning.core.names import CRITERIA

L0 = "l0"
HJ = ("hj-size", "hj-mac", "hj-sepsize")
"""HJ-Pruning ("Structured Pruning of Self-Supervised Pre-trained Models for Speech Recognition and Understanding",
ICASSP 2023): L0 gates on channels of the frontend, heads and hidden units jointly, under one constraint on size, one on
MACs, or one on the size of each part."""
METHODS = (L0, *HJ, *CRITERIA)
TECHNIQUES = ("structured", "unstructured", "low_rank")
NO_CELL = {
    (L0, "unstructured"): "gates are of units; every single weight would need one",
    (L0, "low_rank"): "gates are of units; components are ranked, by magnitude or taylor for example",
    **{(method, technique): "gates are of units" for method in HJ for technique in ("unstructured", "low_rank")},
    ("activation", "unstructured"): "what enters a weight is the same for its whole column; wanda weighs it",
}
"""Methods and techniques that do not go together, and why."""
