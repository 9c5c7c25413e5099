"""Names of pruning methods and techniques, and combinations that are not supported. Does not import torch."""

from __future__ import annotations

from pruning.core.names import CRITERIA, DEPTH

L0 = "l0"
HJ = ("hj-size", "hj-mac", "hj-sepsize")
"""HJ-Pruning ("Structured Pruning of Self-Supervised Pre-trained Models for Speech Recognition and Understanding",
ICASSP 2023): L0 gates on front-end channels, heads and hidden units jointly, under one constraint on size, one on MACs,
or one on the size of each part."""
METHODS = (L0, *HJ, *CRITERIA)
WITHOUT_LEARNING = tuple(criterion for criterion in CRITERIA if criterion != "movement")
"""Methods that score units of a network whose weights stay as they are."""
TECHNIQUES = ("structured", "unstructured", "low_rank")
NO_CELL = {
    (L0, "unstructured"): "gates work on units, and every single weight would need one",
    (L0, "low_rank"): "gates work on units; rank components by a criterion such as magnitude or taylor",
    **{(method, technique): "gates work on units" for method in HJ for technique in ("unstructured", "low_rank")},
    ("activation", "unstructured"): "all weights of a column have the same input; wanda weighs it",
    **{(DEPTH, technique): "it scores whole layers" for technique in ("unstructured", "low_rank")},
}
"""Pairs of method and technique that are not supported, and the reason."""
