"""A Zipformer encoder to be combined with a head or a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.models import zipformer_costs, zipformer_units
from pruning.models.chunk import Chunk
from pruning.models.conformer import PROBE_FRAMES, EncoderOutput
from pruning.models.encoder import Encoder
from pruning.models.subsampling import beyond
from pruning.models.zipformer import ZipformerEncoder
from pruning.models.zipformer_config import SHORTEST, ZipformerConfig
from pruning.models.zipformer_front_end import FrontEnd
from pruning.models.zipformer_stream import ZipformerStream


class PrunableZipformer(ZipformerEncoder, Encoder):
    """A Zipformer encoder that declares its units under its own names; see `Encoder`."""

    form = "zipformer"
    convolutions = "subsampling"
    holds_ranks = False
    config: ZipformerConfig

    @property
    def depth(self) -> int:
        """Number of stacks: layers of a stack have a frame rate of their own, so that only stacks give outputs."""
        return len(self.config.widths)

    @property
    def bins(self) -> int:
        """Number of bins per feature frame."""
        return self.config.feature_dim

    @property
    def causal(self) -> bool:
        """Whether the encoder can compute in chunks, for streaming."""
        return self.config.causal

    def stream(self, chunk: Chunk) -> ZipformerStream:
        """Return what encodes streams, by chunks and with a left context."""
        return ZipformerStream(self, chunk)

    @property
    def stride(self) -> int:
        """Number of feature frames from one output frame to the next."""
        return 4

    @property
    def shortest(self) -> int:
        """Minimum number of feature frames that gives one output frame."""
        return SHORTEST

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return the number of output frames ``(N,)`` for ``lengths (N,)`` feature frames."""
        return torch.div(FrontEnd.lengths(lengths) + 1, 2, rounding_mode="floor")

    def encode(self, inputs: Tensor, lengths: Tensor) -> EncoderOutput:
        """Encode features ``(N, T, C)``; the result has the outputs after every stack."""
        return self(inputs, lengths, return_layers=True)

    def described(self) -> dict[str, Any]:
        """Return the configuration as plain values."""
        return asdict(self.config)

    def existing_layers(self, counts: Mapping[str, float]) -> list[bool]:
        """Return whether each stack still has a layer with a module."""
        return zipformer_units.existing_stacks(self.config, counts)

    def unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups of the encoder, front end included."""
        return zipformer_units.unit_groups(self.config, width)

    def cost_terms(self, frames: int, width: bool = False) -> list[CostTerm]:
        """Return the cost terms for ``frames`` feature frames."""
        return zipformer_costs.cost_terms(self.config, frames, width)

    def linear_layers(self, frames: int) -> list[LinearLayer]:
        """Return the linear layers of the stacks, for ``frames`` feature frames."""
        return zipformer_units.linear_layers(self.config, frames)

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the outputs ``(frames, D)`` for two utterances of noise, one of them padded."""
        features = torch.randn(2, PROBE_FRAMES, self.bins, generator=generator)
        encoded = self(features, torch.tensor([PROBE_FRAMES, PROBE_FRAMES * 2 // 3]))
        return encoded.output[~beyond(encoded.lengths, encoded.output.shape[1])]

    def shrink(self, structure: Structure) -> PrunableZipformer:
        """Return a new encoder with the shapes that ``structure`` leaves."""
        return PrunableZipformer(zipformer_units.shrink(self.config, structure))
