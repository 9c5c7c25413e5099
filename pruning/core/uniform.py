"""Uniformly narrowed structures: the baseline that every reader asks for."""

from __future__ import annotations

from collections.abc import Sequence

from pruning.core.cost import CostModel
from pruning.core.structure import KeptUnits, Structure
from pruning.core.units import UnitGroup
from pruning.errors import UserError


def narrowed(groups: Sequence[UnitGroup], ratio: float) -> Structure:
    """Every group of units cut to ``ratio`` of its size (rounded down, at least one unit); modules all stay.

    Which units are kept says nothing here (the first ones): the structure is meant for a network trained from scratch
    or for counts.
    """
    parents = {group.parent for group in groups}
    kept = {}
    for group in groups:
        count = group.size if group.name in parents else max(1, group.minimum, int(ratio * group.size + 1e-9))
        kept[group.name] = KeptUnits(group.kind, group.size, tuple(range(count)))
    return Structure(kept)


def uniform_structure(groups: Sequence[UnitGroup], costs: CostModel, cost: str, budget: float) -> Structure:
    """The widest uniformly narrowed structure that costs at most ``budget``.

    Args:
        groups: the dense network's unit groups.
        costs: its cost.
        cost: ``size`` or ``macs``.
        budget: parameters or MACs, in the cost model's units.

    Raises:
        UserError: even one unit a group costs more.
    """
    low, high = 0.0, 1.0
    if costs.structure_cost(narrowed(groups, high))[cost] <= budget:
        return narrowed(groups, high)
    least = costs.structure_cost(narrowed(groups, low))[cost]
    if least > budget:
        raise UserError(
            f"a uniformly narrowed network costs at least {least:.0f} in {cost}, more than {budget:.0f}",
            "compare at a lower sparsity",
        )
    for _ in range(40):
        middle = (low + high) / 2
        fits = costs.structure_cost(narrowed(groups, middle))[cost] <= budget
        low, high = (middle, high) if fits else (low, middle)
    return narrowed(groups, low)
