"""Base class of the encoders that can be combined with a head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Optional, Protocol

import torch
from torch import Tensor, nn

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.errors import UserError
from pruning.models.chunk import WHOLE, Chunk
from pruning.models.conformer import EncoderOutput
from pruning.models.zipformer_stream import ZipformerStream


class Dimensions(Protocol):
    """Fields that the configurations of all encoders have."""

    @property
    def d_model(self) -> int:
        """Dimension of the outputs."""

    @property
    def num_layers(self) -> int:
        """Number of blocks."""


class Window(NamedTuple):
    """What Whisper's features of a recording cover.

    Attributes:
        frames: frames of the longest features.
        tail: seconds of silence after the recording, at most up to the end of the window; None: up to its end.
    """

    frames: int
    tail: Optional[float]


class Encoder(nn.Module, ABC):
    """An encoder of features or samples that can be pruned; see `pruning.core.prunable.Prunable`.

    Attributes:
        form: name of the encoder type in a description, see `pruning.models.encoder_types`.
        convolutions: name of the module of convolutions that reads the input.
        holds_ranks: whether its own configuration has the ranks of factored layers; otherwise that of the network has
            them which the encoder is part of.
        chunk: context that forward passes see, see `see`.
    """

    form: ClassVar[str]
    convolutions: ClassVar[str]
    holds_ranks: ClassVar[bool] = True
    config: Dimensions
    chunk: Chunk = WHOLE

    @property
    def width(self) -> int:
        """Dimension of the outputs."""
        return self.config.d_model

    @property
    def residual_width(self) -> int:
        """Number of channels of the residual stream."""
        return self.config.d_model

    @property
    def depth(self) -> int:
        """Number of layers that `encode` returns after the first; the number of blocks, unless said otherwise."""
        return self.config.num_layers

    @property
    @abstractmethod
    def bins(self) -> int:
        """Number of bins per feature frame; 0 if the encoder takes samples."""

    @property
    @abstractmethod
    def stride(self) -> int:
        """Number of feature frames, or samples, from one output frame to the next."""

    @property
    @abstractmethod
    def shortest(self) -> int:
        """Minimum number of feature frames, or samples, that gives one output frame."""

    @property
    def window(self) -> Optional[Window]:
        """What the features cover if they are Whisper's, computed from recordings; None for samples and filter banks.

        Other features are stored with the cuts.
        """
        return None

    def with_tail(self, tail: float) -> Encoder:
        """Return the same encoder with another tail of its window, in seconds.

        Raises:
            UserError: the encoder has no window.
        """
        raise UserError(f"an encoder of type {self.form} has no window, so that its recordings have no tail",
                        "leave out the tail")  # fmt: skip

    @property
    def causal(self) -> bool:
        """Whether the encoder can compute in chunks, for streaming."""
        return False

    def check_chunk(self, chunk: Chunk) -> None:
        """Refuse chunks that the encoder cannot compute.

        Raises:
            UserError: the encoder is not causal, or the sizes do not fit it.
        """
        if chunk.size:
            raise UserError("the network is not causal, so it cannot compute chunk by chunk", "give no chunk size")

    def see(self, chunk: Chunk) -> None:
        """Restrict forward passes to a context from now on.

        Raises:
            UserError: see `check_chunk`.
        """
        self.check_chunk(chunk)
        self.chunk = chunk

    @contextmanager
    def seeing(self, chunk: Chunk) -> Iterator[None]:
        """Restrict forward passes to a context while the context manager is open.

        Raises:
            UserError: see `check_chunk`.
        """
        before = self.chunk
        self.see(chunk)
        try:
            yield
        finally:
            self.chunk = before

    def stream(self, chunk: Chunk) -> ZipformerStream:
        """Return what encodes streams, by chunks and with a left context.

        Raises:
            UserError: the encoder is not causal, or cannot compute such chunks.
        """
        raise UserError("the network is not causal, so it cannot compute streams", "give no chunk size")

    @abstractmethod
    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return the number of output frames ``(N,)`` for ``lengths (N,)`` feature frames or samples."""

    @abstractmethod
    def encode(self, inputs: Tensor, lengths: Tensor) -> EncoderOutput:
        """Encode ``(N, T, C)`` features or ``(N, S)`` samples; the result has the outputs of all layers."""

    def set_feature_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Set the statistics by which features are normalised: ``mean`` and ``deviation``, each ``(bins,)``.

        Raises:
            ValueError: the encoder takes samples.
        """
        raise ValueError(f"{type(self).__name__} takes samples, not features")

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """Return the ``config`` of the encoder's description as plain values."""

    def plain(self) -> Encoder:
        """Return an encoder that computes the same and is made of this toolkit's modules; itself if it already is."""
        return self

    def existing_layers(self, counts: Mapping[str, float]) -> list[bool]:
        """Return whether each of the layers that `encode` returns, after the first, still computes anything.

        Args:
            counts: group name -> number of units kept; a group without an entry is kept.
        """
        return [True] * self.depth

    @abstractmethod
    def unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups that can be removed; see `pruning.core.residual_width.HasResidualWidth`."""

    def plain_unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups with the tensor names of the network that `shrink` returns."""
        return self.unit_groups(width)

    @abstractmethod
    def cost_terms(self, frames: int, width: bool = False) -> list[CostTerm]:
        """Return the cost terms for ``frames`` feature frames, or samples, of one utterance."""

    @abstractmethod
    def linear_layers(self, frames: int) -> list[LinearLayer]:
        """Return the linear layers, for ``frames`` feature frames or samples as in `cost_terms`."""

    @abstractmethod
    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the outputs ``(frames, D)`` for noise."""

    @abstractmethod
    def shrink(self, structure: Structure) -> Encoder:
        """Return a new encoder with the shapes that ``structure`` leaves."""

    def with_ranks(self, ranks: Mapping[str, int]) -> Encoder:
        """Return a new encoder with the layers of ``ranks`` factored; its weights are not set.

        Raises:
            ValueError: its configuration has no ranks, see `holds_ranks`.
        """
        raise ValueError(f"the configuration of an encoder of type {self.form} has no ranks")
