"""Networks by name, so that a checkpoint rebuilds its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from pruning.errors import UserError
from pruning.models.speech_encoder import SpeechEncoder
from pruning.models.speech_encoder_config import SpeechEncoderConfig
from pruning.models.speech_model import SpeechModel, SpeechModelConfig
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.models.transformer_lm import LanguageModelConfig, TransformerLM

_BUILDERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "speech_encoder": lambda config: SpeechEncoder(SpeechEncoderConfig.from_dict(config)),
    "speech_model": lambda config: SpeechModel(SpeechModelConfig(**config)),
    "transducer": lambda config: Transducer(TransducerConfig.from_dict(config)),
    "transformer_lm": lambda config: TransformerLM(LanguageModelConfig.from_dict(config)),
}


def build(description: Mapping[str, Any], source: str = "the checkpoint") -> nn.Module:
    """The network of ``{"type": ..., "config": {...}}``, with initial weights.

    Raises:
        UserError: an unknown type, or a configuration that is not of that type.
    """
    kind = description.get("type") if isinstance(description, Mapping) else None
    if not isinstance(kind, str) or kind not in _BUILDERS:
        raise UserError(
            f"{source} holds a network of type {kind!r}", f"this version knows {', '.join(sorted(_BUILDERS))}"
        )
    try:
        return _BUILDERS[kind](description["config"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{source} has a {kind} configuration that does not build ({error})", "use the version that wrote it"
        ) from None


def describe(model: nn.Module) -> dict[str, Any]:
    """The inverse of `build`: type and configuration, plain values."""
    if isinstance(model, Transducer):
        return {"type": "transducer", "config": dataclasses.asdict(model.config)}
    if isinstance(model, TransformerLM):
        return {"type": "transformer_lm", "config": dataclasses.asdict(model.config)}
    if isinstance(model, SpeechModel):
        return {"type": "speech_model", "config": dataclasses.asdict(model.config)}
    if isinstance(model, SpeechEncoder):
        return {"type": "speech_encoder", "config": dataclasses.asdict(model.config)}
    raise TypeError(f"{type(model).__name__} is not in the registry")
