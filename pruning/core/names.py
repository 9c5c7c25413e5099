"""Names of costs, ramps and criteria, as options and configurations give them. Needs no torch."""

from __future__ import annotations

SIZE = "size"
MACS = "macs"
COSTS = (SIZE, MACS)
LATENCY = "latency"

RAMPS = ("linear", "cubic", "one_shot")
"""Ways of the constraint's target to its whole."""

CRITERIA = ("magnitude", "taylor", "fisher", "movement", "wanda", "activation", "random")
LOOK_INSIDE = ("magnitude", "wanda", "activation")
"""Those that read weights, or what enters layers; the others know nothing but masks and their gradients."""
FROM_GRADIENTS = ("taylor", "fisher", "movement")
WEIGHTS = ("own", "following")
"""The weights whose magnitudes are a unit's."""
