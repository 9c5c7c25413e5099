"""Fit a structure to two targets at once: tilt an order of units until a structure that meets one target meets both."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from pruning.core.cost import CostModel
from pruning.core.selection import Selection

NEAR = 0.002  # sparsity gap between the two costs below which the search does not start
_FIRST, _LAST, _HALVINGS = 1 / 16, 16.0, 6  # smallest and largest tilt, as multiples of the range of ranks

Fit = Callable[[Tensor, bool], Tensor]


def balanced(scores: Tensor, selection: Selection, costs: CostModel, targets: Mapping[str, float], fit: Fit) -> Tensor:
    """Return the kept units ``(U,)`` bool that bring two costs as near to their targets as an order of units can.

    Closing units in the order of their scores until both targets are met can cut one cost far more than asked,
    because the units with the lowest scores may contribute mostly to that cost. So the units that contribute more to
    the cost that is cut too much are ranked higher, by the amount that brings both costs to their targets. Units with
    the same ratio of the two costs keep their order.

    Args:
        scores: score of each unit, ``(U,)``; larger is more worth keeping.
        selection: the units of the network.
        costs: the cost model of the network.
        targets: cost -> target sparsity, for two costs that share units.
        fit: ``fit(order, fill)`` returns the kept units for an order of units, such that every cost meets its target;
            see `Selection.fitted`.
    """
    ranks = scores.argsort(stable=True).argsort().double() / max(1, scores.numel())
    kept = fit(ranks, True)

    def gaps(keep: Tensor) -> list[float]:
        counts = selection.hard_counts(keep)
        return [costs.sparsity(counts, cost).item() - target for cost, target in targets.items()]

    def furthest(keep: Tensor) -> float:
        return max(map(abs, gaps(keep)))

    def lead(keep: Tensor) -> float:  # how much more the first cost is cut than the second
        first, second = gaps(keep)
        return first - second

    before = lead(kept)
    if abs(before) <= NEAR:
        return kept
    first, second = ((costs.prices(cost) / costs.dense[cost])[selection.member] for cost in targets)
    tilt = (first - second) / (first + second).clamp(min=1e-30) * (1.0 if before > 0 else -1.0)
    tried: dict[float, float] = {}

    def too_little(amount: float) -> bool:
        keep = fit(ranks + amount * tilt, False)
        tried[amount] = furthest(keep)
        return lead(keep) * before > 0

    low, high = 0.0, _FIRST
    while high < _LAST and too_little(high):
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_little(middle) else (low, middle)
    best = sorted(tried, key=lambda amount: tried[amount])[:2]  # among equals, the smallest tilt
    return min([kept, *(fit(ranks + amount * tilt, True) for amount in best)], key=furthest)
