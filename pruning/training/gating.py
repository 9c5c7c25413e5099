"""L0 pruning of any network in training: gates, masks, cost and constraint, behind what a task's step needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional, cast

import torch
from torch import Tensor, nn

from pruning.core.constraint import ConstraintConfig, Lagrangian, check_reachable, ramp
from pruning.core.cost import CostModel
from pruning.core.gates import GateConfig, HardConcreteGates
from pruning.core.masking import Masker
from pruning.core.prunable import Prunable
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.training.task import ParameterGroup, StepInfo

TOLERANCE = 0.01  # a checkpoint may be chosen only this near to the target


@dataclass(frozen=True)
class GatingConfig:
    """L0 gates and their constraint in a training run.

    Attributes:
        gates: the hard-concrete gates.
        constraint: the cost and its target.
        gate_lr: constant learning rate of log alpha. Published rates (2e-2) assume tens of thousands of steps; a gate
            needs some ``7 / gate_lr`` steps to close.
        multiplier_lr: constant learning rate of the Lagrange multipliers, which ascend.
    """

    gates: GateConfig = GateConfig()
    constraint: ConstraintConfig = ConstraintConfig()
    gate_lr: float = 0.02
    multiplier_lr: float = 0.02


class Gating(nn.Module):
    """Gates over a network's units with the Lagrangian that brings their expected cost to its target.

    Args:
        model: a network that declares its units (see `pruning.core.prunable.Prunable`).
        config: see `GatingConfig`.
        frames: input frames at which MACs are counted.
        seed: for the gates' initial values.

    Raises:
        UserError: the target is beyond reach with the enabled kinds, or a kind is unknown.
    """

    def __init__(self, model: nn.Module, config: GatingConfig, frames: int, seed: int = 0) -> None:
        super().__init__()
        prunable = cast(Prunable, model)
        self.config = config
        groups = prunable.unit_groups()
        try:
            self.gates = HardConcreteGates(groups, config.gates, seed)
        except ValueError as error:
            raise UserError(str(error), "correct gates.kinds") from None
        self.costs = CostModel(groups, prunable.cost_terms(frames))
        self.targets = config.constraint.targets()
        check_reachable(self.costs, self.gates.gated, self.targets)
        self.lagrangian = Lagrangian(self.targets)
        self._masker = [Masker(model, groups)]  # in a list: the network is the task's, not a submodule of this
        self._structure: Optional[Structure] = None  # of the last validation, until gates move again

    @property
    def masker(self) -> Masker:
        """Applies masks to the network."""
        return self._masker[0]

    def share(self, step: StepInfo) -> float:
        """Position of the target's ramp, in [0, 1]."""
        if step.total_steps is None:
            raise UserError("the sparsity ramp needs to know where training ends", "set max_steps")
        progress = step.step / max(1.0, self.config.constraint.ramp_share * step.total_steps)
        return ramp(self.config.constraint.ramp, progress)

    def masks(self, step: StepInfo) -> Mapping[str, Tensor]:
        """Sampled masks in training; in validation those of the structure that the ramp asks for now."""
        if step.training:
            self._structure = None
            return self.gates.masks(self.gates.sample())
        if self._structure is None:
            self._structure = self.structure(self.share(step))
        return self._structure.masks()

    def penalty(self, step: StepInfo) -> Tensor:
        """The Lagrangian penalty, a scalar; float32 whatever autocast says."""
        with torch.autocast(self.gates.log_alpha.device.type, enabled=False):
            counts = self.gates.expected_counts()
            sparsity = torch.stack([self.costs.sparsity(counts, cost) for cost in self.targets])
            return self.lagrangian(sparsity, self.share(step))

    def structure(self, share: float = 1.0) -> Structure:
        """The hard structure at ``share`` of the targets: the published rule, moved to them where it misses them."""
        keep = self.gates.fitted(self.costs, {cost: target * share for cost, target in self.targets.items()})
        return self.gates.structure(keep)

    def on_target(self, step: StepInfo) -> bool:
        """Whether the ramp has ended and the hard sparsity is within 0.01 of every target."""
        if self.share(step) < 1:
            return False
        reached = self.costs.structure_sparsity(self.structure())
        if len(self.targets) > 1:  # one family of flips cannot meet two targets exactly: none may be missed from below
            return all(reached[cost] > target - TOLERANCE for cost, target in self.targets.items())
        return all(abs(reached[cost] - target) <= TOLERANCE for cost, target in self.targets.items())

    def unselected(self, step: StepInfo) -> UserError:
        """Why a run that ends at ``step`` has no checkpoint on target, and what to do; to be raised."""
        if self.share(step) < 1:
            return UserError(
                f"training ended at step {step.step}, before the ramp of the target",
                "lower gating.constraint.ramp_share or train longer, in another --exp-dir",
            )
        if self.on_target(step):
            return UserError(
                "the sparsity is on target but the loss on the development set is not finite",
                "lower the learning rate or use trainer.amp=none, in another --exp-dir",
            )
        reached = self.costs.structure_sparsity(self.structure())
        missed = " and ".join(f"{reached[cost]:.3f} in {cost} for {goal:g}" for cost, goal in self.targets.items())
        return UserError(
            f"the hard sparsity ended at {missed}",
            "give gates to finer units (gating.gates.kinds) or ask for what was reached, in another --exp-dir",
        )

    @torch.no_grad()
    def log_values(self, step: StepInfo) -> dict[str, float]:
        """Expected sparsity, target, hard sparsity (by the rule alone, and as fitted) and multipliers of each cost."""
        expected, share = self.gates.expected_counts(), self.share(step)
        by_rule = self.gates.hard_counts(self.gates.rule())
        goals = {cost: target * share for cost, target in self.targets.items()}
        fitted = self.gates.hard_counts(self.gates.fitted(self.costs, goals))
        values: dict[str, float] = {}
        for index, cost in enumerate(self.targets):
            values[f"sparsity/{cost}/expected"] = self.costs.sparsity(expected, cost).item()
            values[f"sparsity/{cost}/target"] = goals[cost]
            values[f"sparsity/{cost}/hard_rule"] = self.costs.sparsity(by_rule, cost).item()
            values[f"sparsity/{cost}/hard"] = self.costs.sparsity(fitted, cost).item()
            values[f"multipliers/{cost}/linear"] = self.lagrangian.linear[index].item()
            values[f"multipliers/{cost}/quadratic"] = self.lagrangian.quadratic[index].item()
        values.update(self._kept_by_kind(fitted))
        return values

    def _kept_by_kind(self, counts: Tensor) -> dict[str, float]:
        """Share of the gated units of each kind that ``counts (G,)`` keeps."""
        kept: dict[str, float] = {}
        total: dict[str, int] = {}
        gated = {group.name for group in self.gates.gated}
        for group, count in zip(self.costs.groups, counts.tolist()):
            if group.name in gated:
                kept[group.kind] = kept.get(group.kind, 0.0) + count
                total[group.kind] = total.get(group.kind, 0) + group.size
        return {f"kept/{kind}": kept[kind] / total[kind] for kind in kept}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Gates descend, multipliers ascend; both outside weight decay, the norm clip and the weights' schedule."""
        config = self.config
        multipliers = (self.lagrangian.linear, self.lagrangian.quadratic)
        return [
            ParameterGroup("gates", (self.gates.log_alpha,), config.gate_lr, 0.0, clip=False, schedule="constant"),
            ParameterGroup(
                "multipliers", multipliers, config.multiplier_lr, 0.0, maximize=True, clip=False, schedule="constant"
            ),
        ]
