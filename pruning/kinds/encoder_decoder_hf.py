"""Whisper and Moonshine as Hugging Face writes them: configuration and tensors, where its configuration has the shapes.

The configuration has one number of heads for each side of the network; Whisper has one of hidden units for each side,
Moonshine one for both. Head dims of Whisper follow from its width. Layers of which nothing is left are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from pruning.errors import UserError
from pruning.importers.encoder_decoder import configuration, load_encoder_decoder, their_name
from pruning.importers.hf_tokens import FORCED
from pruning.kinds.exports import HuggingFaceForm
from pruning.kinds.hf_shapes import REMEDY, check_dense, other_config, refused
from pruning.models.encoder_decoder import EncoderDecoder
from pruning.models.encoder_decoder_config import (
    MOONSHINE,
    WHISPER,
    AudioEncoderConfig,
    EncoderDecoderConfig,
    StackConfig,
    TextDecoderConfig,
)

_ALIGNMENT = "alignment_heads"
_CLASSES = {WHISPER: "WhisperForConditionalGeneration", MOONSHINE: "MoonshineForConditionalGeneration"}
_STACK = TypeVar("_STACK", AudioEncoderConfig, TextDecoderConfig)


def as_hugging_face(
    model: EncoderDecoder,
    values: Mapping[str, Any],
    generation: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    speech: Mapping[str, str] = {},
) -> HuggingFaceForm:
    """Return a network in Hugging Face's form, equal in what it computes for single utterances in its whole window.

    Args:
        model: dense or extracted network.
        values, generation, preprocessor: content of the files of the network that it was made from, whose other
            settings are taken over; empty: unknown.
        speech: language and task of a Whisper of several languages, see `NetworkTokens.speech`.

    Raises:
        UserError: Hugging Face's configuration does not have the shapes of the network.
    """
    config, layers = without_empty_layers(model.config)
    written = hf_values(config, values)
    tensors = _tensors(model, layers)
    kept: dict[str, Any] = {**generation, **speech} if generation else {}
    if speech:
        kept.pop(FORCED, None)  # older settings, which may ask for another language
    if not values:  # else config.json has the settings that a missing file would have
        kept = {"decoder_start_token_id": config.decoder.start, "eos_token_id": config.decoder.end, **kept}
    if config.decoder.num_layers != len(layers[1]) or _heads_changed(config, values):
        kept.pop(_ALIGNMENT, None)  # they number layers and heads of the network before
    return HuggingFaceForm(written, kept, dict(preprocessor) or _preprocessor(config), tensors,
                           load_encoder_decoder)  # fmt: skip


def without_empty_layers(config: EncoderDecoderConfig) -> tuple[EncoderDecoderConfig, tuple[list[int], list[int]]]:
    """Return the configuration without layers of which no module is left, and the numbers of the layers that stay.

    Raises:
        UserError: a side has no layer left.
    """
    encoder, of_encoder = _without_empty(config.encoder, "encoder")
    decoder, of_decoder = _without_empty(config.decoder, "decoder")
    return replace(config, encoder=encoder, decoder=decoder), (of_encoder, of_decoder)


def _without_empty(config: _STACK, side: str) -> tuple[_STACK, list[int]]:
    columns = _columns(config)
    kept = [index for index in range(config.num_layers) if any(column[index] for column in columns.values())]
    if not kept:
        raise UserError(f"the {side} has no layer left, and a Hugging Face directory needs one", REMEDY)
    changes: dict[str, Any] = {name: tuple(column[index] for index in kept) for name, column in columns.items()}
    return replace(config, num_layers=len(kept), **changes), kept


def _columns(config: StackConfig) -> dict[str, tuple[int, ...]]:
    """Return the dimensions of each layer by the name of their field."""
    names = {"attention": "heads", "cross_attention": "cross_heads"}
    return {**{names[module]: heads for module, heads in config.attention_heads.items()}, "ffn_dim": config.ffn_dim}


def hf_values(config: EncoderDecoderConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``config.json`` for a configuration without empty layers.

    Args:
        config: configuration of the network.
        given: content of the file of the network that it was made from; settings that are no dimensions are taken over.

    Raises:
        UserError: Hugging Face's configuration does not have the shapes, or ``given`` is of another network.
    """
    check_dense(config.ranks)
    if config.encoder.d_model != config.decoder.d_model:
        raise refused(f"the widths of encoder and decoder are {config.encoder.d_model} and {config.decoder.d_model}",
                       "one width for both")  # fmt: skip
    family = config.encoder.family
    values = {
        **{name: value for name, value in given.items() if name != "dtype"},
        "architectures": [_CLASSES[family]], "model_type": family, "torch_dtype": "float32",
        "is_encoder_decoder": True, "vocab_size": config.decoder.vocab_size,
        "tie_word_embeddings": config.decoder.tied, "decoder_start_token_id": config.decoder.start,
        "eos_token_id": config.decoder.end, **(_whisper if family == WHISPER else _moonshine)(config, given),
    }  # fmt: skip
    for name, value in (("bos_token_id", config.decoder.start), ("pad_token_id", config.decoder.end)):
        values.setdefault(name, value)  # the defaults of transformers may be beyond the vocabulary
    untold = EncoderDecoderConfig.tokens_per_second  # as the tail, no setting of Hugging Face's
    expected = replace(config, encoder=replace(config.encoder, tail=None), tokens_per_second=untold)
    if configuration(values) != expected:
        raise other_config()
    return values


def _whisper(config: EncoderDecoderConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    encoder, decoder = config.encoder, config.decoder
    values: dict[str, Any] = {}
    stacks: tuple[tuple[str, StackConfig], ...] = (("encoder", encoder), ("decoder", decoder))
    for side, stack in stacks:
        heads = _one_of(stack, side, _heads_of(stack), "heads of attention")
        if heads * stack.head_dim != stack.d_model:
            raise refused(f"the {side} has {heads} heads of dimension {stack.head_dim} and width {stack.d_model}",
                           "as many heads as fill the width")  # fmt: skip
        values |= {f"{side}_layers": stack.num_layers, f"{side}_attention_heads": heads,
                   f"{side}_ffn_dim": _one_of(stack, side, stack.ffn_dim, "hidden units")}  # fmt: skip
    _check_channels(encoder, (encoder.d_model,))
    if "num_hidden_layers" in given:
        values["num_hidden_layers"] = encoder.num_layers
    return {
        **values, "d_model": encoder.d_model, "num_mel_bins": encoder.bins, "activation_function": encoder.activation,
        "max_source_positions": encoder.positions, "max_target_positions": decoder.positions,
        "dropout": encoder.dropout, "attention_dropout": encoder.attention_dropout,
        "activation_dropout": encoder.ffn_dropout, "scale_embedding": False,
    }  # fmt: skip


def _moonshine(config: EncoderDecoderConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    encoder, decoder = config.encoder, config.decoder
    values: dict[str, Any] = {}
    stacks: tuple[tuple[str, StackConfig], ...] = (("encoder", encoder), ("decoder", decoder))
    hidden = {}
    for side, stack in stacks:
        heads = _one_of(stack, side, _heads_of(stack), "heads of attention")
        hidden[side] = _one_of(stack, side, stack.ffn_dim, "hidden units")
        values |= {f"{side}_num_hidden_layers": stack.num_layers, f"{side}_num_attention_heads": heads,
                   f"{side}_num_key_value_heads": heads, f"{side}_hidden_act": stack.activation}  # fmt: skip
    heads_of = [values[f"{side}_num_attention_heads"] for side, _ in stacks]
    if heads_of[0] != heads_of[1]:
        raise refused(f"the encoder has {heads_of[0]} heads and the decoder {heads_of[1]}",
                      "one number for both sides of a Moonshine")  # fmt: skip
    if hidden["encoder"] != hidden["decoder"]:
        raise refused("the feed-forward modules of encoder and decoder have {encoder} and {decoder} hidden units"
                       .format(**hidden), "one number for both sides of a Moonshine")  # fmt: skip
    _check_channels(encoder, (encoder.d_model, 2 * encoder.d_model))
    values |= {"hidden_size": encoder.d_model, "intermediate_size": hidden["encoder"], "attention_bias": False,
               "attention_dropout": encoder.attention_dropout}  # fmt: skip
    if values["decoder_num_attention_heads"] * encoder.head_dim != encoder.d_model or "head_dim" in given:
        values["head_dim"] = encoder.head_dim  # otherwise transformers divides the width by the heads of the decoder
    return {**values, **_rotary(encoder, given)}


def _rotary(encoder: AudioEncoderConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of rotary positions, if those that are given do not have the network's."""
    nested = given.get("rope_parameters") or given.get("rope_scaling")
    found = {**given, **(nested if isinstance(nested, Mapping) else {})}
    share, size = found.get("partial_rotary_factor", 0.9), encoder.head_dim
    if int(size * share) == encoder.rotary_dim and found.get("rope_theta", 10000.0) == encoder.rotary_base:
        return {}
    share = (encoder.rotary_dim + 0.5) / size if encoder.rotary_dim < size else 1.0
    return {"partial_rotary_factor": share, "rope_theta": encoder.rotary_base, "rope_parameters": None,
            "rope_scaling": None}  # fmt: skip


def _heads_of(stack: StackConfig) -> list[int]:
    return [count for heads in stack.attention_heads.values() for count in heads]


def _one_of(stack: StackConfig, side: str, counts: Sequence[int], what: str) -> int:
    """Return the count that all modules of a side have.

    Raises:
        UserError: they have several, or a layer lacks the module.
    """
    if min(counts) == 0:
        layer = next(index for index in range(stack.num_layers) if counts[index :: stack.num_layers].count(0))
        raise refused(f"layer {layer} of the {side} has lost a part of its modules ({what})", "whole layers only")
    if min(counts) < max(counts):
        raise refused(f"the layers of the {side} have {min(counts)} to {max(counts)} {what}",
                       f"one number for all layers of the {side}")  # fmt: skip
    return counts[0]


def _check_channels(encoder: AudioEncoderConfig, needed: tuple[int, ...]) -> None:
    if encoder.conv_channels != needed:
        found, wanted = (" and ".join(map(str, channels)) for channels in (encoder.conv_channels, needed))
        raise refused(f"the front end of the encoder has {found} channels, not {wanted}", "all channels of the width")


def _heads_changed(config: EncoderDecoderConfig, given: Mapping[str, Any]) -> bool:
    """Return whether the decoder has another number of layers or heads than the network that it was made from."""
    names = {"decoder_layers": config.decoder.num_layers, "decoder_attention_heads": config.decoder.cross_heads[0]}
    return any(given.get(name, value) != value for name, value in names.items())


def _preprocessor(config: EncoderDecoderConfig) -> dict[str, Any]:
    """Return the settings of the features, for a network whose directory had none."""
    if config.encoder.bins:
        return {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": config.encoder.bins,
                "sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "padding_value": 0.0,
                "chunk_length": config.encoder.positions // 50, "nb_max_frames": 2 * config.encoder.positions,
                "n_samples": 320 * config.encoder.positions, "padding_side": "right",
                "return_attention_mask": False, "processor_class": "WhisperProcessor"}  # fmt: skip
    return {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 16000,
            "do_normalize": False, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": True,
            "processor_class": "Wav2Vec2Processor"}  # fmt: skip


def _tensors(model: EncoderDecoder, layers: tuple[list[int], list[int]]) -> dict[str, Tensor]:
    """Return the tensors by Hugging Face's names, with layers numbered without the empty ones."""
    family, tensors = model.config.encoder.family, {}
    numbers = {f"{side}.layers.{old}.": f"{side}.layers.{new}."
               for side, kept in zip(("encoder", "decoder"), layers) for new, old in enumerate(kept)}  # fmt: skip
    for name, tensor in model.state_dict().items():
        old = next((beginning for beginning in numbers if name.startswith(beginning)), "")
        theirs = their_name(numbers.get(old, "") + name[len(old) :], family)
        prefix = "" if theirs.startswith("proj_out.") else "model."
        tensors[f"{prefix}{theirs}"] = tensor.detach()
    return tensors
