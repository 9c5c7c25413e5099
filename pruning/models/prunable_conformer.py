"""A Conformer encoder to be combined with a head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.models import conformer_units
from pruning.models.conformer import PROBE_FRAMES, ConformerConfig, ConformerEncoder, EncoderOutput
from pruning.models.encoder import Encoder
from pruning.models.subsampling import SHORTEST


class DeclaredConformer(Encoder):
    """What follows from the configuration of a Conformer, whatever computes it; see `Encoder`."""

    form = "conformer"
    convolutions = "subsampling"
    holds_ranks = False
    config: ConformerConfig

    @property
    def bins(self) -> int:
        """Number of bins per feature frame."""
        return self.config.feature_dim

    @property
    def stride(self) -> int:
        """Number of feature frames from one output frame to the next."""
        return math.prod(self.config.subsampling_strides)

    @property
    def shortest(self) -> int:
        """Minimum number of feature frames that gives one output frame."""
        return SHORTEST

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return the number of output frames ``(N,)`` for ``lengths (N,)`` feature frames."""
        for stride in self.config.subsampling_strides:
            lengths = lengths if stride == 1 else torch.div(lengths - 1, 2, rounding_mode="floor")
        return lengths.clamp(min=0)

    def encode(self, inputs: Tensor, lengths: Tensor) -> EncoderOutput:
        """Encode features ``(N, T, C)``; the result has the outputs of all layers."""
        return self(inputs, lengths, return_layers=True)

    def described(self) -> dict[str, Any]:
        """Return the configuration as plain values."""
        return asdict(self.config)

    def existing_layers(self, counts: Mapping[str, float]) -> list[bool]:
        """Return whether each block still has a module."""
        return conformer_units.existing_layers(self.config, counts, "")

    def unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups of the encoder, subsampling included."""
        return conformer_units.unit_groups(self.config, "", width)

    def cost_terms(self, frames: int, width: bool = False) -> list[CostTerm]:
        """Return the cost terms for ``frames`` feature frames."""
        return conformer_units.cost_terms(self.config, frames, "", width)

    def linear_layers(self, frames: int) -> list[LinearLayer]:
        """Return the linear layers of the blocks, for ``frames`` feature frames."""
        return conformer_units.linear_layers(self.config, frames, "")

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the outputs ``(frames, D)`` for an utterance of noise."""
        features = torch.randn(1, PROBE_FRAMES, self.config.feature_dim, generator=generator)
        return self(features, torch.tensor([PROBE_FRAMES])).output[0]

    def shrink(self, structure: Structure) -> PrunableConformer:
        """Return a new encoder with the shapes that ``structure`` leaves."""
        return PrunableConformer(conformer_units.shrink(self.config, structure, ""))


class PrunableConformer(ConformerEncoder, DeclaredConformer):
    """A Conformer encoder that declares its units under its own names."""

    config: ConformerConfig
