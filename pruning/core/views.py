"""Views of a network: the declaration of units that a structure belongs to, or that a configuration asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from torch import nn

from pruning.core.prunable import Prunable, prunable
from pruning.core.residual_width import HasResidualWidth, ResidualWidth, has_width
from pruning.core.single_weights import SingleWeights, is_of_single_weights
from pruning.core.structure import Structure
from pruning.core.units import WIDTH


def view_of(model: nn.Module, structure: Structure) -> Prunable:
    """Return the view of the network that ``structure`` belongs to: the network, its single weights, or with width."""
    if is_of_single_weights(structure):
        return SingleWeights(model)
    return _with_width(model, has_width(structure))


def view_for(model: nn.Module, kinds: Optional[Iterable[str]]) -> Prunable:
    """Return the view of the network that has the unit ``kinds``; None: those that the network declares by itself."""
    return _with_width(model, kinds is not None and WIDTH in kinds)


def _with_width(model: nn.Module, wanted: bool) -> Prunable:
    """Return the view with the residual width if that is wanted; a network may have other units of that kind."""
    return ResidualWidth(model) if wanted and isinstance(model, HasResidualWidth) else prunable(model)
