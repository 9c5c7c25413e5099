"""How much longer a network from scratch must train to err as little as a pruned one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_BUDGETS = 3


@dataclass(frozen=True)
class BreakEven:
    """Multiple of the pruned network's further steps.

    Attributes:
        multiple: the multiple, or the bound that it is beyond.
        bound: ``""``: it was found; ``<``: it is below the smallest budget; ``>``: it is above the largest.
    """

    multiple: float
    bound: str = ""

    def __str__(self) -> str:
        return f"{self.bound} {self.multiple:.1f}".strip()


def break_even(steps: float, rate: float, scratch: Sequence[tuple[float, float]]) -> BreakEven:
    """Find the steps after which a network from scratch errs as little as a pruned one.

    Between neighbouring budgets the rate is taken to be linear in the logarithm of the steps; the first budget from
    which the rate is reached counts.

    Args:
        steps: further steps of the pruned network.
        rate: its error rate.
        scratch: steps and error rate of the network from scratch at each budget.

    Raises:
        ValueError: there are fewer than three budgets, or two of them are equal.
    """
    points = sorted(scratch)
    if len({budget for budget, _ in points}) < max(LEAST_BUDGETS, len(points)):
        raise ValueError(f"a break-even needs at least {LEAST_BUDGETS} budgets from scratch, all different")
    if points[0][1] <= rate:
        return BreakEven(points[0][0] / steps, "<")
    for (shorter, above), (longer, below) in zip(points, points[1:]):
        if below <= rate:
            share = (above - rate) / (above - below)
            return BreakEven(math.exp((1 - share) * math.log(shorter) + share * math.log(longer)) / steps)
    return BreakEven(points[-1][0] / steps, ">")
