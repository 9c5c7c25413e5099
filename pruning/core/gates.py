"""Hard-concrete gates over unit groups (arXiv 1712.01312), all of a network's gates in one vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Optional

import torch
from torch import Tensor, nn

from pruning.core.cost import CostModel
from pruning.core.structure import KeptUnits, Structure
from pruning.core.units import UnitGroup, select_kinds

SOFT = ("published", "one")


@dataclass(frozen=True)
class GateConfig:
    """Hard-concrete gates.

    Attributes:
        kinds: kinds of unit groups that get gates; None for every kind of the network.
        initial: mean of the initial log alpha. At 3, an open probability of .99 and a mean gate of .94.
        deviation: its standard deviation, so that equal units can part.
        temperature, left, right: beta, l and r of the stretched concrete distribution.
        soft: factor of kept units at evaluation, ``published`` (sigmoid(0.8 log alpha / beta), as in FLOP, CoFi and
            DPHuBERT) or ``one``.
    """

    kinds: Optional[tuple[str, ...]] = None
    initial: float = 3.0
    deviation: float = 0.01
    temperature: float = 2 / 3
    left: float = -0.1
    right: float = 1.1
    soft: str = "published"

    def __post_init__(self) -> None:
        if self.soft not in SOFT:
            raise ValueError(f"gates.soft is {self.soft!r}, not one of {', '.join(SOFT)}")
        if not self.left < 0 < 1 < self.right or self.temperature <= 0:
            raise ValueError("hard-concrete gates need left < 0, right > 1 and a positive temperature")


class HardConcreteGates(nn.Module):
    """One gate for every unit of the gated groups.

    Args:
        groups: all unit groups of the network.
        config: see `GateConfig`.
        seed: for the initial deviation.

    Raises:
        ValueError: a kind that the network does not have.
    """

    _member: Tensor
    _fixed: Tensor
    EPSILON = 1e-6
    LIMIT = 8.0  # |log alpha| beyond it saturates: P(open) = .0017 at -8

    def __init__(self, groups: Sequence[UnitGroup], config: GateConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.groups = list(groups)
        self.gated = select_kinds(self.groups, config.kinds)
        position = {group.name: index for index, group in enumerate(self.groups)}
        sizes = [group.size for group in self.gated]
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(sum(sizes), generator=generator)
        self.log_alpha = nn.Parameter(config.initial + config.deviation * noise)
        member = torch.repeat_interleave(torch.tensor([position[g.name] for g in self.gated]), torch.tensor(sizes))
        fixed = torch.tensor([0.0 if g in self.gated else float(g.size) for g in self.groups])
        self.register_buffer("_member", member, persistent=False)  # (U,) group of each gate
        self.register_buffer("_fixed", fixed, persistent=False)  # (G,) counts of groups without gates
        self._sizes = sizes
        parents = [position[g.parent] if g.parent is not None else -1 for g in self.groups]
        self._family = [(child, parent) for child, parent in enumerate(parents) if parent >= 0]

    @torch.no_grad()
    def limit(self) -> None:
        """Bring log alpha back into its range; to be called after every optimiser step.

        A clamp inside the forward pass would leave gates beyond the limit without gradient, shut for good.
        """
        self.log_alpha.clamp_(-self.LIMIT, self.LIMIT)

    def open_probability(self) -> Tensor:
        """``P(z > 0) = sigmoid(log alpha - beta ln(-l / r))`` of every gate, ``(U,)``."""
        shift = self.config.temperature * math.log(-self.config.left / self.config.right)
        return torch.sigmoid(self.log_alpha - shift)

    def sample(self) -> Tensor:
        """A stochastic gate for every unit, ``(U,)`` in [0, 1], from torch's global generator."""
        noise = torch.empty_like(self.log_alpha).uniform_(self.EPSILON, 1 - self.EPSILON)
        logit = (noise.log() - (1 - noise).log() + self.log_alpha) / self.config.temperature
        stretched = torch.sigmoid(logit) * (self.config.right - self.config.left) + self.config.left
        return stretched.clamp(0.0, 1.0)

    def masks(self, values: Tensor) -> dict[str, Tensor]:
        """Split gate ``values (U,)`` into masks by group name."""
        return {group.name: part for group, part in zip(self.gated, values.split(self._sizes))}

    def expected_counts(self) -> Tensor:
        """Expected number of open gates of every group, ``(G,)``; groups without gates count whole.

        A group's count is that of its own gates; the cost multiplies it by its module's.
        """
        return self._fixed.index_add(0, self._member, self.open_probability())

    # Hard structures, for evaluation and extraction

    def rule(self) -> Tensor:
        """Which gates are open at evaluation, ``(U,)`` bool: each group closes ``round(n - E||z||_0)`` smallest."""
        keep = torch.ones(self.log_alpha.numel(), dtype=torch.bool)
        alpha, probability = self.log_alpha.detach().cpu(), self.open_probability().detach().cpu()
        start = 0
        for group in self.gated:
            part = slice(start, start + group.size)
            closed = int(torch.round(group.size - probability[part].double().sum()).item())
            closed = min(closed, group.size - group.minimum)
            keep[start + alpha[part].argsort()[:closed]] = False
            start += group.size
        return keep

    def hard_counts(self, keep: Tensor) -> Tensor:
        """Counts ``(G,)`` that ``keep (U,)`` leaves, emptied modules and units of closed modules taken off."""
        member, fixed = self._member.cpu(), self._fixed.cpu()
        counts = fixed.double().index_add(0, member, keep.double())
        for child, parent in self._family:
            if counts[child] == 0:
                counts[parent] = 0
        for child, parent in self._family:
            if counts[parent] == 0:
                counts[child] = 0
        return counts

    def fitted(self, costs: CostModel, targets: Mapping[str, float]) -> Tensor:
        """Open gates, ``(U,)`` bool, by the rule and then moved to the targets.

        On short runs many gates stay undecided and the rule misses the target by several points. Units nearest to
        the rule's threshold are opened (or closed) in the order of their log alpha until the sparsity would pass the
        target; then units of the groups that are still fine enough fill what is left. Modules stay as the rule has
        them unless units alone do not suffice.

        One order of flips cannot meet several targets at once: the cost that is furthest below its target (or least
        above it) comes to it, and the others end above theirs.
        """
        keep = self.rule()

        def excess(candidate: Tensor) -> float:
            counts = self.hard_counts(candidate)
            return min(costs.sparsity(counts, cost).item() - target for cost, target in targets.items())

        candidates = [keep]
        for _ in range(4):  # a module that opens brings many units at once: what it overshoots is then taken back
            opening = excess(keep) > 0
            order = self._flip_order(keep, opening)
            before, keep = self._bracket(keep, order, opening, excess)
            filled = self._filled(before, order, opening, excess)
            candidates += [before, filled, keep]
        return min(candidates, key=lambda candidate: abs(excess(candidate)))

    @staticmethod
    def _bracket(
        keep: Tensor, order: Tensor, opening: bool, excess: Callable[[Tensor], float]
    ) -> tuple[Tensor, Tensor]:
        """The last state before flips in ``order`` pass the target, and the first one after it."""
        low, high = 0, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            passed = (excess(_flipped(keep, order[:middle], opening)) > 0) != opening
            low, high = (low, middle) if passed else (middle, high)
        return _flipped(keep, order[:low], opening), _flipped(keep, order[:high], opening)

    def _filled(self, keep: Tensor, order: Tensor, opening: bool, excess: Callable[[Tensor], float]) -> Tensor:
        """Flip more of ``order``, group by group, as many units as stay on this side of the target."""
        order = order[keep[order] != opening]
        queues = {int(group): order[self._member.cpu()[order] == group] for group in self._member.cpu()[order].unique()}
        gap = abs(excess(keep))
        for group in sorted(queues, key=lambda index: int((order == queues[index][0]).nonzero())):
            queue = queues[group]
            step = gap - abs(excess(_flipped(keep, queue[:1], opening)))  # what one unit brings
            count = min(len(queue), int(gap / step)) if step > 0 else 0
            candidate = _flipped(keep, queue[:count], opening)
            rest = excess(candidate)
            if count and (rest > 0) == opening and abs(rest) < gap:
                keep, gap = candidate, abs(rest)
        return keep

    def _flip_order(self, keep: Tensor, opening: bool) -> Tensor:
        """Gates that may be flipped, ``(K,)``, by log alpha: units of open modules first, then whole modules."""
        alpha = self.log_alpha.detach().cpu().double()
        member = self._member.cpu()
        counts = self.hard_counts(keep)
        parent_open = torch.ones(len(self.groups), dtype=torch.bool)
        is_module = torch.zeros(len(self.groups), dtype=torch.bool)
        for child, parent in self._family:
            parent_open[child] = counts[parent] > 0
            is_module[parent] = True
        protected = torch.zeros_like(keep)
        start = 0
        for group in self.gated:  # the best units of a group that must not empty stay
            best = alpha[start : start + group.size].argsort(descending=True)[: group.minimum]
            protected[start + best] = True
            start += group.size
        if opening:
            late = is_module[member] | ~parent_open[member]
            key = alpha - 1e3 * late.double()
            return key.masked_fill(keep, -math.inf).argsort(descending=True)[: int((~keep).sum())]
        movable = keep & ~protected & parent_open[member]
        key = alpha + 1e3 * is_module[member].double()
        return key.masked_fill(~movable, math.inf).argsort()[: int(movable.sum())]

    def structure(self, keep: Optional[Tensor] = None) -> Structure:
        """The structure of ``keep (U,)`` (the rule's for None), with soft scales and with log alpha as scores."""
        keep = self.rule() if keep is None else keep
        alpha = self.log_alpha.detach().cpu()
        scale = torch.sigmoid(0.8 * alpha / self.config.temperature)
        kept: dict[str, KeptUnits] = dict(Structure.dense(self.groups).groups)
        start = 0
        for group in self.gated:
            part = slice(start, start + group.size)
            units = [int(unit) for unit in torch.nonzero(keep[part]).flatten()]
            soft = None if self.config.soft == "one" else tuple(float(s) for s in scale[part][units])
            scores = tuple(float(a) for a in alpha[part])
            kept[group.name] = replace(kept[group.name], kept=tuple(units), scale=soft, scores=scores)
            start += group.size
        return Structure(kept).resolved(self.groups)


def _flipped(keep: Tensor, gates: Tensor, opening: bool) -> Tensor:
    """A copy of ``keep (U,)`` in which ``gates (K,)`` are open or closed."""
    result = keep.clone()
    result[gates] = opening
    return result
