"""Prune a network of any make inside a training loop of one's own."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Optional

import torch
from torch import Tensor, nn

from pruning.core.declare import DeclaredUnits
from pruning.core.declared import DeclaredNetwork
from pruning.core.extraction import extract
from pruning.core.names import MACS
from pruning.core.structure import Structure
from pruning.core.units import Span, UnitGroup
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import PathLike
from pruning.methods.choice import pruner_over
from pruning.methods.config import PruningConfig
from pruning.training.task import StepInfo

logger = logging.getLogger(__name__)
_FAR = 0.1  # between expected sparsity and target
_MEND = (
    "run the network inside masked(), add penalty() to the loss, make the optimiser from parameter_groups(), and call "
    "before_update() between backward and the optimiser's step"
)

DECLARED = "declared"
"""The type of network that headers name: one whose modules are not of this package."""


class OwnLoop:
    """A pruning method over a user's network, told of each training step::

        pruned = OwnLoop(network, units, example, PruningConfig(method="taylor"), total_steps=1000)
        optimiser = torch.optim.AdamW(pruned.parameter_groups(lr=1e-3))
        for batch in batches:
            with pruned.masked():
                loss = loss_of(network, batch) + pruned.penalty()
                loss.backward()  # inside, because checkpointed modules compute again
            pruned.before_update(lr=1e-3)
            optimiser.step()
            optimiser.zero_grad()
            pruned.after_update()
        small = pruned.extract()

    Args:
        network: the network. It keeps its modules and parameters; masks act on it while `masked` is open.
        units: its units, declared by the functions of `pruning.core.declare`.
        example: the arguments of ``network`` for one utterance; costs are counted for them.
        config: method and constraint. ``technique`` must be ``structured``.
        total_steps: optimiser steps of the whole loop; the ramp of the target is a share of them.
        seed: seed of everything random in the method.

    Raises:
        ValueError: the declaration does not fit the network, see `DeclaredNetwork.check`.
        UserError: the settings do not fit together, or the target cannot be reached or counted.
    """

    def __init__(
        self,
        network: nn.Module,
        units: Sequence[DeclaredUnits],
        example: Sequence[Any],
        config: PruningConfig,
        total_steps: int,
        seed: int = 0,
    ) -> None:
        _check(config)
        if total_steps < 1:
            raise UserError(f"total_steps must be at least 1, got {total_steps}", "correct it")
        self.declared = DeclaredNetwork(network, units, example)
        self.declared.check()
        asked = {*config.asked().targets(), *config.constraint.match}
        if self.declared.uncounted and any(cost.partition(":")[0] == MACS for cost in asked):
            what = f"cannot count the multiply-accumulates of {', '.join(self.declared.uncounted)}"
            raise UserError(what, "set a target for the size only, or write these modules with linear layers")
        self.pruner = pruner_over(self.declared, config, 0, seed)
        if self.pruner.scorer() is not None:
            raise UserError("l0.gates.start=taylor needs batches, which this loop does not have", "choose constant")
        self.pruner.to(next(network.parameters()).device)
        for group in self.pruner.parameter_groups():
            for parameter in group.parameters if group.maximize else ():
                parameter.register_hook(torch.neg)  # not every optimiser knows `maximize`
        self.total_steps = total_steps
        self.step = 0

    def parameter_groups(self, lr: float, **options: Any) -> list[dict[str, Any]]:
        """Return parameter groups for any optimiser of `torch.optim`: the network's, and those of the method.

        The gradients of multipliers, which must ascend, come with the opposite sign.

        Args:
            lr: learning rate of the network; gates and multipliers have theirs from the configuration.
            options: more settings of the network's group, such as ``weight_decay``.
        """
        groups: list[dict[str, Any]] = [{"params": list(self.declared.network.parameters()), "lr": lr, **options}]
        for group in self.pruner.parameter_groups():
            groups.append({"params": list(group.parameters), "lr": lr if group.lr is None else group.lr,
                           "weight_decay": group.weight_decay or 0.0})  # fmt: skip
        return groups

    @contextmanager
    def masked(self) -> Iterator[None]:
        """While open, the network computes as the method has it: in training mode with the masks of the next step, in
        evaluation mode with those of the hard structure.
        """
        with self.pruner.applied(self._now()):
            yield

    def penalty(self) -> Tensor:
        """Return what to add to the loss of the next step, a scalar: the constraint of L0 gates, 0 for criteria."""
        return self.pruner.penalty(self._now())

    def before_update(self, lr: float) -> None:
        """Tell the method that the gradients of a step are there, unscaled and before any clipping.

        A step is not scored if a gradient of the network or the method is not finite, as in the first steps of a
        ``GradScaler``.

        Args:
            lr: learning rate of the network at this step; the ``movement`` criterion scores by it.
        """
        owners = (*self.declared.network.parameters(), *self.pruner.parameters())
        if _all_finite([parameter.grad for parameter in owners if parameter.grad is not None]):
            self.pruner.after_backward(self._now(), {"weights": lr})

    def after_update(self) -> None:
        """Tell the method that the optimiser has made a step: units may be cut."""
        self.pruner.after_step(self._now())
        self.step += 1

    def sparsity(self) -> dict[str, float]:
        """Return the removed share of each cost, as evaluation and extraction have it now."""
        costs = self.pruner.costs
        counts = self.pruner.kept_counts(self.pruner.share(self._now()))
        return {cost: float(costs.sparsity(counts, cost)) for cost in costs.costs}

    def log_values(self) -> dict[str, float]:
        """Return values for a log: targets, hard and expected sparsity, the share of each unit kind that is kept."""
        return self.pruner.log_values(self._now())

    def structure(self) -> Structure:
        """Return the units that are kept.

        Raises:
            UserError: the loop has not ended or did not tell the method of its steps, or units are too coarse.
        """
        if not self.step:
            raise UserError("after_update was never called", "call it after every step of the optimiser")
        untrained = self.pruner.untrained()
        if untrained:
            raise UserError(untrained, _MEND)
        end = math.ceil(self.pruner.constraint.ramp_share * self.total_steps)
        if self.pruner.share(self._now()) < 1:
            what = f"{self.step} of {self.total_steps} steps were made, and the ramp of the target ends at step {end}"
            raise UserError(what, "train on, or lower constraint.ramp_share")
        if not self.pruner.on_target(self._now()):
            reached = ", ".join(f"{share:.3f} in {cost}" for cost, share in self.sparsity().items())
            what = f"the sparsity ended at {reached}, not on target"
            raise UserError(what, "declare finer units, or set the target to what was reached")
        for cost, share in self.pruner.expected().items():
            target = self.pruner.targets[cost]
            if abs(share - target) > _FAR:
                what = f"the gates have an expected sparsity of {share:.2f} in {cost} for a target of {target:.2f}"
                logger.warning("%s; the rest is closed by rank: train longer, or raise l0.gate_lr", what)
        return self.pruner.structure()

    def extract(self) -> nn.Module:
        """Return the smaller network: the same modules with smaller tensors, and the same outputs in evaluation mode.

        Raises:
            UserError: see `structure`.
        """
        self.declared.training = self.declared.network.training
        return extract(self.declared, self.structure()).get_submodule("network")

    def save(self, small: nn.Module, path: PathLike) -> None:
        """Write an extracted network, trained on or not, with the structure by which `load_extracted` rebuilds it.

        Raises:
            UserError: see `structure`.
        """
        units = [asdict(unit) for unit in self.declared.units]
        structure = self.structure().without_scale().to_dict()
        checkpoint.save_weights(path, small.state_dict(), {"model": {"type": DECLARED, "units": units, **structure}})

    def _now(self, step: Optional[int] = None) -> StepInfo:
        made = self.step if step is None else step
        return StepInfo(1, 0, made, self.total_steps, self.declared.network.training)


def load_extracted(network: nn.Module, path: PathLike) -> nn.Module:
    """Rebuild an extracted network that `OwnLoop.save` wrote.

    Args:
        network: a dense network of the class and dimensions that were pruned; it is not changed.
        path: the file.

    Raises:
        UserError: the file is not of an extracted network, or of one with other dimensions.
    """
    header = checkpoint.read_header(path)["model"]
    if header.get("type") != DECLARED:
        raise UserError(f"{path} is a network of type {header.get('type')!r}", "load it with pruning.load_network")
    units = [_unit(value) for value in header["units"]]
    structure = Structure.from_dict(header, str(path))
    tensors = checkpoint.read_tensors(path, "give a file that OwnLoop.save wrote")
    try:
        declared = DeclaredNetwork(network, units)
    except ValueError as error:
        raise UserError(f"{path} does not fit this network ({error})", "give the network that was pruned") from None
    structure.check_fits(declared.unit_groups(), str(path))
    small = declared.shrink(structure).network
    try:
        small.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit this network ({error})", "give the network that was pruned") from None
    return small


def _check(config: PruningConfig) -> None:
    """Refuse settings that do not fit together or have no effect in a loop of one's own.

    Raises:
        UserError: they are not usable.
    """
    if config.technique != "structured":
        raise UserError(f"technique {config.technique} is for networks of this package", "choose structured")
    try:
        config.check()
    except ValueError as error:
        raise UserError(str(error), "correct the PruningConfig") from None
    if config.snapshots:
        raise UserError("an own loop cannot save snapshots", "leave them out, and run one loop for each size")


def _all_finite(gradients: Sequence[Tensor]) -> bool:
    """Return whether all values are finite; only the answers wait for a GPU, after all of them are on their way."""
    values = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    answers = [value.isfinite().all() for value in values]
    return all(map(bool, answers))


def _unit(value: dict[str, Any]) -> DeclaredUnits:
    group = dict(value["group"])
    for name in ("masks", "slices", "readers"):
        group[name] = tuple(Span(**span) for span in group.get(name, ()))
    for name in ("removes", "norms", "rms_norms"):
        group[name] = tuple(group.get(name, ()))
    products = None if value["products"] is None else (value["products"][0], value["products"][1])
    return DeclaredUnits(UnitGroup(**group), tuple(value["counts"]), products, value["product_width"])
