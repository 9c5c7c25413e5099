"""What every encoder that stands under a head says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.models.conformer import EncoderOutput


class Dimensions(Protocol):
    """What the configurations of all encoders have."""

    @property
    def d_model(self) -> int:
        """Dimension of the outputs."""

    @property
    def num_layers(self) -> int:
        """Number of blocks."""


class Encoder(nn.Module, ABC):
    """An encoder of features or samples that can be pruned; see `pruning.core.prunable.Prunable`.

    Attributes:
        form: its name in a description, see `pruning.models.encoder_types`.
        factorable: whether single weights or rank-1 components may go: `with_ranks` makes a network of them.
    """

    form: ClassVar[str]
    factorable: ClassVar[bool] = True
    config: Dimensions

    @property
    def width(self) -> int:
        """Dimension of its outputs."""
        return self.config.d_model

    @property
    def depth(self) -> int:
        """Number of its blocks."""
        return self.config.num_layers

    @property
    @abstractmethod
    def bins(self) -> int:
        """Bins of a frame of features; 0: it takes samples."""

    @property
    @abstractmethod
    def stride(self) -> int:
        """Frames of features, or samples, from one frame of its outputs to the next."""

    @property
    @abstractmethod
    def shortest(self) -> int:
        """The fewest frames of features, or samples, that give one frame of outputs."""

    @abstractmethod
    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of outputs ``(N,)`` of ``lengths (N,)`` frames of features or samples."""

    @abstractmethod
    def encode(self, inputs: Tensor, lengths: Tensor) -> EncoderOutput:
        """Outputs and all layers, of ``(N, T, C)`` features or ``(N, S)`` samples."""

    def set_feature_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Normalise features by ``mean`` and ``deviation``, each ``(bins,)``, from now on.

        Raises:
            ValueError: it takes samples.
        """
        raise ValueError(f"a {type(self).__name__} takes no features")

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """The ``config`` of its description, plain values."""

    def plain(self) -> Encoder:
        """An encoder of this toolkit's modules that computes the same; itself if it is one."""
        return self

    @abstractmethod
    def unit_groups(self) -> list[UnitGroup]:
        """What can be removed."""

    @abstractmethod
    def cost_terms(self, frames: int) -> list[CostTerm]:
        """Cost for ``frames`` frames of features, or samples, of one utterance."""

    @abstractmethod
    def linear_layers(self, frames: int) -> list[LinearLayer]:
        """The linear layers, for as many ``frames`` as `cost_terms`."""

    @abstractmethod
    def probe(self, generator: torch.Generator) -> Tensor:
        """Outputs ``(frames, D)`` for noise."""

    @abstractmethod
    def shrink(self, structure: Structure) -> Encoder:
        """A new encoder that has what ``structure`` leaves."""

    @abstractmethod
    def with_ranks(self, ranks: Mapping[str, int]) -> Encoder:
        """A new encoder with the layers ``ranks`` factored; its weights are not set."""
