"""Augmented Lagrangian that drives the expected cost to its target (arXiv 1910.04732, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Optional

import torch
from torch import Tensor, nn

from pruning.core.cost import CostModel
from pruning.core.names import COSTS, LATENCY, MACS, RAMPS, SIZE
from pruning.core.units import UnitGroup
from pruning.errors import UserError
from pruning.limits import Fraction, OneOf, Positive, Range, check_fields


@dataclass(frozen=True)
class ConstraintConfig:
    """Cost targets of the small network.

    Attributes:
        size: target sparsity in parameters, or 0 for no constraint on size.
        macs: target sparsity in multiply-accumulates, or 0. Each constrained cost has its own multipliers.
        latency: target sparsity in the time that ``latency_table`` gives, or 0.
        latency_table: JSON file that ``pruning.bin.latency`` measured on the network to prune.
        parts: target sparsities of parts of the network. A key names a cost and the kinds of its terms:
            ``{size:frontend: 0.4, size:attention+ffn: 0.5}``. Each part has its own multipliers.
        match: ``{macs: 0.5}``: sparsity of another cost that the small network must reach, for comparisons at equal
            cost. The targets above are then a first guess; the gates scale all of them by one factor until it is met.
        seconds: audio length in seconds at which MACs are counted.
        ramp: schedule of the target: ``linear`` or ``cubic`` growth, or ``one_shot``: 0 first, then the whole target.
        ramp_share: share of the training steps over which the target grows, or after which ``one_shot`` sets it.
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
            raise ValueError(f"constraint.match must name exactly one of {' and '.join(COSTS)}")
        if not self.targets():
            raise ValueError("constraint: give a target for size, macs, latency or parts")
        if self.latency > 0 and self.latency_table is None:
            raise ValueError("constraint: latency needs a latency_table")

    def targets(self) -> dict[str, float]:
        """Return the constrained costs and their target sparsities."""
        whole = {cost: getattr(self, cost) for cost in (*COSTS, LATENCY)}
        return {cost: target for cost, target in (*whole.items(), *self.parts.items()) if target > 0}

    def goals(self) -> dict[str, float]:
        """Return the sparsities that the small network must have: ``match`` if it is set, else the targets."""
        return dict(self.match) or self.targets()

    def after_cut(self, left: Mapping[str, float]) -> ConstraintConfig:
        """Return the targets for a network that was cut before, so that they are met of the dense network.

        Args:
            left: cost -> share of the dense network's cost that the network still has.

        Raises:
            UserError: a target is not beyond the first cut, or is not one of size or MACs.
        """
        if self.parts or self.match or self.latency > 0:
            raise UserError("a further cut can have targets of size and MACs only",
                            "leave out constraint.parts, match and latency")  # fmt: skip
        rest = {cost: further(target, left, cost, f"constraint.{cost}") for cost, target in self.targets().items()}
        return replace(self, size=rest.get(SIZE, 0.0), macs=rest.get(MACS, 0.0))


def further(target: float, left: Mapping[str, float], cost: str, key: str) -> float:
    """Return the sparsity of a network that was cut before at which the dense network's has the sparsity ``target``.

    Args:
        target: sparsity in ``cost`` of the dense network.
        left: cost -> share of the dense network's cost that the network still has.
        cost: one of the costs.
        key: key of the target in the configuration, for the message.

    Raises:
        UserError: the target is not beyond the first cut.
    """
    rest = 1 - (1 - target) / left[cost]
    if rest <= 0:
        raise UserError(f"the network already has a sparsity of {1 - left[cost]:.4f} in {cost}", f"set {key} above it")
    return rest


def ramp(kind: str, progress: float) -> float:
    """Return the share of the target at ``progress``, which is clamped to [0, 1].

    ``linear`` gives ``progress``, ``cubic`` ``1 - (1 - progress)^3``, ``one_shot`` 0 before the end and 1 from then on.
    """
    progress = min(max(progress, 0.0), 1.0)
    if kind == "one_shot":
        return float(progress >= 1)
    return progress if kind == "linear" else 1 - (1 - progress) ** 3


def check_reachable(costs: CostModel, enabled: Sequence[UnitGroup], targets: Mapping[str, float]) -> None:
    """Reject targets that cannot be reached even if all units that may be removed are closed.

    Raises:
        UserError: a target is beyond reach; the message gives the reachable maximum.
    """
    reachable = costs.reachable(enabled)
    kinds = ", ".join(sorted({group.kind for group in enabled}))
    for cost, target in targets.items():
        if target > reachable[cost]:
            raise UserError(
                f"a sparsity of {target:g} in {cost} is beyond reach: "
                f"at most {math.floor(1e4 * reachable[cost]) / 1e4:.4f} with the unit kinds {kinds}",
                "lower the target or enable more unit kinds (l0.gates.kinds, criterion.kinds)",
            )


class Lagrangian(nn.Module):
    """Penalty ``lambda1 (s - t) + lambda2 (s - t)^2``, summed over constrained costs; multipliers ascend from 0.

    Args:
        targets: cost -> final target sparsity.
    """

    _goals: Tensor

    def __init__(self, targets: Mapping[str, float]) -> None:
        super().__init__()
        self.targets = dict(targets)
        self.linear = nn.Parameter(torch.zeros(len(self.targets)))
        self.quadratic = nn.Parameter(torch.zeros(len(self.targets)))
        self.register_buffer("_goals", torch.tensor([*self.targets.values()]), persistent=False)

    def forward(self, sparsity: Tensor, share: float) -> Tensor:
        """Return the penalty, a scalar.

        Args:
            sparsity: expected sparsity of each cost, ``(C,)``, in the order of ``targets``.
            share: factor of all targets: the position of the ramp in [0, 1] times the level of ``constraint.match``.
        """
        gap = sparsity - share * self._goals.to(sparsity)
        return (self.linear * gap + self.quadratic * gap**2).sum()
