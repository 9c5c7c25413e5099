"""What a network declares so that every method works on it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pruning.core.cost import CostTerm
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup


@runtime_checkable
class Prunable(Protocol):
    """What a network offers so that every method works on it."""

    def unit_groups(self) -> list[UnitGroup]:
        """The groups of the network as it is, in a fixed order; parents before their children."""

    def cost_terms(self, frames: int) -> list[CostTerm]:
        """Parameters and multiply-accumulates of what is pruned, for ``frames`` input frames of one utterance."""

    def probe(self, generator: torch.Generator) -> Tensor:
        """Outputs for a made-up input ``(rows, D)``, without padding, to compare two networks by."""

    def shrink(self, structure: Structure) -> nn.Module:
        """A new network of the shapes that ``structure`` leaves; its weights are not set."""


def prunable(model: nn.Module) -> Prunable:
    """``model`` as a network that declares its units.

    Raises:
        TypeError: it does not.
    """
    if not isinstance(model, Prunable):
        raise TypeError(f"a {type(model).__name__} declares no units: it needs what `Prunable` names")
    return model


@runtime_checkable
class HasPlainState(Protocol):
    """A network whose tensors have other names or another form than those of what `Prunable.shrink` makes."""

    def plain_state(self) -> dict[str, Tensor]:
        """The ``state_dict`` that the network would have with every group kept whole in what ``shrink`` makes."""


@runtime_checkable
class HasPlainGroups(Protocol):
    """A network whose `HasPlainState.plain_state` has names of its own: the groups under these names."""

    def plain_unit_groups(self) -> list[UnitGroup]:
        """As `Prunable.unit_groups`, in the same order and with the same names of groups."""


def plain_groups(model: Prunable) -> list[UnitGroup]:
    """The groups of a network with the names of tensors that its `plain_state` has."""
    return model.plain_unit_groups() if isinstance(model, HasPlainGroups) else model.unit_groups()


@runtime_checkable
class HasPlain(Protocol):
    """A network of other people's modules."""

    def plain(self) -> nn.Module:
        """One that computes the same, of modules that call every layer whose weights they use."""


def plain(model: nn.Module) -> nn.Module:
    """A network that computes the same, of modules that can be watched from inside, factored and exported."""
    return model.plain() if isinstance(model, HasPlain) else model


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network under the names and in the form that `Prunable.shrink` loads."""
    return model.plain_state() if isinstance(model, HasPlainState) else dict(model.state_dict())
