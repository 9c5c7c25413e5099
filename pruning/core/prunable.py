"""Interfaces of a network that can be pruned."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pruning.core.cost import CostTerm
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup


@runtime_checkable
class Prunable(Protocol):
    """Interface that a network implements so that every pruning method works on it."""

    def unit_groups(self) -> list[UnitGroup]:
        """Return the groups of the network in its current shape, in a fixed order, parents before their children."""

    def cost_terms(self, frames: int) -> list[CostTerm]:
        """Return the cost terms of the part that is pruned, for ``frames`` input frames of one utterance."""

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the outputs ``(rows, D)`` for a random input without padding, to compare two networks."""

    def shrink(self, structure: Structure) -> nn.Module:
        """Return a new network with the shapes that ``structure`` leaves; its weights are not set."""


def prunable(model: nn.Module) -> Prunable:
    """Return ``model`` if it declares its units.

    Raises:
        TypeError: it does not.
    """
    if not isinstance(model, Prunable):
        raise TypeError(f"{type(model).__name__} declares no units: it must implement `Prunable`")
    return model


@runtime_checkable
class HasPlainState(Protocol):
    """A network whose tensors differ in name or form from those of the network that `Prunable.shrink` returns."""

    def plain_state(self) -> dict[str, Tensor]:
        """Return the ``state_dict`` that the network would have in the form that ``shrink`` gives, with all units."""


@runtime_checkable
class HasPlainGroups(Protocol):
    """A network whose `HasPlainState.plain_state` uses other tensor names than its ``state_dict``."""

    def plain_unit_groups(self) -> list[UnitGroup]:
        """Return `Prunable.unit_groups` with the tensor names of ``plain_state``, in the same order and group names."""


def plain_groups(model: Prunable) -> list[UnitGroup]:
    """Return the unit groups of a network with the tensor names of its `plain_state`."""
    return model.plain_unit_groups() if isinstance(model, HasPlainGroups) else model.unit_groups()


@runtime_checkable
class HasPlain(Protocol):
    """A network made of third-party modules."""

    def plain(self) -> nn.Module:
        """Return a network that computes the same, made of modules that call every layer whose weights they use."""


def plain(model: nn.Module) -> nn.Module:
    """Return a network that computes the same, made of modules that can be hooked, factored and exported."""
    return model.plain() if isinstance(model, HasPlain) else model


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network with the names and shapes of the network that `Prunable.shrink` returns."""
    return model.plain_state() if isinstance(model, HasPlainState) else dict(model.state_dict())
