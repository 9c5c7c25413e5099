"""Names of costs, ramps and criteria in options and configurations. Does not import torch."""

from __future__ import annotations

SIZE = "size"
MACS = "macs"
COSTS = (SIZE, MACS)
LATENCY = "latency"

RAMPS = ("linear", "cubic", "one_shot")
"""Schedules of the constraint's target."""

DEPTH = "depth"
"""The criterion that scores whole layers."""
CRITERIA = ("magnitude", "taylor", "fisher", "movement", "wanda", "activation", DEPTH, "random")
LOOK_INSIDE = ("magnitude", "wanda", "activation", DEPTH)
"""Criteria that read weights or the inputs of layers; the others use only masks and their gradients."""
FROM_GRADIENTS = ("taylor", "fisher", "movement")
WEIGHTS = ("own", "following")
"""Choices of the weights whose norm the ``magnitude`` criterion takes."""
