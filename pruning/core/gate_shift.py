"""Keep the expected sparsity of gates on a target by a common shift of their log alpha, instead of by multipliers.

The gradient of the open probability is 0.01 at a log alpha of 3 and 0.25 where gates close. A multiplier therefore
grows while the gates of a dense network do not react, and closes too many of them once they do. A shift has the effect
of the multiplier that would be right at each step, and keeps all differences between gates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pruning.core.cost import CostModel
from pruning.core.gates import LIMIT, HardConcreteGates

EXACT = 1e-4
"""Largest distance between expected sparsity and target after a shift."""
_ROUNDS = 60


class GateShift:
    """Shifts the gates of a network to targets; no two targets may depend on the same gates.

    Args:
        gates: the gates.
        costs: cost model of the network.
        targets: the costs that have a target.

    Raises:
        ValueError: two targets depend on the same gates.
    """

    def __init__(self, gates: HardConcreteGates, costs: CostModel, targets: Mapping[str, float]) -> None:
        if costs.apart(list(targets)) is None:
            raise ValueError(f"the targets {', '.join(targets)} depend on the same units")
        self._gates, self._costs = gates, costs
        self._moved = {cost: gates.units.priced(costs, [cost]) for cost in targets}

    @torch.no_grad()
    def to(self, targets: Mapping[str, float]) -> None:
        """Shift log alpha, within its limits, until the expected sparsity of each cost is within `EXACT` of its target.

        A target beyond the limits of log alpha is approached as far as they allow.
        """
        alpha = self._gates.log_alpha
        for cost, target in targets.items():
            moved = self._moved[cost].to(alpha.device)

            def shifted(by: float, moved: Tensor = moved) -> Tensor:
                return torch.where(moved, (alpha - by).clamp(-LIMIT, LIMIT), alpha)

            def gap(by: float, cost: str = cost, target: float = target) -> float:
                counts = self._gates.expected_counts(shifted(by))
                return self._costs.sparsity(counts, cost).item() - target

            alpha.copy_(shifted(_root(gap, 2 * LIMIT)))


def _root(gap: Callable[[float], float], furthest: float) -> float:
    """Return where an increasing function is 0, within ``-furthest`` and ``furthest``, by bisection from near 0."""
    at_zero = gap(0.0)
    if abs(at_zero) <= EXACT:
        return 0.0
    direction = -1.0 if at_zero > 0 else 1.0
    near, far = 0.0, 1 / 64
    while far < furthest and gap(direction * far) * direction < 0:
        near, far = far, 2 * far
    for _ in range(_ROUNDS):
        middle = (near + far) / 2
        found = gap(direction * middle) * direction
        if abs(found) <= EXACT:
            return direction * middle
        near, far = (middle, far) if found < 0 else (near, middle)
    return direction * (near + far) / 2
