"""Encoders by name, so that a description rebuilds its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pruning.errors import UserError
from pruning.models.conformer import ConformerConfig
from pruning.models.encoder import Encoder
from pruning.models.hf_encoder import HfEncoder
from pruning.models.prunable_conformer import PrunableConformer
from pruning.models.speech_encoder import SpeechEncoder
from pruning.models.speech_encoder_config import SpeechEncoderConfig

_BUILDERS: dict[str, Callable[[Mapping[str, Any]], Encoder]] = {
    PrunableConformer.form: lambda config: PrunableConformer(ConformerConfig(**config)),
    SpeechEncoder.form: lambda config: SpeechEncoder(SpeechEncoderConfig.from_dict(config)),
    HfEncoder.form: lambda config: HfEncoder.from_hf(config["network"], config.get("preprocessor")),
}


def build(description: Mapping[str, Any]) -> Encoder:
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


def describe(encoder: Encoder) -> dict[str, Any]:
    """The inverse of `build`: type and configuration, plain values."""
    return {"type": encoder.form, "config": encoder.described()}
