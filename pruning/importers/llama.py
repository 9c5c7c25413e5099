"""Language models of Hugging Face of the Llama family as networks of ours, strictly, without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.importers.hf_directory import CONFIG, directory_of, read_config
from pruning.importers.hf_weights import Weights, check_complete, check_none_left, check_tensor
from pruning.limits import COUNT, FRACTION, POSITIVE, Limit, OneOf, check
from pruning.models.layers import ACTIVATIONS
from pruning.models.names import LLAMA, QWEN2
from pruning.models.rotary import LINEAR, LLAMA3, RotaryScaling
from pruning.models.transformer_lm import TransformerLM
from pruning.models.transformer_lm_config import FIRST, IN, OUT, RMS, SECOND, LanguageModelConfig

CLASSES = {LLAMA: "LlamaForCausalLM", QWEN2: "Qwen2ForCausalLM"}
"""Class of transformers by model type."""
_STANDARD = "give a checkpoint of a standard architecture"
_SCALINGS = ("default", LINEAR, LLAMA3)
_LIMITS: dict[str, Limit] = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                     "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
                     "original_max_position_embeddings"), COUNT),
    **dict.fromkeys(("rms_norm_eps", "rope_theta", "factor", "low_freq_factor", "high_freq_factor"), POSITIVE),
    **dict.fromkeys(("attention_bias", "mlp_bias", "tie_word_embeddings", "use_sliding_window"), OneOf((False, True))),
    "attention_dropout": FRACTION,
    "partial_rotary_factor": OneOf((1, 1.0)),
    "hidden_act": OneOf(tuple(ACTIVATIONS)),
}  # fmt: skip
"""Keys of a Hugging Face configuration that define the network, and the values that are supported."""
_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
_OUTSIDE = {"embedding.weight": _EMBEDDING, "norm.weight": "model.norm.weight", "output.weight": _OUTPUT}
_IN_LAYERS = {
    "attention.in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out_proj": ("self_attn.o_proj",),
    "attention_norm": ("input_layernorm",),
    "ffn.linear1": ("mlp.up_proj", "mlp.gate_proj"),
    "ffn.linear2": ("mlp.down_proj",),
    "ffn_norm": ("post_attention_layernorm",),
}
"""Modules of a layer: ours -> theirs, whose rows ours stacks."""


def load_llama(source: PathLike) -> TransformerLM:
    """Load a language model, in evaluation mode on the CPU, with weights in float32.

    Tensors are read one after the other, so that files in half precision need no further memory.

    Args:
        source: a directory that ``save_pretrained`` wrote, or a name on the hub.

    Raises:
        UserError: ``source`` is not a checkpoint, is of an unsupported network, lacks tensors or has others; the hub
            cannot be reached.
    """
    directory = directory_of(source)
    config = configuration(read_config(directory, source), str(directory / CONFIG))
    weights = Weights(directory)
    model = TransformerLM(config)
    _fill(model, weights, str(directory))
    return model.eval()


def configuration(values: Mapping[str, Any], source: str = CONFIG) -> LanguageModelConfig:
    """Build the configuration of a Hugging Face network.

    Dropout, with which such networks are not trained, is left out.

    Args:
        values: content of ``config.json``.
        source: name of the source in error messages.

    Raises:
        UserError: a model type or a part is not supported, a value is missing or not valid.
    """
    family = values.get("model_type")
    if family not in CLASSES:
        raise UserError(f"{source}: unsupported model_type {family!r}", f"give a checkpoint of {' or '.join(CLASSES)}")
    for name in values.get("architectures") or ():
        if name != CLASSES[family]:
            raise UserError(f"{source}: unsupported architecture {name!r}", f"give a checkpoint of {CLASSES[family]}")
    if values.get("quantization_config") is not None:
        raise UserError(f"{source} describes a quantised network", "give the checkpoint before quantisation")
    given = {name: value for name, value in values.items() if value is not None}
    rotary = _rotary_values(given, source)
    for name, value in {**given, **rotary}.items():
        if name in _LIMITS:
            check(f"{source}: {name}", value, _LIMITS[name])
    try:
        return _config(given, rotary)
    except KeyError as error:
        raise UserError(f"{source} has no {error.args[0]}", "give the config.json of the network") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {error}", _STANDARD) from None


def _rotary_values(given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the settings of rotary positions, which are nested in files of transformers 5.

    Raises:
        UserError: the form of scaling is not supported.
    """
    nested = given.get("rope_parameters") or given.get("rope_scaling") or {}
    values = dict(nested) if isinstance(nested, Mapping) else {"rope_type": nested}
    form = values.get("rope_type", values.get("type", "default"))
    if form not in _SCALINGS:
        raise UserError(f"{source}: unsupported rope_scaling of type {form!r}",
                        f"give a network with one of {', '.join(_SCALINGS)}")  # fmt: skip
    return {**values, "rope_type": form, "rope_theta": values.get("rope_theta", given.get("rope_theta", 10000.0))}


def _scaling(rotary: Mapping[str, Any]) -> Optional[RotaryScaling]:
    if rotary["rope_type"] == "default":
        return None
    if rotary["rope_type"] == LINEAR:
        return RotaryScaling(LINEAR, rotary["factor"])
    return RotaryScaling(LLAMA3, rotary["factor"], rotary["low_freq_factor"], rotary["high_freq_factor"],
                         rotary["original_max_position_embeddings"])  # fmt: skip


def _config(values: Mapping[str, Any], rotary: Mapping[str, Any]) -> LanguageModelConfig:
    heads, layers, width = values["num_attention_heads"], values["num_hidden_layers"], values["hidden_size"]
    kept = values.get("num_key_value_heads", heads)
    if heads % kept:
        raise ValueError(f"the {kept} key/value heads do not divide the {heads} query heads")
    if "head_dim" not in values and width % heads:
        raise ValueError(f"the {heads} heads do not divide hidden_size {width}")
    _check_window(values)
    return LanguageModelConfig(
        d_model=width, num_layers=layers, head_dim=values.get("head_dim", width // heads), num_heads=(heads,),
        ffn_dim=(values["intermediate_size"],), vocab_size=values["vocab_size"],
        tied=values.get("tie_word_embeddings", False), dropout=0.0, shared_by=((heads // kept,) * kept,), norm=RMS,
        norm_eps=values.get("rms_norm_eps", 1e-6), gated=True, activation=values.get("hidden_act", "silu"),
        biased=_biased(values), rotary_base=rotary["rope_theta"], rotary_scaling=_scaling(rotary),
        positions=values.get("max_position_embeddings", 0),
    )  # fmt: skip


def _biased(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return our linear layers that have a bias: in a Qwen2, queries, keys and values."""
    if values["model_type"] == QWEN2:
        return (IN,)
    attention, mlp = values.get("attention_bias", False), values.get("mlp_bias", False)
    return (*[IN, OUT] * attention, *[FIRST, SECOND] * mlp)


def _check_window(values: Mapping[str, Any]) -> None:
    """Refuse networks in which a layer does not attend to all earlier tokens.

    Raises:
        ValueError: a sliding window is used.
    """
    sliding = "sliding_attention" in (values.get("layer_types") or ())
    if values.get("use_sliding_window", False) and values.get("sliding_window") is not None:
        sliding |= values.get("max_window_layers", 0) < values["num_hidden_layers"] and not values.get("layer_types")
    if sliding:
        raise ValueError("a sliding window is used (use_sliding_window), which is not supported")


def their_names(name: str) -> list[str]:
    """Return the tensors of Hugging Face whose rows the tensor ``name`` of a `TransformerLM` stacks, in order."""
    if name in _OUTSIDE:
        return [_OUTSIDE[name]]
    _, index, inner = name.split(".", 2)
    module, _, tensor = inner.rpartition(".")
    return [f"model.layers.{index}.{part}.{tensor}" for part in _IN_LAYERS[module]]


def their_parts(model: TransformerLM) -> dict[str, dict[str, Tensor]]:
    """Return views of the tensors of a network, by our names and then by those of Hugging Face, whose rows they are."""
    found, config = {}, model.config
    for name, tensor in model.state_dict().items():
        names = their_names(name)
        rows = [len(tensor) // len(names)] * len(names)
        if len(names) == 3:  # queries, keys and values
            index = int(name.split(".")[1])
            rows = [count[index] * config.head_dim for count in (config.num_heads, config.kv_heads, config.kv_heads)]
        found[name] = dict(zip(names, tensor.detach().split(rows)))
    return found


@torch.no_grad()
def _fill(model: TransformerLM, weights: Weights, source: str) -> None:
    """Copy a checkpoint into a network, whose tensors it must have all, and no others."""
    parts = {name: part for of_tensor in their_parts(model).values() for name, part in of_tensor.items()}
    check_complete(weights, parts, source, "the network")
    check_none_left(weights, {*parts, *[_OUTPUT] * model.config.tied}, source)
    for name, part in parts.items():
        found = weights[name]
        check_tensor(found, part.shape, name, source)
        part.copy_(found)
    if model.config.tied and _OUTPUT in weights and not torch.equal(weights[_OUTPUT], weights[_EMBEDDING]):
        raise UserError(f"{source}: {_OUTPUT} differs from the embedding, although config.json says that they are the "
                        "same", "set tie_word_embeddings to false in config.json")  # fmt: skip
