"""The augmented Lagrangian that brings the expected cost to its target (arXiv 1910.04732, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Optional

import torch
from torch import Tensor, nn

from pruning.core.cost import CostModel
from pruning.core.names import COSTS, LATENCY, RAMPS
from pruning.core.units import UnitGroup
from pruning.errors import UserError
from pruning.limits import Fraction, OneOf, Positive, Range, check_fields


@dataclass(frozen=True)
class ConstraintConfig:
    """What the small network may cost.

    Attributes:
        size: sparsity in parameters that is asked for, or 0 for no constraint on size.
        macs: the same for multiply-accumulates; of several, each has its own multipliers.
        latency: the same for the time of ``latency_table``.
        latency_table: JSON file that ``pruning.bin.latency`` measured on the network that is pruned.
        parts: the same for parts of the network, each by kinds of its cost: ``{size:frontend: 0.4, size:attention+ffn:
            0.5}``, with multipliers of its own.
        match: ``{macs: 0.5}``: the sparsity of another cost that the small network is to have, for comparisons at equal
            cost. The targets above are a first guess then, which gates raise or lower by one factor until it is met.
        seconds: audio length at which MACs are counted.
        ramp: ``linear`` or ``cubic`` growth of the target, or ``one_shot``: none, and then the whole of it.
        ramp_share: share of the run's steps over which it grows, or after which it is there.
    """

    size: Fraction = 0.5
    macs: Fraction = 0.0
    latency: Fraction = 0.0
    latency_table: Optional[str] = None
    parts: dict[str, Fraction] = field(default_factory=dict)
    match: dict[str, Annotated[float, Range(above=0, below=1)]] = field(default_factory=dict)
    seconds: Positive = 10.0
    ramp: Annotated[str, OneOf(RAMPS)] = "linear"
    ramp_share: Annotated[float, Range(above=0, most=1)] = 0.3

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.match) > 1 or not set(self.match) <= set(COSTS):
            raise ValueError(f"constraint.match has one of {' and '.join(COSTS)}")
        if not self.targets():
            raise ValueError("constraint: give a target for size, macs, latency or parts")
        if self.latency > 0 and self.latency_table is None:
            raise ValueError("constraint: latency needs a latency_table")

    def targets(self) -> dict[str, float]:
        """Constrained costs and their targets."""
        whole = {cost: getattr(self, cost) for cost in (*COSTS, LATENCY)}
        return {cost: target for cost, target in (*whole.items(), *self.parts.items()) if target > 0}

    def goals(self) -> dict[str, float]:
        """What the small network has to have: the targets, or the cost that it is to match."""
        return dict(self.match) or self.targets()


def ramp(kind: str, progress: float) -> float:
    """Share of the target at ``progress`` in [0, 1]: itself, ``1 - (1 - progress)^3``, or 0 till the end; 1 beyond."""
    progress = min(max(progress, 0.0), 1.0)
    if kind == "one_shot":
        return float(progress >= 1)
    return progress if kind == "linear" else 1 - (1 - progress) ** 3


def check_reachable(costs: CostModel, enabled: Sequence[UnitGroup], targets: Mapping[str, float]) -> None:
    """Refuse targets that closing everything would not reach.

    Raises:
        UserError: naming the reachable maximum.
    """
    reachable = costs.reachable(enabled)
    kinds = ", ".join(sorted({group.kind for group in enabled}))
    for cost, target in targets.items():
        if target > reachable[cost]:
            raise UserError(
                f"a sparsity of {target:g} in {cost} is beyond reach: "
                f"at most {math.floor(1e4 * reachable[cost]) / 1e4:.4f} with units of {kinds}",
                "lower the target or enable more kinds (gating.gates.kinds, criterion.kinds)",
            )


class Lagrangian(nn.Module):
    """``lambda1 (s - t) + lambda2 (s - t)^2`` for every constrained cost; the multipliers ascend from 0.

    Args:
        targets: cost -> final sparsity.
    """

    _goals: Tensor

    def __init__(self, targets: Mapping[str, float]) -> None:
        super().__init__()
        self.targets = dict(targets)
        self.linear = nn.Parameter(torch.zeros(len(self.targets)))
        self.quadratic = nn.Parameter(torch.zeros(len(self.targets)))
        self.register_buffer("_goals", torch.tensor([*self.targets.values()]), persistent=False)

    def forward(self, sparsity: Tensor, share: float) -> Tensor:
        """The penalty, a scalar.

        Args:
            sparsity: expected sparsity of each cost, ``(C,)``, in the order of ``targets``.
            share: what the targets are multiplied by: the position of the ramp, in [0, 1], and a level.
        """
        gap = sparsity - share * self._goals.to(sparsity)
        return (self.linear * gap + self.quadratic * gap**2).sum()
