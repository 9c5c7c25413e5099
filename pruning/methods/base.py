"""Base class of pruning methods: what a training step of a task calls, for any network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Optional

import torch
from torch import Tensor, nn

from pruning.core.constraint import ConstraintConfig, check_reachable, ramp
from pruning.core.cost import CostModel
from pruning.core.latency import LatencyTable
from pruning.core.masking import Masker
from pruning.core.prunable import Prunable, prunable
from pruning.core.selection import Selection
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.files import read_json
from pruning.training.task import ParameterGroup, StepInfo

TOLERANCE = 0.01  # largest distance from the target at which a checkpoint may be selected


class Pruner(nn.Module, ABC):
    """Masks over the units of a network, and the cost targets that they must reach.

    Attributes:
        exact: whether a single goal must be met within the tolerance, and not passed.

    Args:
        model: a network that declares its units (see `pruning.core.prunable.Prunable`).
        units: the units that may be removed.
        constraint: the costs and their targets.
        frames: number of input frames at which MACs are counted.
        view: view of the model that declares the units, e.g. its single weights; None: the model itself.

    Raises:
        UserError: the target is beyond reach with the units that may be removed, or the network does not have a
            constrained cost.
    """

    exact = True

    def __init__(
        self,
        model: nn.Module,
        units: Selection,
        constraint: ConstraintConfig,
        frames: int,
        view: Optional[Prunable] = None,
    ) -> None:
        super().__init__()
        self.units = units
        self.constraint = constraint
        self._view = [view or prunable(model)]  # in a list, like the network below
        terms = self.view.cost_terms(frames)
        try:
            self.costs = CostModel(units.groups, terms, _latency_table(constraint), list(constraint.parts))
        except ValueError as error:
            raise UserError(f"constraint.parts: {error}", "correct constraint.parts") from None
        self.targets, self.goals = constraint.targets(), constraint.goals()
        for cost in {**self.targets, **self.goals}:
            if not self.costs.dense[cost] > 0:  # a sparsity would be undefined
                raise UserError(f"the network has no {cost} at {constraint.seconds:g} s", "raise constraint.seconds")
        check_reachable(self.costs, units.chosen, {**self.targets, **self.goals})
        self._network = [(model, Masker(model, units.groups))]  # in a list: not a submodule, the task owns the network

    @property
    def network(self) -> nn.Module:
        """The network that is pruned."""
        return self._network[0][0]

    @property
    def view(self) -> Prunable:
        """The view of the network that declares the units."""
        return self._view[0]

    @property
    def masker(self) -> Masker:
        """The masker that applies masks to the network."""
        return self._network[0][1]

    def share(self, step: StepInfo, rested: int = 0, rests: int = 0) -> float:
        """Return the position of the target's ramp, in [0, 1].

        Args:
            step: the current step.
            rested: number of earlier steps at which the ramp stood still.
            rests: number of such steps in the whole run; they shorten a ramp that grows.

        Raises:
            UserError: the total number of steps is not known.
        """
        if step.total_steps is None:
            raise UserError("the sparsity ramp needs the total number of training steps", "set max_steps")
        steps = self.constraint.ramp_share * step.total_steps
        if self.constraint.ramp != "one_shot":  # one_shot only waits and has nothing to shorten
            steps -= rests
        return ramp(self.constraint.ramp, (step.step - rested) / max(1.0, steps))

    @contextmanager
    def applied(self, step: StepInfo) -> Iterator[None]:
        """While open, the network computes with the masks of ``step``."""
        with self.masker.applied(self.masks(step)):
            yield

    def scorer(self) -> Optional[Scorer]:
        """Return a pruner that must score the units on batches before training (see `start_from`); None: none."""
        return None

    def start_from(self, scores: Tensor) -> None:
        """Begin from scores of the units, ``(U,)``; called if there is a `scorer`."""

    @abstractmethod
    def masks(self, step: StepInfo) -> Mapping[str, Tensor]:
        """Return the masks of ``step``, group name -> ``(size,)``; in validation those of a hard structure."""

    @abstractmethod
    def hard_counts(self) -> Tensor:
        """Return the current hard counts ``(G,)``."""

    @abstractmethod
    def structure(self, share: float = 1.0) -> Structure:
        """Return the hard structure at ``share`` of the targets."""

    def kept_counts(self, share: float = 1.0) -> Tensor:
        """Return the counts ``(G,)`` that `structure` keeps; override if they are known without computing scores."""
        return self.costs.counts(self.structure(share))

    def _reached(self) -> dict[str, float]:
        """Return the hard sparsity of each goal."""
        counts = self.kept_counts()
        return {cost: self.costs.sparsity(counts, cost).item() for cost in self.goals}

    def penalty(self, step: StepInfo) -> Tensor:
        """Return the penalty that is added to the loss of a step, a scalar."""
        return torch.zeros((), device=next(self.network.parameters()).device)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the parameters of the method for the optimiser."""
        return []

    def attach_moments(self, moments: Mapping[Tensor, MutableMapping[str, Tensor]]) -> None:
        """Called once with the optimiser's state per parameter, for methods that change weights themselves."""

    def after_backward(self, step: StepInfo, learning_rates: Mapping[str, float]) -> None:
        """Called when the gradients of a step are computed and finite."""

    def snapshot_due(self, step: StepInfo) -> Optional[str]:
        """Return the name of the snapshot to save after ``step``, or None."""
        return None

    def after_step(self, step: StepInfo) -> None:
        """Called after the optimiser step."""

    def at_rest(self, step: StepInfo) -> bool:
        """Return whether the ramp has ended at ``step``, so that the structure changes only through moving gates."""
        return self.share(step) >= 1

    def on_target(self, step: StepInfo) -> bool:
        """Return whether the ramp has ended and the hard sparsity meets every goal.

        A single goal must be met within 0.01. With several, or if units are too coarse to be `exact`, no sparsity may
        be 0.01 or more below its goal.
        """
        if self.share(step) < 1:
            return False
        reached = self._reached()
        if len(self.goals) > 1 or not self.exact:  # one order of units cannot meet two targets exactly
            return all(reached[cost] > target - TOLERANCE for cost, target in self.goals.items())
        return all(abs(reached[cost] - target) <= TOLERANCE for cost, target in self.goals.items())

    def expected(self) -> dict[str, float]:
        """Return the expected sparsity of each target, for methods that sample masks; empty for others."""
        return {}

    def untrained(self) -> str:
        """Return what shows that a loop did not tell the method of its steps; empty if nothing does."""
        return ""

    def unselected(self, step: StepInfo) -> UserError:
        """Return the error to raise if a run ends at ``step`` without a checkpoint on target."""
        if self.share(step) < 1:
            return UserError(
                f"training ended at step {step.step}, before the ramp of the target ended",
                "lower constraint.ramp_share or train longer, in another --exp-dir",
            )
        if self.on_target(step):
            return UserError(
                "the sparsity is on target but the loss on the development set is not finite",
                "lower the learning rate or use trainer.amp=none, in another --exp-dir",
            )
        reached = self._reached()
        missed = " and ".join(f"{reached[cost]:.3f} in {cost} for {goal:g}" for cost, goal in self.goals.items())
        return UserError(
            f"the hard sparsity ended at {missed}",
            "allow finer unit kinds (l0.gates.kinds, criterion.kinds) or lower the target to what was reached, "
            "in another --exp-dir",
        )

    def log_values(self, step: StepInfo) -> dict[str, float]:
        """Return the target and the hard sparsity of each cost, and the share of units kept of each unit kind."""
        share = self.share(step)
        counts = self.kept_counts(share)
        values: dict[str, float] = {}
        for cost in {**self.targets, **self.goals}:
            if cost in self.goals:
                values[f"sparsity/{cost}/target"] = self.goals[cost] * share
            values[f"sparsity/{cost}/hard"] = self.costs.sparsity(counts, cost).item()
        values.update(self._kept_by_kind(counts))
        return values

    def _kept_by_kind(self, counts: Tensor) -> dict[str, float]:
        """Return the share of units that ``counts (G,)`` keeps, for each unit kind that may be removed."""
        kept: dict[str, float] = {}
        total: dict[str, int] = {}
        names = {group.name for group in self.units.chosen}
        for group, count in zip(self.costs.groups, counts.tolist()):
            if group.name in names:
                kept[group.kind] = kept.get(group.kind, 0.0) + count
                total[group.kind] = total.get(group.kind, 0) + group.size
        return {f"kept/{kind}": kept[kind] / total[kind] for kind in kept}


class Scorer(Pruner):
    """A pruner that scores units."""

    @abstractmethod
    def scored(self) -> Tensor:
        """Return the scores of all units, ``(U,)`` float64."""

    def finite_scores(self) -> Tensor:
        """Return `scored`, by which units are about to be ranked.

        Raises:
            UserError: scores are not finite.
        """
        scores = self.scored()
        for group, part in zip(self.units.chosen, scores.split(self.units.sizes)):
            if not part.isfinite().all():
                what = f"cannot rank units: scores in {group.name} are not finite"
                raise UserError(what, "lower the learning rate, and score no step whose gradients are not finite")
        return scores


def _latency_table(constraint: ConstraintConfig) -> Optional[LatencyTable]:
    path = constraint.latency_table
    if path is None:
        return None
    return LatencyTable.from_dict(read_json(path, "measure it with pruning.bin.latency"), path)
