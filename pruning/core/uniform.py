"""Uniformly narrowed structures, as a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from pruning.core.cost import CostModel
from pruning.core.structure import KeptUnits, Structure
from pruning.core.units import UnitGroup
from pruning.errors import UserError


def narrowed(groups: Sequence[UnitGroup], ratio: float) -> Structure:
    """Cut every group of units to ``ratio`` of its size (rounded down, at least one unit); all modules stay.

    The first units of each group are kept, which is arbitrary: the structure is for a network that is trained
    from scratch, or for counts.
    """
    parents = {group.parent for group in groups}
    kept = {}
    for group in groups:
        count = group.size if group.name in parents else max(1, group.minimum, int(ratio * group.size + 1e-9))
        kept[group.name] = KeptUnits(group.kind, group.size, tuple(range(count)))
    return Structure(kept)


def uniform_structure(groups: Sequence[UnitGroup], costs: CostModel, cost: str, budget: float) -> Structure:
    """Return the widest uniformly narrowed structure that costs at most ``budget``.

    Args:
        groups: unit groups of the dense network.
        costs: cost model of the dense network.
        cost: cost that is limited, ``size`` or ``macs``.
        budget: maximum cost, in parameters or MACs.

    Raises:
        UserError: one unit per group already costs more.
    """
    low, high = 0.0, 1.0
    if costs.structure_cost(narrowed(groups, high))[cost] <= budget:
        return narrowed(groups, high)
    least = costs.structure_cost(narrowed(groups, low))[cost]
    if least > budget:
        raise UserError(
            f"a uniformly narrowed network costs at least {least:.0f} in {cost}, more than {budget:.0f}",
            "use a lower sparsity",
        )
    for _ in range(40):
        middle = (low + high) / 2
        fits = costs.structure_cost(narrowed(groups, middle))[cost] <= budget
        low, high = (middle, high) if fits else (low, middle)
    return narrowed(groups, low)
