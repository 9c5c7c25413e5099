"""Select the units to keep: bring an order of importance over the units of a network to a cost target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Optional

import torch
from torch import Tensor

from pruning.core.bits import Bits
from pruning.core.cost import CostModel
from pruning.core.structure import KeptUnits, Structure
from pruning.core.units import UnitGroup, families, select_kinds

_EXACT = 1e-6  # sparsity error that counts as exact


class Selection:
    """The units that a method chooses from, in one vector, and the network that remains for a choice.

    Args:
        groups: all unit groups of the network.
        kinds: unit kinds that may be removed; None for all unit kinds.

    Attributes:
        groups: all G unit groups.
        chosen: groups with units that may be removed.
        member: ``(U,)`` int64, index of the group of each unit that may be removed.
        fixed: ``(G,)`` sizes of the groups whose units all stay, 0 for the others.

    Raises:
        ValueError: the network does not have a unit kind of ``kinds``.
    """

    def __init__(self, groups: Sequence[UnitGroup], kinds: Optional[Sequence[str]] = None) -> None:
        self.groups = list(groups)
        self.chosen = select_kinds(self.groups, kinds)
        position = {group.name: index for index, group in enumerate(self.groups)}
        self.sizes = [group.size for group in self.chosen]
        places = torch.tensor([position[group.name] for group in self.chosen], dtype=torch.long)
        self.member = torch.repeat_interleave(places, torch.tensor(self.sizes, dtype=torch.long))
        names = {group.name for group in self.chosen}
        self.fixed = torch.tensor([0.0 if group.name in names else float(group.size) for group in self.groups])
        self._places, self._fixed_counts = places.tolist(), self.fixed.tolist()
        parents = [position[group.parent] if group.parent is not None else -1 for group in self.groups]
        self._family = [(child, parent) for child, parent in enumerate(parents) if parent >= 0]
        self._contents = [(position[module], [position[name] for name in contents])
                          for module, contents in reversed(families(self.groups).items())]  # fmt: skip
        self._users = [(child, [position[user] for user in group.users])
                       for child, group in enumerate(self.groups) if group.users]  # fmt: skip
        containing = {*parents, *(user for _, users in self._users for user in users)}
        self._is_module = torch.tensor([index in containing for index in range(len(self.groups))])

    @property
    def num_units(self) -> int:
        """Number U of units that may be removed."""
        return sum(self.sizes)

    def split(self, values: Tensor) -> dict[str, Tensor]:
        """Split ``values (U,)`` into a dictionary group name -> ``(size,)``."""
        return {group.name: part for group, part in zip(self.chosen, values.split(self.sizes))}

    def hard_counts(self, keep: Tensor) -> Tensor:
        """Return the counts ``(G,)`` that ``keep (U,)`` bool leaves; what cannot be used counts 0."""
        counts = list(self._fixed_counts)
        for place, part in zip(self._places, keep.split(self.sizes)):
            counts[place] = float(part.count_nonzero())
        for module, contents in self._contents:
            if not any(counts[child] for child in contents):
                counts[module] = 0.0
        for child, users in self._users:
            if not any(counts[user] for user in users):
                counts[child] = 0.0
        for child, parent in self._family:
            if counts[parent] == 0:
                counts[child] = 0.0
        return torch.tensor(counts, dtype=torch.float64)

    def fitted(
        self,
        keep: Tensor,
        scores: Tensor,
        costs: CostModel,
        targets: Mapping[str, float],
        may_open: Optional[Tensor] = None,
        fill: bool = True,
    ) -> Tensor:
        """Return ``keep (U,)`` moved to the targets by opening or closing units in the order of their scores.

        Units are closed from the lowest score up (or opened from the highest down) until the next one would pass the
        target. Then units of groups that are still fine enough fill the remaining gap. Modules stay as they are unless
        units alone do not suffice. Units on which no target depends stay as they are.

        Costs of parts that share no group are each brought to their target. Otherwise costs are brought to their
        targets one after the other, beginning with the one that is furthest below, by closing units that it depends
        on. The sparsity of costs that come later or share units may end above their targets.

        Args:
            keep: the units kept at the start, ``(U,)`` bool.
            scores: score of each unit, ``(U,)``; larger is more worth keeping, minus infinity closes early.
            costs: cost model of the network.
            targets: cost -> target sparsity.
            may_open: ``(U,)`` bool, units that may be opened; None for all.
            fill: whether to come as near to the targets as possible. False, for cuts on a ramp, stops where the next
                unit in order would pass the target and waits for it: if finer units filled the gap at each of many
                small cuts, the ramp would never remove a large unit such as a head.
        """
        ranks = scores.argsort(stable=True).argsort().double()  # independent of the scale of the scores
        for together, inside in self.separate(costs, targets):
            keep = self._moved(keep, ranks, costs, together, may_open, fill, inside)
        return keep

    def without_layers(
        self, keep: Tensor, scores: Tensor, costs: CostModel, targets: Mapping[str, float], meet: bool = True
    ) -> Tensor:
        """Return ``keep (U,)`` without the layers of the lowest scores, as many as the targets need; each goes whole.

        A layer has the score of its best unit. Units outside layers stay, and those on which no target depends.

        Args:
            keep, scores, costs, targets: see `fitted`.
            meet: whether to remove layers until no sparsity is below its target, so that it may end above it. False,
                for cuts on a ramp, stops before the layer that would pass a target, and waits for it.
        """
        numbers = [-1 if group.layer is None else group.layer for group in self.chosen]
        layer = torch.repeat_interleave(torch.tensor(numbers), torch.tensor(self.sizes))
        closable = ~self._protected(scores.argsort(stable=True).argsort().double())
        order = sorted(set(numbers) - {-1}, key=lambda number: scores[layer == number].max().item())
        for together, inside in self.separate(costs, targets):

            def excess(candidate: Tensor, together: Mapping[str, float] = together) -> float:
                counts = self.hard_counts(candidate)
                return min(costs.sparsity(counts, cost).item() - target for cost, target in together.items())

            for number in order:
                fewer = keep & ~(inside & closable & (layer == number))
                if excess(keep) >= -_EXACT or not meet and excess(fewer) > _EXACT:
                    break
                keep = fewer
        return keep

    def separate(self, costs: CostModel, targets: Mapping[str, float]) -> list[tuple[dict[str, float], Tensor]]:
        """Return the targets that must be met together, and the units on which they depend, ``(U,)`` bool."""
        apart = costs.apart(list(targets))
        together = [dict(targets)] if apart is None else [{cost: targets[cost]} for cost in apart]
        return [(some, self.priced(costs, some)) for some in together]

    def priced(self, costs: CostModel, of: Iterable[str]) -> Tensor:
        """Return the units on which one of the costs ``of`` depends, ``(U,)`` bool."""
        names = {name for cost in of for name in costs.groups_of(cost)}
        return torch.tensor([group.name in names for group in self.groups])[self.member]

    def _moved(
        self,
        keep: Tensor,
        ranks: Tensor,
        costs: CostModel,
        targets: Mapping[str, float],
        may_open: Optional[Tensor],
        fill: bool,
        inside: Tensor,
    ) -> Tensor:
        """See `fitted`; units outside ``inside (U,)`` bool stay as they are."""
        if len(targets) > 1 and (behind := self._behind(keep, costs, targets)):
            for cost in behind:
                if not self._behind(keep, costs, {cost: targets[cost]}):
                    continue  # already met by units closed for another cost
                of_cost = inside & self.priced(costs, [cost])
                keep = self._moved(keep, ranks, costs, {cost: targets[cost]}, keep, fill, of_cost)
            return keep

        def excess(candidate: Tensor) -> float:
            counts = self.hard_counts(candidate)
            return min(costs.sparsity(counts, cost).item() - target for cost, target in targets.items())

        candidates = [keep]
        for _ in range(4):  # opening a module adds many units at once; the next pass corrects the overshoot
            opening = excess(keep) > 0
            order = self._flip_order(keep, ranks, opening)
            if opening and may_open is not None:
                order = order[may_open[order]]
            order = order[inside[order]]
            before, keep = _bracket(keep, order, opening, excess)
            if not fill and not opening:
                return before
            if abs(excess(before)) <= _EXACT:  # with single weights in the first pass
                return min([*candidates, before], key=lambda candidate: abs(excess(candidate)))
            filled = self._filled(before, order, opening, excess)
            candidates += [before, filled, keep]
        return min(candidates, key=lambda candidate: abs(excess(candidate)))

    def _behind(self, keep: Tensor, costs: CostModel, targets: Mapping[str, float]) -> list[str]:
        """Return the costs whose sparsity is below its target, the furthest first."""
        counts = self.hard_counts(keep)
        lack = {cost: target - costs.sparsity(counts, cost).item() for cost, target in targets.items()}
        return sorted((cost for cost in lack if lack[cost] > 0), key=lambda cost: -lack[cost])

    def _filled(self, keep: Tensor, order: Tensor, opening: bool, excess: Callable[[Tensor], float]) -> Tensor:
        """Flip more units of ``order`` without passing the target, skipping groups whose next unit is too large."""
        while True:
            order = order[keep[order] != opening]
            if not len(order):
                return keep
            order = order[self.member[order] != self.member[order[0]]]
            keep, _ = _bracket(keep, order, opening, excess)

    def _flip_order(self, keep: Tensor, ranks: Tensor, opening: bool) -> Tensor:
        """Return the units that may be flipped, ``(K,)``, by rank: units of open modules first, then whole modules."""
        counts = self.hard_counts(keep)
        parent_open = torch.ones(len(self.groups), dtype=torch.bool)
        for child, parent in self._family:
            parent_open[child] = counts[parent] > 0
        for child, users in self._users:
            parent_open[child] &= any(counts[user] > 0 for user in users)
        later = float(len(ranks))
        if opening:
            late = self._is_module[self.member] | ~parent_open[self.member]
            key = ranks - later * late.double()
            return key.masked_fill(keep, -math.inf).argsort(descending=True)[: int((~keep).sum())]
        movable = keep & ~self._protected(ranks) & parent_open[self.member]
        key = ranks + later * self._is_module[self.member].double()
        return key.masked_fill(~movable, math.inf).argsort()[: int(movable.sum())]

    def _protected(self, ranks: Tensor) -> Tensor:
        """Return the units that must stay, ``(U,)`` bool: the best ones of a group that has a minimum."""
        protected = torch.zeros(len(ranks), dtype=torch.bool)
        start = 0
        for group in self.chosen:
            if group.minimum:
                best = ranks[start : start + group.size].argsort(descending=True)[: group.minimum]
                protected[start + best] = True
            start += group.size
        return protected

    def with_all_units(self, keep: Tensor) -> Tensor:
        """Return ``keep (U,)`` with all units open except whole modules."""
        return keep | ~self._is_module[self.member]

    def settled(self, keep: Tensor) -> Tensor:
        """Return ``keep (U,)`` with all units of a group open if it keeps more than its ``worthwhile`` count."""
        keep = keep.clone()
        for group, part in zip(self.chosen, keep.split(self.sizes)):
            if group.settled(int(part.sum())) == group.size:
                part.fill_(True)
        return keep

    def structure(self, keep: Tensor, scores: Tensor, scale: Optional[Tensor] = None) -> Structure:
        """Return the structure of ``keep (U,)``.

        Args:
            keep: the kept units, ``(U,)`` bool.
            scores: score of each unit, ``(U,)``; stored in the structure so that counts can be rounded.
            scale: factor of each kept unit, ``(U,)``; None for 1.
        """
        kept: dict[str, KeptUnits] = dict(Structure.dense(self.groups).groups)
        keep, start = self.settled(keep), 0
        for group in self.chosen:
            part = slice(start, start + group.size)
            if group.single:  # no scores, which would be as large as the weights
                kept[group.name] = replace(kept[group.name], kept=Bits(keep[part]))
                start += group.size
                continue
            units = [int(unit) for unit in torch.nonzero(keep[part]).flatten()]
            soft = None if scale is None else tuple(float(factor) for factor in scale[part][units])
            of_group = tuple(float(score) for score in scores[part])
            kept[group.name] = replace(kept[group.name], kept=tuple(units), scale=soft, scores=of_group)
            start += group.size
        return Structure(kept).resolved(self.groups)


def _bracket(keep: Tensor, order: Tensor, opening: bool, excess: Callable[[Tensor], float]) -> tuple[Tensor, Tensor]:
    """Return the last state before flips in ``order`` pass the target, and the first state after that."""
    low, high = 0, len(order) + 1
    while high - low > 1:
        middle = (low + high) // 2
        passed = (excess(_flipped(keep, order[:middle], opening)) > 0) != opening
        low, high = (low, middle) if passed else (middle, high)
    return _flipped(keep, order[:low], opening), _flipped(keep, order[:high], opening)


def _flipped(keep: Tensor, units: Tensor, opening: bool) -> Tensor:
    """Return a copy of ``keep (U,)`` in which ``units (K,)`` are open or closed."""
    result = keep.clone()
    result[units] = opening
    return result
