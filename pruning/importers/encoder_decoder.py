"""Whisper and Moonshine of Hugging Face as networks of ours, strictly, without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.importers.hf_directory import CONFIG, directory_of, read_config
from pruning.importers.hf_weights import Weights, check_none_left, check_tensors
from pruning.limits import COUNT, FRACTION, NATURAL, POSITIVE, Limit, OneOf, check
from pruning.models.encoder_decoder import EncoderDecoder
from pruning.models.encoder_decoder_config import (
    FAMILY_NAMES,
    MOONSHINE,
    WHISPER,
    AudioEncoderConfig,
    EncoderDecoderConfig,
    TextDecoderConfig,
)
from pruning.models.layers import ACTIVATIONS

_STANDARD = "give a checkpoint of a standard architecture"
_ARCHITECTURES = ("WhisperForConditionalGeneration", "WhisperModel", "MoonshineForConditionalGeneration",
                  "MoonshineModel")  # fmt: skip
_LIMITS: dict[str, Limit] = {
    **dict.fromkeys(("d_model", "num_mel_bins", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim",
                     "decoder_layers", "decoder_attention_heads", "decoder_ffn_dim", "max_source_positions",
                     "max_target_positions", "vocab_size", "hidden_size", "intermediate_size", "head_dim",
                     "encoder_num_hidden_layers", "encoder_num_attention_heads", "encoder_num_key_value_heads",
                     "decoder_num_hidden_layers", "decoder_num_attention_heads", "decoder_num_key_value_heads"), COUNT),
    **dict.fromkeys(("decoder_start_token_id", "eos_token_id"), NATURAL),
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), FRACTION),
    **dict.fromkeys(("rope_theta", "partial_rotary_factor"), POSITIVE),
    **dict.fromkeys(("activation_function", "encoder_hidden_act", "decoder_hidden_act"), OneOf(tuple(ACTIVATIONS))),
    **dict.fromkeys(("scale_embedding", "attention_bias"), OneOf((False,))),
    "tie_word_embeddings": OneOf((False, True)),
    "rope_type": OneOf(("default",)),
}  # fmt: skip
"""Keys of a Hugging Face configuration that define the network, and the values that are supported."""

_OUTPUT, _EMBEDDING = "proj_out.weight", "decoder.embed_tokens.weight"
_IN_LAYERS = {
    WHISPER: {
        "attention.": "self_attn.", "attention_norm.": "self_attn_layer_norm.", "cross_attention.": "encoder_attn.",
        "cross_attention_norm.": "encoder_attn_layer_norm.", "ffn.linear1.": "fc1.", "ffn.linear2.": "fc2.",
        "ffn_norm.": "final_layer_norm.",
    },
    MOONSHINE: {
        "attention.out_proj.": "self_attn.o_proj.", "attention.": "self_attn.", "attention_norm.": "input_layernorm.",
        "cross_attention.out_proj.": "encoder_attn.o_proj.", "cross_attention.": "encoder_attn.",
        "cross_attention_norm.": "post_attention_layernorm.", "ffn.linear1.": "mlp.fc1.", "ffn.linear2.": "mlp.fc2.",
        "ffn_norm.": "final_layernorm.",
    },
}  # fmt: skip
"""Beginnings of names in a layer: ours -> theirs, more special ones first."""
_OUTSIDE = {
    "encoder.front_end.norm.": "encoder.groupnorm.",
    "encoder.positions.": "encoder.embed_positions.",
    "encoder.norm.": "encoder.layer_norm.",
    "decoder.embedding.": "decoder.embed_tokens.",
    "decoder.positions.": "decoder.embed_positions.",
    "decoder.output.": "proj_out.",
}


def load_encoder_decoder(source: PathLike) -> EncoderDecoder:
    """Load a Whisper or a Moonshine, in evaluation mode on the CPU, with weights in float32.

    Args:
        source: a directory that ``save_pretrained`` wrote, or a name on the hub.

    Raises:
        UserError: ``source`` is not a checkpoint, is of an unsupported network, lacks tensors or has others; the hub
            cannot be reached.
    """
    directory = directory_of(source)
    config = configuration(read_config(directory, source), str(directory / CONFIG))
    model = EncoderDecoder(config)
    model.load_state_dict(_ours(model, Weights(directory), str(directory)), strict=True)
    return model.eval()


def configuration(values: Mapping[str, Any], source: str = CONFIG) -> EncoderDecoderConfig:
    """Build the configuration of a Hugging Face network.

    Args:
        values: content of ``config.json``, with all dimensions; other absent keys have the default of the model type.
        source: name of the source in error messages.

    Raises:
        UserError: a model type or a part is not supported, a value is missing or not valid.
    """
    family = values.get("model_type")
    if family not in FAMILY_NAMES:
        raise UserError(f"{source}: unsupported model_type {family!r}",
                        f"give a checkpoint of {' or '.join(FAMILY_NAMES)}")  # fmt: skip
    for name in values.get("architectures") or ():
        if name not in _ARCHITECTURES:
            raise UserError(f"{source}: unsupported architecture {name!r}",
                            f"give a checkpoint of one of {', '.join(_ARCHITECTURES)}")  # fmt: skip
    rotary = values.get("rope_parameters") or values.get("rope_scaling") or {}
    given = {**values, **(rotary if isinstance(rotary, Mapping) else {"rope_type": rotary})}
    given = {name: value for name, value in given.items() if value is not None}
    for name in (name for name in _LIMITS if name in given):
        check(f"{source}: {name}", given[name], _LIMITS[name])
    try:
        return (_whisper if family == WHISPER else _moonshine)(given)
    except KeyError as error:
        raise UserError(f"{source} has no {error.args[0]}", "give the config.json of the network") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {error}", _STANDARD) from None


def _whisper(values: Mapping[str, Any]) -> EncoderDecoderConfig:
    d, activation = values["d_model"], values.get("activation_function", "gelu")
    dropouts = {ours: values.get(theirs, 0.0) for ours, theirs in (
        ("dropout", "dropout"), ("attention_dropout", "attention_dropout"), ("ffn_dropout", "activation_dropout"))
    }  # fmt: skip
    heads = values["encoder_attention_heads"]
    if d % heads or d % values["decoder_attention_heads"]:
        raise ValueError(f"the heads do not divide d_model {d}")
    encoder = AudioEncoderConfig(
        family=WHISPER, d_model=d, num_layers=values["encoder_layers"], head_dim=d // heads, heads=(heads,),
        ffn_dim=(values["encoder_ffn_dim"],), positions=values.get("max_source_positions", 1500),
        activation=activation, conv_channels=(d,), bins=values.get("num_mel_bins", 80), **dropouts,
    )  # fmt: skip
    heads = values["decoder_attention_heads"]
    decoder = TextDecoderConfig(
        family=WHISPER, d_model=d, num_layers=values["decoder_layers"], head_dim=d // heads, heads=(heads,),
        cross_heads=(heads,), ffn_dim=(values["decoder_ffn_dim"],), positions=values.get("max_target_positions", 448),
        activation=activation, vocab_size=values["vocab_size"], memory_dim=d,
        tied=values.get("tie_word_embeddings", True), start=values["decoder_start_token_id"],
        end=_end(values["eos_token_id"]), **dropouts,
    )  # fmt: skip
    return EncoderDecoderConfig(encoder, decoder)


def _moonshine(values: Mapping[str, Any]) -> EncoderDecoderConfig:
    d = values["hidden_size"]

    def common(side: str, activation: str) -> dict[str, Any]:
        heads = values[f"{side}_num_attention_heads"]
        if values.get(f"{side}_num_key_value_heads", heads) != heads:
            raise ValueError(f"{side}_num_key_value_heads must be {heads}, the number of heads: shared keys and values "
                             "are not supported")  # fmt: skip
        size = values.get("head_dim", d // heads)
        return {
            "family": MOONSHINE, "d_model": d, "num_layers": values[f"{side}_num_hidden_layers"], "head_dim": size,
            "heads": (heads,), "ffn_dim": (values["intermediate_size"],),
            "activation": values.get(f"{side}_hidden_act", activation),
            "rotary_dim": int(size * values.get("partial_rotary_factor", 0.9)),
            "rotary_base": values.get("rope_theta", 10000.0),
            "attention_dropout": values.get("attention_dropout", 0.0),
        }  # fmt: skip

    encoder = AudioEncoderConfig(conv_channels=(d, 2 * d), **common("encoder", "gelu"))
    decoder = TextDecoderConfig(
        cross_heads=(values["decoder_num_attention_heads"],), vocab_size=values["vocab_size"], memory_dim=d,
        tied=values.get("tie_word_embeddings", True), start=values.get("decoder_start_token_id", 1),
        end=_end(values.get("eos_token_id", 2)), **common("decoder", "silu"),
    )  # fmt: skip
    return EncoderDecoderConfig(encoder, decoder)


def _end(tokens: Any) -> int:
    """Return the token that ends a transcript, which may be the only one of a list."""
    ends = tokens if isinstance(tokens, list) else [tokens]
    if len(ends) != 1:
        raise ValueError(f"eos_token_id must be one token, got {tokens}")
    return int(ends[0])


def their_name(name: str, family: str) -> str:
    """Return the name that Hugging Face gives the tensor ``name`` of an `EncoderDecoder`, without the prefix."""
    side, _, rest = name.partition(".")
    if rest.startswith("layers."):
        index, _, inner = rest[len("layers.") :].partition(".")
        table = _IN_LAYERS[family]
        if family == MOONSHINE and side == "encoder":
            table = {**table, "ffn_norm.": "post_attention_layernorm."}
        ours = next(beginning for beginning in table if inner.startswith(beginning))
        return f"{side}.layers.{index}.{table[ours]}{inner[len(ours) :]}"
    if rest.startswith("front_end.convolutions."):
        index, _, tensor = rest[len("front_end.convolutions.") :].partition(".")
        return f"{side}.conv{int(index) + 1}.{tensor}"
    names = {**_OUTSIDE, "decoder.norm.": "decoder.layer_norm." if family == WHISPER else "decoder.norm."}
    ours = next(beginning for beginning in names if name.startswith(beginning))
    return f"{names[ours]}{name[len(ours) :]}"


def _ours(model: EncoderDecoder, tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by our names, all of which it must have, and no others."""
    found = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    state, family = model.state_dict(), model.config.encoder.family
    names = {name: their_name(name, family) for name in state}
    check_tensors(found, {names[name]: tensor for name, tensor in state.items()}, source, "the network")
    if model.config.decoder.tied and _OUTPUT in found:
        if not torch.equal(found[_OUTPUT], found[_EMBEDDING]):
            raise UserError(f"{source}: {_OUTPUT} differs from the embedding, although config.json says that they are "
                            "the same", "set tie_word_embeddings to false in config.json")  # fmt: skip
        del found[_OUTPUT]
    check_none_left(found, names.values(), source)
    return {name: found[theirs] for name, theirs in names.items()}
