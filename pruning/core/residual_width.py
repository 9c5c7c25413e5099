"""Residual width: channels of the stream that all modules of a network read from and add to, as units.

A channel crosses the whole network, so that removing it shrinks every matrix, and a structure without it belongs to a
network whose width is fixed. Networks therefore declare the channels only on request, through this view; nothing else
changes for runs that do not ask for the unit kind ``width``.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Optional, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pruning.core.cost import CostTerm
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, UnitGroup
from pruning.errors import UserError


@runtime_checkable
class HasResidualWidth(Protocol):
    """A `pruning.core.prunable.Prunable` network that declares the channels of its residual stream on request.

    The methods raise UserError if this network's width cannot be pruned.
    """

    @property
    def residual_width(self) -> int:
        """Number of channels of the residual stream."""

    def unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the groups of the network; with ``width``, also that of the residual width."""

    def cost_terms(self, frames: int, width: bool = False) -> list[CostTerm]:
        """Return the cost terms; with ``width``, they depend on the residual width."""

    def probe(self, generator: torch.Generator) -> Tensor:
        """See `pruning.core.prunable.Prunable.probe`."""

    def shrink(self, structure: Structure) -> nn.Module:
        """See `pruning.core.prunable.Prunable.shrink`; the structure may have the residual width."""


@runtime_checkable
class HasPlainResidualWidth(Protocol):
    """A network whose `pruning.core.prunable.HasPlainGroups` can have the residual width."""

    def plain_unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return ``unit_groups(width)`` with the tensor names of ``plain_state``."""


class ResidualWidth:
    """View of a network whose units include its residual width; implements `pruning.core.prunable.Prunable`.

    Args:
        model: a network that declares its residual width.

    Raises:
        UserError: it does not.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, HasResidualWidth):
            raise UserError(f"{type(model).__name__} does not declare its residual width", f"leave out kind {WIDTH}")
        self._model = model

    def unit_groups(self) -> list[UnitGroup]:
        """Return the groups of the network and that of its residual width."""
        return self._model.unit_groups(width=True)

    def plain_unit_groups(self) -> list[UnitGroup]:
        """Return `unit_groups` with the tensor names of the network's plain state."""
        model = self._model
        return model.plain_unit_groups(width=True) if isinstance(model, HasPlainResidualWidth) else self.unit_groups()

    def cost_terms(self, frames: int) -> list[CostTerm]:
        """Return the network's cost terms, as functions of the residual width too."""
        return self._model.cost_terms(frames, width=True)

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the outputs of the network's own probe."""
        return self._model.probe(generator)

    def shrink(self, structure: Structure) -> nn.Module:
        """Return a new network with the shapes that ``structure`` leaves."""
        return self._model.shrink(structure)


def has_width(structure: Structure) -> bool:
    """Return whether a structure has the residual width."""
    return any(group.kind == WIDTH for group in structure.groups.values())


def kept_channels(structure: Structure, width: int, dense: int) -> Optional[list[int]]:
    """Return which of ``dense`` channels a network with ``width`` channels kept according to ``structure``, ascending.

    None if the structure says nothing about networks of these widths. A unit may have several contiguous channels. The
    channels of a network may be in one group, or in several, in order.
    """
    streams = [group for group in structure.groups.values() if group.kind == WIDTH]
    if sum(group.size for group in streams) == dense and sum(len(group.kept) for group in streams) == width:
        starts = [0, *accumulate(group.size for group in streams)]
        return [start + unit for start, group in zip(starts, streams) for unit in group.kept]
    for group in streams:
        each = dense // group.size
        if dense == each * group.size and len(group.kept) * each == width:
            return [unit * each + channel for unit in group.kept for channel in range(each)]
    return None
