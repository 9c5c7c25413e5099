"""Encoder types by name: build an encoder from its description and describe an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pruning.errors import UserError
from pruning.models.audio_encoder import AudioEncoder
from pruning.models.conformer import ConformerConfig
from pruning.models.encoder import Encoder
from pruning.models.encoder_decoder_config import AudioEncoderConfig
from pruning.models.hf_encoder import HfEncoder
from pruning.models.prunable_conformer import PrunableConformer
from pruning.models.prunable_zipformer import PrunableZipformer
from pruning.models.speech_encoder import SpeechEncoder
from pruning.models.speech_encoder_config import SpeechEncoderConfig
from pruning.models.zipformer_config import ZipformerConfig

_BUILDERS: dict[str, Callable[[Mapping[str, Any]], Encoder]] = {
    PrunableConformer.form: lambda config: PrunableConformer(ConformerConfig(**config)),
    PrunableZipformer.form: lambda config: PrunableZipformer(ZipformerConfig(**config)),
    SpeechEncoder.form: lambda config: SpeechEncoder(SpeechEncoderConfig.from_dict(config)),
    AudioEncoder.form: lambda config: AudioEncoder(AudioEncoderConfig.from_dict(config)),
    HfEncoder.form: lambda config: HfEncoder.from_hf(config["network"], config.get("preprocessor")),
}


def build(description: Mapping[str, Any]) -> Encoder:
    """Build the encoder of ``{"type": ..., "config": {...}}``, with initial weights.

    For ``conformer``, ``zipformer``, ``speech_encoder`` and ``audio_encoder``, ``config`` has the dimensions
    (`ConformerConfig`, `ZipformerConfig`, `SpeechEncoderConfig`, `AudioEncoderConfig`).
    For ``hugging_face``, its ``network`` is the content of ``config.json`` and its ``preprocessor`` that of
    ``preprocessor_config.json``.

    Raises:
        UserError: the type is unknown, or the configuration does not fit it.
    """
    kind = description.get("type")
    if kind not in _BUILDERS:
        raise UserError(f"unknown encoder type {kind!r}", f"choose from {', '.join(_BUILDERS)}")
    try:
        return _BUILDERS[kind](description["config"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot build a {kind} encoder from its configuration ({error})",
                        "correct the configuration") from None  # fmt: skip


def describe(encoder: Encoder) -> dict[str, Any]:
    """Return the description of an encoder for `build`: type and configuration as plain values."""
    return {"type": encoder.form, "config": encoder.described()}
