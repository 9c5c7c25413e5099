"""Two targets at once: an order of units, tilted until the structure that meets the one meets the other, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from pruning.core.cost import CostModel
from pruning.core.selection import Selection

NEAR = 0.002  # of sparsity: no more is searched for
_FIRST, _LAST, _HALVINGS = 1 / 16, 16.0, 6  # tilts, of all ranks

Fit = Callable[[Tensor, bool], Tensor]


def balanced(scores: Tensor, selection: Selection, costs: CostModel, targets: Mapping[str, float], fit: Fit) -> Tensor:
    """What is kept ``(U,)`` bool, with two costs as near to their targets as an order of units brings them.

    Units closed in the order of their scores until no cost is above its target leave the other one far below: what is
    worth least may be mostly of one cost. So units that are more of the cost that is cut too much rank higher, by as
    much as brings both to their targets; units that cost alike keep their order.

    Args:
        scores: ``(U,)``, larger is more worth keeping.
        selection, costs: of the network.
        targets: cost -> sparsity, of two costs that share units.
        fit: ``fit(order, fill)`` gives what is kept in an order, no cost above its target: see `Selection.fitted`.
    """
    ranks = scores.argsort(stable=True).argsort().double() / max(1, scores.numel())
    kept = fit(ranks, True)

    def gaps(keep: Tensor) -> list[float]:
        counts = selection.hard_counts(keep)
        return [costs.sparsity(counts, cost).item() - target for cost, target in targets.items()]

    def furthest(keep: Tensor) -> float:
        return max(map(abs, gaps(keep)))

    def lead(keep: Tensor) -> float:  # by how much the first cost is cut more than the second
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
    best = sorted(tried, key=lambda amount: tried[amount])[:2]  # of equal ones the least tilted
    return min([kept, *(fit(ranks + amount * tilt, True) for amount in best)], key=furthest)
