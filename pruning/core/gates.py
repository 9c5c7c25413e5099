"""Hard-concrete gates over unit groups (arXiv 1712.01312); one vector holds all gates of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Optional

import torch
from torch import Tensor, nn

from pruning.core.balance import balanced
from pruning.core.cost import CostModel
from pruning.core.selection import Selection
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.limits import NonNegative, OneOf, Positive, Range, check_ascending, check_fields

SOFT = ("published", "one")
CONSTANT, TAYLOR = STARTS = ("constant", "taylor")
KIND, NETWORK = WITHIN = ("kind", "network")
LIMIT = 8.0
"""Bound of abs(log alpha), beyond which gates saturate: P(open) = .0017 at -8."""
LogAlpha = Annotated[float, Range(least=-LIMIT, most=LIMIT)]


@dataclass(frozen=True)
class GateConfig:
    """Hard-concrete gates.

    Attributes:
        kinds: unit kinds that get gates; None for all unit kinds of the network except ``width`` (channels of the
            residual stream).
        initial: mean of the initial log alpha; 3 gives an open probability of .99 and a mean gate of .94.
        deviation: standard deviation of the initial log alpha, so that equal units can diverge.
        temperature, left, right: beta, l and r of the stretched concrete distribution.
        soft: factor of kept units at evaluation: ``published`` (sigmoid(0.8 log alpha / beta), as in FLOP, CoFi and
            DPHuBERT) or ``one``.
        start: initial log alpha: ``constant`` (``initial`` and ``deviation``), or by the ranks of the units' ``taylor``
            scores on some batches before training. In a few hundred steps gates learn little about single units, so
            that these scores tell them apart better.
        start_range: for ``taylor``, log alpha of the worst and of the best unit.
        start_within: for ``taylor``, among which units a unit is ranked: those of its ``kind``, or of the ``network``,
            with scores divided by the cost of a unit.
    """

    kinds: Optional[tuple[str, ...]] = None
    initial: LogAlpha = 3.0
    deviation: NonNegative = 0.01
    temperature: Positive = 2 / 3
    left: Annotated[float, Range(below=0)] = -0.1
    right: Annotated[float, Range(above=1)] = 1.1
    soft: Annotated[str, OneOf(SOFT)] = "published"
    start: Annotated[str, OneOf(STARTS)] = CONSTANT
    start_range: tuple[LogAlpha, LogAlpha] = (1.0, 7.0)
    start_within: Annotated[str, OneOf(WITHIN)] = KIND

    def __post_init__(self) -> None:
        object.__setattr__(self, "start_range", tuple(self.start_range))
        check_fields(self)
        if len(self.start_range) != 2:
            raise ValueError("l0.gates.start_range must be two values of log alpha, such as [1, 7]")
        check_ascending("l0.gates.start_range", self.start_range)


class HardConcreteGates(nn.Module):
    """One gate for every unit of the gated groups.

    Args:
        groups: all unit groups of the network.
        config: see `GateConfig`.
        seed: seed of the random part of the initial log alpha.

    Raises:
        ValueError: the network does not have a configured unit kind.
    """

    _member: Tensor
    _fixed: Tensor
    EPSILON = 1e-6

    def __init__(self, groups: Sequence[UnitGroup], config: GateConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.units = Selection(groups, config.kinds)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.units.num_units, generator=generator)
        self.log_alpha = nn.Parameter(config.initial + config.deviation * noise)
        self.register_buffer("_member", self.units.member, persistent=False)  # on the device of the gates
        self.register_buffer("_fixed", self.units.fixed, persistent=False)

    @torch.no_grad()
    def limit(self) -> None:
        """Clamp log alpha to its range; call this after every optimiser step.

        With a clamp in the forward pass, gates beyond the limit would get no gradient and stay closed for good.
        """
        self.log_alpha.clamp_(-LIMIT, LIMIT)

    def open_probability(self, log_alpha: Optional[Tensor] = None) -> Tensor:
        """Return ``P(z > 0) = sigmoid(log alpha - beta ln(-l / r))`` of each gate, ``(U,)``; None: of its own."""
        shift = self.config.temperature * math.log(-self.config.left / self.config.right)
        return torch.sigmoid((self.log_alpha if log_alpha is None else log_alpha) - shift)

    def sample(self) -> Tensor:
        """Sample the gate of each unit, ``(U,)`` in [0, 1], with torch's global generator."""
        noise = torch.empty_like(self.log_alpha).uniform_(self.EPSILON, 1 - self.EPSILON)
        logit = (noise.log() - (1 - noise).log() + self.log_alpha) / self.config.temperature
        stretched = torch.sigmoid(logit) * (self.config.right - self.config.left) + self.config.left
        return stretched.clamp(0.0, 1.0)

    def masks(self, values: Tensor) -> dict[str, Tensor]:
        """Split gate ``values (U,)`` into masks by group name."""
        return self.units.split(values)

    def expected_counts(self, log_alpha: Optional[Tensor] = None) -> Tensor:
        """Return the expected number of open gates in each group, ``(G,)``; groups without gates count whole.

        The count of a group covers only its own gates; the cost model multiplies it by the count of its module.

        Args:
            log_alpha: values ``(U,)`` to use instead of the gates' own.
        """
        return self._fixed.index_add(0, self._member, self.open_probability(log_alpha))

    @torch.no_grad()
    def start_from(self, scores: Tensor) -> None:
        """Set log alpha by the ranks of ``scores (U,)``, from low to high, evenly over ``config.start_range``."""
        low, high = self.config.start_range
        kinds = [group.kind for group, size in zip(self.units.chosen, self.units.sizes) for _ in range(size)]
        within = kinds if self.config.start_within == KIND else ["all"] * len(kinds)
        for name in set(within):
            places = torch.tensor([index for index, each in enumerate(within) if each == name])
            ranks = scores.cpu()[places].argsort(stable=True).argsort()
            shares = ranks / max(len(places) - 1, 1) if len(places) > 1 else torch.ones(1)
            self.log_alpha[places.to(self.log_alpha.device)] = (low + (high - low) * shares).to(self.log_alpha)

    # Hard structures, for evaluation and extraction

    def rule(self) -> Tensor:
        """Return the gates that are open at evaluation, ``(U,)`` bool.

        Each group closes its ``round(n - E||z||_0)`` smallest gates.
        """
        keep = torch.ones(self.log_alpha.numel(), dtype=torch.bool)
        alpha, probability = self.log_alpha.detach().cpu(), self.open_probability().detach().cpu()
        start = 0
        for group in self.units.chosen:
            part = slice(start, start + group.size)
            closed = int(torch.round(group.size - probability[part].double().sum()).item())
            closed = min(closed, group.size - group.minimum)
            keep[start + alpha[part].argsort()[:closed]] = False
            start += group.size
        return keep

    def fitted(self, costs: CostModel, targets: Mapping[str, float], fill: bool = True) -> Tensor:
        """Return the open gates, ``(U,)`` bool, by the rule and then moved to the targets (see `Selection.fitted`).

        In short runs many gates stay undecided, and the rule misses the target by several points. So the units nearest
        to the rule's threshold are opened or closed in the order of their log alpha. For two targets that share units,
        they are flipped in an order that meets both (see `pruning.core.balance`).
        """
        rule, alpha = self.rule(), self.log_alpha.detach().cpu()
        if len(targets) != 2 or costs.apart(list(targets)) is not None:
            return self.units.fitted(rule, alpha, costs, targets, fill=fill)
        start = self.units.with_all_units(rule)  # units that the rule closes are closed first

        def fit(order: Tensor, filled: bool) -> Tensor:
            return self.units.fitted(start, order, costs, targets, fill=filled and fill)

        ranks = alpha.argsort(stable=True).argsort() + len(alpha) * rule.long()
        return balanced(ranks, self.units, costs, targets, fit)

    def structure(self, keep: Optional[Tensor] = None) -> Structure:
        """Return the structure of ``keep (U,)`` (None: by the rule), with soft scales and log alpha as scores."""
        alpha = self.log_alpha.detach().cpu()
        soft = None if self.config.soft == "one" else torch.sigmoid(0.8 * alpha / self.config.temperature)
        return self.units.structure(self.rule() if keep is None else keep, alpha, soft)
