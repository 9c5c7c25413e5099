"""L0 pruning: gates over units that are trained together with the weights under a Lagrangian."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Optional

import torch
from torch import Tensor, nn

from pruning.core.constraint import ConstraintConfig, Lagrangian
from pruning.core.gate_shift import GateShift
from pruning.core.gate_steps import KindSteps
from pruning.core.gates import NETWORK, TAYLOR, GateConfig, HardConcreteGates
from pruning.core.prunable import Prunable, prunable
from pruning.core.ranking import normalised
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.limits import Count, NonNegative, OneOf, check_fields
from pruning.methods.base import TOLERANCE, Pruner, Scorer
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from pruning.training.task import ParameterGroup, StepInfo

_HALVINGS, _FINE_HALVINGS = 10, 6  # bisection steps of the search for a level, and of the finer search around it
_AROUND = 0.1  # relative half-width of the finer search
_MATCHED_EVERY = 50  # steps between two updates of the level
MULTIPLIERS, SHIFT = CONTROLS = ("multipliers", "shift")
OWN, KIND = STEPS = ("own", "kind")


@dataclass(frozen=True)
class L0Config:
    """L0 gates in a training run.

    Attributes:
        gates: configuration of the hard-concrete gates.
        gate_lr: constant learning rate of log alpha. Published rates (2e-2) assume tens of thousands of steps; a gate
            needs about ``7 / gate_lr`` steps to close.
        multiplier_lr: constant learning rate of the Lagrange multipliers, which ascend.
        start_batches: number of batches for ``gates.start: taylor``.
        control: what keeps the expected sparsity on the target: ``multipliers``, as published, or ``shift``: after each
            step all gates are shifted together, see `pruning.core.gate_shift`, and there are no multipliers.
        gate_steps: steps of log alpha: ``own``, by Adam as published, or ``kind``, in proportion to the gradients among
            the units of a kind, see `pruning.core.gate_steps`.
    """

    gates: GateConfig = GateConfig()
    gate_lr: NonNegative = 0.02
    multiplier_lr: NonNegative = 0.02
    start_batches: Count = 50
    control: Annotated[str, OneOf(CONTROLS)] = MULTIPLIERS
    gate_steps: Annotated[str, OneOf(STEPS)] = OWN

    def __post_init__(self) -> None:
        check_fields(self)


class Gating(Pruner):
    """Gates over the units of a network, with the Lagrangian that drives their expected cost to its target.

    Args:
        model: a network that declares its units (see `pruning.core.prunable.Prunable`).
        config: see `L0Config`.
        constraint: the costs and their targets.
        frames: number of input frames at which MACs are counted.
        seed: seed of the initial values of the gates.
        view: view of the model that declares the units, e.g. with its residual width; None: the model itself.

    Raises:
        UserError: the target is beyond reach with the enabled unit kinds, a unit kind is unknown, or ``shift`` is asked
            for targets that depend on the same units.
    """

    level: Optional[Tensor]
    least: Tensor

    def __init__(
        self,
        model: nn.Module,
        config: L0Config,
        constraint: ConstraintConfig,
        frames: int,
        seed: int = 0,
        view: Optional[Prunable] = None,
    ) -> None:
        view = prunable(model) if view is None else view
        try:
            gates = HardConcreteGates(view.unit_groups(), config.gates, seed)
        except ValueError as error:
            raise UserError(str(error), "correct l0.gates.kinds") from None
        super().__init__(model, gates.units, constraint, frames, view)
        self.config = config
        self.gates = gates
        # factor of all targets for constraint.match; part of the state from which a run resumes
        self.register_buffer("level", torch.ones(()) if constraint.match else None)
        self.lagrangian = Lagrangian(self.targets)
        self.steps = KindSteps(gates.units) if config.gate_steps == KIND else None
        self._frames, self._seed = frames, seed
        self._shift: Optional[GateShift] = None
        if config.control == SHIFT:
            try:
                self._shift = GateShift(gates, self.costs, self.targets)
            except ValueError as error:
                raise UserError(
                    f"l0.control is shift, but {error}", "set one target, or l0.control=multipliers"
                ) from None
            self.lagrangian.requires_grad_(False)
        self._remember_start()
        self._structure: Optional[Structure] = None  # cached in validation, until gates move again

    def _remember_start(self) -> None:
        """Remember the expected sparsity before training, below which the gates are not shifted."""
        if self._shift is not None:
            least = torch.tensor([*self.expected().values()], device=self.gates.log_alpha.device)
            self.register_buffer("least", least)

    def scorer(self) -> Optional[Scorer]:
        """Return a pruner that scores the units that have gates, if they start from scores."""
        if self.config.gates.start != TAYLOR:
            return None
        kinds = tuple(dict.fromkeys(group.kind for group in self.units.chosen))
        config = CriterionConfig(kinds=kinds, decay=1.0)
        return CriterionPruning(self.network, TAYLOR, config, self.constraint, self._frames, self._seed, view=self.view)

    def start_from(self, scores: Tensor) -> None:
        """Set log alpha by the ranks of ``scores (U,)``, see `pruning.core.gates.GateConfig`."""
        if self.config.gates.start_within == NETWORK:
            cost = next(iter(self.targets)).partition(":")[0]
            scores = normalised(scores, self.units, self.costs, cost, "cost")
        self.gates.start_from(scores)
        self._remember_start()

    def masks(self, step: StepInfo) -> Mapping[str, Tensor]:
        """Return sampled masks in training; in validation those of the structure at the current ramp position."""
        if step.training:
            self._structure = None
            return self.gates.masks(self.gates.sample())
        if self._structure is None:
            self._structure = self.structure(self.share(step))
        return self._structure.masks()

    def penalty(self, step: StepInfo) -> Tensor:
        """Return the Lagrangian penalty, a scalar, in float32 even under autocast; 0 if gates are shifted instead."""
        if self._shift is not None:
            return super().penalty(step)
        with torch.autocast(self.gates.log_alpha.device.type, enabled=False):
            counts = self.gates.expected_counts()
            sparsity = torch.stack([self.costs.sparsity(counts, cost) for cost in self.targets])
            return self.lagrangian(sparsity, self._asked(step))

    def untrained(self) -> str:
        """Return that the multipliers of the constraint, or the gates, did not move."""
        if self._shift is not None:
            moved = any(abs(now - start) > 1e-6 for now, start in zip(self.expected().values(), self.least.tolist()))
            return "" if moved else "the gates did not move"
        return "" if bool(self.lagrangian.linear.any()) else "the multipliers of the constraint did not move"

    def expected(self) -> dict[str, float]:
        """Return the expected sparsity of each target, which training brings to it."""
        counts = self.gates.expected_counts().detach()
        return {cost: self.costs.sparsity(counts, cost).item() for cost in self.targets}

    def hard_counts(self) -> Tensor:
        """Return the counts ``(G,)`` by the published rule alone."""
        return self.units.hard_counts(self.gates.rule())

    def structure(self, share: float = 1.0) -> Structure:
        """Return the hard structure at ``share`` of the goals: that of the published rule, moved to the goals."""
        keep = self._keep(share * self._level(share))
        for cost, wanted in self.constraint.match.items():
            reached = self.costs.sparsity(self.units.hard_counts(keep), cost).item()
            if abs(reached - wanted * share) > TOLERANCE / 2:  # too coarse: flip any units that come nearer
                alpha = self.gates.log_alpha.detach().cpu()
                keep = self.units.fitted(keep, alpha, self.costs, {cost: wanted * share})
        return self.gates.structure(keep)

    def _keep(self, share: float, fill: bool = True) -> Tensor:
        return self.gates.fitted(self.costs, {cost: target * share for cost, target in self.targets.items()}, fill)

    def _asked(self, step: StepInfo) -> float:
        """Return the factor of the targets in the penalty: the ramp position times the level."""
        return self.share(step) * (1.0 if self.level is None else float(self.level))

    def _level(self, share: float, fine: bool = True) -> float:
        """Return the factor of all targets for which the hard structure meets ``constraint.match`` at ``share``."""
        if not self.constraint.match or share <= 0:
            return 1.0
        most = self.costs.reachable(self.units.chosen)
        highest = min(most[cost] / target for cost, target in self.targets.items()) / share
        level = self._searched(share, 0.0, highest, _HALVINGS, fill=False)
        if not fine:
            return level
        around = (1 - _AROUND) * level, min((1 + _AROUND) * level, highest)  # filled structures are finer, but slower
        return self._searched(share, *around, _FINE_HALVINGS, fill=True)

    def _searched(self, share: float, low: float, high: float, halvings: int, fill: bool) -> float:
        """Bisect between ``low`` and ``high`` for the level whose structure comes nearest to ``constraint.match``."""
        ((cost, wanted),) = self.constraint.match.items()
        best = (math.inf, high)
        for _ in range(halvings):
            level = (low + high) / 2
            counts = self.units.hard_counts(self._keep(level * share, fill))
            missed = self.costs.sparsity(counts, cost).item() - wanted * share
            best = min(best, (abs(missed), level))
            low, high = (level, high) if missed < 0 else (low, level)
        return best[1]

    @torch.no_grad()
    def log_values(self, step: StepInfo) -> dict[str, float]:
        """Also return the expected sparsity, the hard sparsity by the rule alone, and the multipliers of each cost."""
        values = super().log_values(step)
        expected, by_rule = self.gates.expected_counts(), self.hard_counts()
        for index, cost in enumerate(self.targets):
            if self.level is not None:
                values[f"sparsity/{cost}/asked"] = self.targets[cost] * self._asked(step)
            values[f"sparsity/{cost}/expected"] = self.costs.sparsity(expected, cost).item()
            values[f"sparsity/{cost}/hard_rule"] = self.costs.sparsity(by_rule, cost).item()
            if self._shift is not None:
                continue
            values[f"multipliers/{cost}/linear"] = self.lagrangian.linear[index].item()
            values[f"multipliers/{cost}/quadratic"] = self.lagrangian.quadratic[index].item()
        return values

    def after_backward(self, step: StepInfo, learning_rates: Mapping[str, float]) -> None:
        """Move the gates, if it is not the optimiser that does."""
        gradient = self.gates.log_alpha.grad
        if self.steps is not None and gradient is not None:
            self.steps.move(self.gates.log_alpha, gradient, self.config.gate_lr)

    def after_step(self, step: StepInfo) -> None:
        """Clamp log alpha to its range, and shift it if configured; every 50 steps, update the level that meets
        ``constraint.match``.
        """
        self.gates.limit()
        if self._shift is not None:
            asked, least = self._asked(replace(step, step=step.step + 1)), self.least.tolist()
            self._shift.to({cost: max(asked * target, low) for (cost, target), low in zip(self.targets.items(), least)})
        if self.level is not None and step.step % _MATCHED_EVERY == 0:
            self.level.fill_(self._level(self.share(step), fine=False))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return gates, which descend, and multipliers, if there are any, which ascend.

        Both are exempt from weight decay, gradient clipping and the learning rate schedule of the weights, and no
        optimiser takes steps in proportion to their values.
        """
        config = self.config
        lr = config.gate_lr if self.steps is None else 0.0
        gates = ParameterGroup("gates", (self.gates.log_alpha,), lr, 0.0, clip=False, schedule="constant", scaled=False)
        if self._shift is not None:
            return [gates]
        multipliers = (self.lagrangian.linear, self.lagrangian.quadratic)
        return [
            gates,
            ParameterGroup(
                "multipliers",
                multipliers,
                config.multiplier_lr,
                0.0,
                maximize=True,
                clip=False,
                schedule="constant",
                scaled=False,
            ),  # fmt: skip
        ]
