"""What networks of an encoder and other modules share: only the encoder is pruned, and the others read its outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, Self

from torch import Tensor, nn

from pruning.core import low_rank
from pruning.core.cost import CostTerm
from pruning.core.prunable import plain_state
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, UnitGroup, prefixed
from pruning.models.encoder import Encoder
from pruning.models.module_units import read_by

PREFIX = "encoder."


class HasRanks(Protocol):
    """Configuration of a network that holds the ranks of factored layers of its encoder."""

    @property
    def ranks(self) -> Mapping[str, int]:
        """Linear layer of the encoder, by its name in the network -> rank; layers without an entry are dense."""


class EncoderNetwork(nn.Module, ABC):
    """An encoder and modules that read its outputs; see `pruning.core.prunable.Prunable`.

    Attributes:
        encoder: the part that is pruned.
        config: configuration of the network.
    """

    encoder: Encoder
    config: HasRanks

    @abstractmethod
    def readers(self) -> list[str]:
        """Return the names of the linear layers that read the encoder's output."""

    @abstractmethod
    def around(self, encoder: Encoder) -> Self:
        """Return a new network with an encoder of the same description as ``encoder``; its weights are not set."""

    @abstractmethod
    def with_ranks(self, ranks: Mapping[str, int]) -> Self:
        """Return a new network with the layers of ``ranks`` factored in the encoder; its weights are not set."""

    @property
    def residual_width(self) -> int:
        """Number of channels of the encoder's residual stream."""
        return self.encoder.residual_width

    def unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups of the encoder; with factored layers, only their components.

        Raises:
            UserError: ``width`` is asked for and layers are factored.
        """
        if self.config.ranks:
            return self.plain_unit_groups(width)
        return self._of_network(self.encoder.unit_groups(width))

    def plain_unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups with the tensor names of `plain_state`."""
        if self.config.ranks:
            low_rank.refuse_width(width)
            return low_rank.component_groups(self)
        return self._of_network(self.encoder.plain_unit_groups(width))

    def _of_network(self, groups: Sequence[UnitGroup]) -> list[UnitGroup]:
        """Return groups of the encoder as groups of the network, whose other modules read the residual width."""
        named = [prefixed(group, PREFIX) for group in groups]
        return [read_by(group, self.readers()) if group.kind == WIDTH else group for group in named]

    def cost_terms(self, frames: int, width: bool = False) -> list[CostTerm]:
        """Return the cost terms of the encoder, for ``frames`` feature frames or samples."""
        width = width and not self.config.ranks
        terms = [replace(term, groups=tuple(f"{PREFIX}{name}" for name in term.groups))
                 for term in self.encoder.cost_terms(frames, width)]  # fmt: skip
        if not self.config.ranks:
            return terms
        groups = self._of_network(self.encoder.plain_unit_groups())
        return low_rank.cost_terms(self, groups, terms, self.linear_layers(frames))

    def linear_layers(self, frames: int) -> list[low_rank.LinearLayer]:
        """Return the linear layers of the encoder that may be factored, for ``frames`` feature frames or samples."""
        return [replace(layer, name=f"{PREFIX}{layer.name}") for layer in self.encoder.linear_layers(frames)]

    def plain_state(self) -> dict[str, Tensor]:
        """Return the tensors with the names of the network that `shrink` returns."""
        around = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(PREFIX)}
        return {**{f"{PREFIX}{name}": tensor for name, tensor in plain_state(self.encoder).items()}, **around}

    def shrink(self, structure: Structure) -> Self:
        """Return a new network whose encoder has the shapes that ``structure`` leaves."""
        if self.config.ranks:
            return self.with_ranks(low_rank.shrunk_ranks(self, structure))
        own = {name[len(PREFIX) :]: kept for name, kept in structure.groups.items()}
        return self.around(self.encoder.shrink(Structure(own)))
