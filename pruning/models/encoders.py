"""Encoders by name, and what all of them have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.errors import UserError
from pruning.models import conformer_units
from pruning.models.conformer import ConformerConfig, ConformerEncoder, EncoderOutput
from pruning.models.hf_encoder import HfEncoder
from pruning.models.speech_encoder import SpeechEncoder, WaveformEncoder
from pruning.models.speech_encoder_config import SpeechEncoderConfig
from pruning.models.transducer import PROBE_FRAMES


class PrunableConformer(ConformerEncoder):
    """A Conformer encoder by itself; see `pruning.core.prunable.Prunable`."""

    def unit_groups(self) -> list[UnitGroup]:
        """All of the encoder, subsampling included."""
        return conformer_units.unit_groups(self.config, "")

    def cost_terms(self, frames: int) -> list[CostTerm]:
        """Cost for ``frames`` feature frames."""
        return conformer_units.cost_terms(self.config, frames, "")

    def linear_layers(self, frames: int) -> list[LinearLayer]:
        """Of the blocks, for ``frames`` feature frames."""
        return conformer_units.linear_layers(self.config, frames, "")

    def probe(self, generator: torch.Generator) -> Tensor:
        """Outputs ``(frames, D)`` for an utterance of noise."""
        features = torch.randn(1, PROBE_FRAMES, self.config.feature_dim, generator=generator)
        return self(features, torch.tensor([PROBE_FRAMES])).output[0]

    def shrink(self, structure: Structure) -> PrunableConformer:
        """A new encoder that has what ``structure`` leaves."""
        return PrunableConformer(conformer_units.shrink(self.config, structure, ""))


_BUILDERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "conformer": lambda config: PrunableConformer(ConformerConfig(**config)),
    "speech_encoder": lambda config: SpeechEncoder(SpeechEncoderConfig.from_dict(config)),
    "hugging_face": lambda config: HfEncoder.from_hf(config["network"], config.get("preprocessor")),
}


def build(description: Mapping[str, Any]) -> nn.Module:
    """The encoder of ``{"type": ..., "config": {...}}``, with initial weights.

    Of ``conformer`` and ``speech_encoder``, the configuration has the dimensions (`ConformerConfig`,
    `SpeechEncoderConfig`); of ``hugging_face``, ``network`` is what ``config.json`` says, ``preprocessor`` what
    ``preprocessor_config.json`` says.

    Raises:
        UserError: an unknown type, or a configuration that is not of that type.
    """
    kind = description.get("type")
    if kind not in _BUILDERS:
        raise UserError(f"there is no encoder of type {kind!r}", f"choose from {', '.join(_BUILDERS)}")
    try:
        return _BUILDERS[kind](description["config"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the configuration of a {kind} encoder does not build ({error})", "correct it") from None


def describe(encoder: nn.Module) -> dict[str, Any]:
    """The inverse of `build`: type and configuration, plain values."""
    if isinstance(encoder, HfEncoder):
        return {"type": "hugging_face", "config": encoder.described()}
    for kind, of in (("conformer", PrunableConformer), ("speech_encoder", SpeechEncoder)):
        if isinstance(encoder, of):
            return {"type": kind, "config": dataclasses.asdict(encoder.config)}
    raise TypeError(f"a {type(encoder).__name__} is not among the encoders")


def encode(encoder: nn.Module, inputs: Tensor, lengths: Tensor) -> EncoderOutput:
    """Outputs and layers of any encoder, for ``(N, T, C)`` features or ``(N, S)`` samples."""
    if isinstance(encoder, ConformerEncoder):
        return encoder(inputs, lengths, return_layers=True)
    return encoder(inputs, lengths)


def dimensions(encoder: nn.Module) -> tuple[int, int]:
    """Of its outputs, and number of its blocks."""
    config: Any = encoder.config
    return config.d_model, config.num_layers


def hears_samples(encoder: nn.Module) -> bool:
    """Whether its inputs are samples; else they are features."""
    return isinstance(encoder, WaveformEncoder)
