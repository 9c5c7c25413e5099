"""Structured pruning of any network in training: what a task's step needs, whatever the method."""

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

TOLERANCE = 0.01  # a checkpoint may be chosen only this near to the target


class Pruner(nn.Module, ABC):
    """Masks over a network's units, and the cost that they are to come to.

    Args:
        model: a network that declares its units (see `pruning.core.prunable.Prunable`).
        units: those that may go.
        constraint: the cost and its target.
        frames: input frames at which MACs are counted.
        view: what of the model are units, where it is not what the model itself declares.

    Raises:
        UserError: the target is beyond reach with the units that may go, or of a cost that the network does not have.
    """

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
        terms = (view or prunable(model)).cost_terms(frames)
        try:
            self.costs = CostModel(units.groups, terms, _latency_table(constraint), list(constraint.parts))
        except ValueError as error:
            raise UserError(f"constraint.parts: {error}", "correct it") from None
        self.targets, self.goals = constraint.targets(), constraint.goals()
        for cost in {**self.targets, **self.goals}:
            if not self.costs.dense[cost] > 0:  # sparsities would be of nothing
                raise UserError(f"the network has no {cost} at {constraint.seconds:g} s", "raise constraint.seconds")
        check_reachable(self.costs, units.chosen, {**self.targets, **self.goals})
        self._network = [(model, Masker(model, units.groups))]  # in a list: the network is the task's, no submodule

    @property
    def network(self) -> nn.Module:
        """The network that is pruned."""
        return self._network[0][0]

    @property
    def masker(self) -> Masker:
        """Applies masks to the network."""
        return self._network[0][1]

    def share(self, step: StepInfo, rested: int = 0, rests: int = 0) -> float:
        """Position of the target's ramp, in [0, 1].

        Args:
            step: when.
            rested: steps of those before at which it stood still.
            rests: such steps in the whole run, which shorten a ramp that grows.
        """
        if step.total_steps is None:
            raise UserError("the sparsity ramp needs to know where training ends", "set max_steps")
        steps = self.constraint.ramp_share * step.total_steps
        if self.constraint.ramp != "one_shot":  # which only waits so long
            steps -= rests
        return ramp(self.constraint.ramp, (step.step - rested) / max(1.0, steps))

    @contextmanager
    def applied(self, step: StepInfo) -> Iterator[None]:
        """While open, the network computes as the method has it at ``step``."""
        with self.masker.applied(self.masks(step)):
            yield

    @abstractmethod
    def masks(self, step: StepInfo) -> Mapping[str, Tensor]:
        """Masks of ``step``, group name -> ``(size,)``; in validation those of a hard structure."""

    @abstractmethod
    def hard_counts(self) -> Tensor:
        """Counts ``(G,)`` that stay as things are."""

    @abstractmethod
    def structure(self, share: float = 1.0) -> Structure:
        """The hard structure at ``share`` of the targets."""

    def kept_counts(self, share: float = 1.0) -> Tensor:
        """What `structure` keeps of each group, ``(G,)``; to be overridden where it is known without scores."""
        return self.costs.counts(self.structure(share))

    def _reached(self) -> dict[str, float]:
        """Hard sparsity of each goal."""
        counts = self.kept_counts()
        return {cost: self.costs.sparsity(counts, cost).item() for cost in self.goals}

    def penalty(self, step: StepInfo) -> Tensor:
        """What the loss of a step gets added, a scalar."""
        return torch.zeros((), device=next(self.network.parameters()).device)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Parameters of the method."""
        return []

    def attach_moments(self, moments: Mapping[Tensor, MutableMapping[str, Tensor]]) -> None:
        """Called once with the optimiser's state, by parameter, for methods that change weights themselves."""

    def after_backward(self, step: StepInfo, learning_rates: Mapping[str, float]) -> None:
        """Called when the gradients of a step are there and finite."""

    def snapshot_due(self, step: StepInfo) -> Optional[str]:
        """The name of a snapshot that is to be kept as things are after ``step``; None: of none."""
        return None

    def after_step(self, step: StepInfo) -> None:
        """Called after the optimiser step."""

    def at_rest(self, step: StepInfo) -> bool:
        """Whether the structure stays as it is from ``step`` on, but for gates that still move."""
        return self.share(step) >= 1

    def on_target(self, step: StepInfo) -> bool:
        """Whether the ramp has ended and the hard sparsity is within 0.01 of every goal."""
        if self.share(step) < 1:
            return False
        reached = self._reached()
        if len(self.goals) > 1:  # one family of flips cannot meet two targets exactly: none may be missed from below
            return all(reached[cost] > target - TOLERANCE for cost, target in self.goals.items())
        return all(abs(reached[cost] - target) <= TOLERANCE for cost, target in self.goals.items())

    def unselected(self, step: StepInfo) -> UserError:
        """Why a run that ends at ``step`` has no checkpoint on target, and what to do; to be raised."""
        if self.share(step) < 1:
            return UserError(
                f"training ended at step {step.step}, before the ramp of the target",
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
            "let finer units go (gating.gates.kinds, criterion.kinds) or ask for what was reached, "
            "in another --exp-dir",
        )

    def log_values(self, step: StepInfo) -> dict[str, float]:
        """Goals and hard sparsity of each cost, share of the units of each kind that is kept."""
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
        """Share of the units of each kind that may go which ``counts (G,)`` keeps."""
        kept: dict[str, float] = {}
        total: dict[str, int] = {}
        names = {group.name for group in self.units.chosen}
        for group, count in zip(self.costs.groups, counts.tolist()):
            if group.name in names:
                kept[group.kind] = kept.get(group.kind, 0.0) + count
                total[group.kind] = total.get(group.kind, 0) + group.size
        return {f"kept/{kind}": kept[kind] / total[kind] for kind in kept}


def _latency_table(constraint: ConstraintConfig) -> Optional[LatencyTable]:
    path = constraint.latency_table
    if path is None:
        return None
    return LatencyTable.from_dict(read_json(path, "measure it with pruning.bin.latency"), path)
