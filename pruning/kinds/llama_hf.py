"""Language models of the Llama family as Hugging Face writes them, where its configuration has the shapes.

The configuration has one number of query heads, of key/value heads and of hidden units for all layers. Layers of which
nothing is left are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from pruning.errors import UserError
from pruning.importers.llama import CLASSES, configuration, load_llama, their_parts
from pruning.kinds.exports import HuggingFaceForm
from pruning.kinds.hf_shapes import REMEDY, check_dense, other_config, refused
from pruning.models.names import LLAMA, QWEN2
from pruning.models.rotary import LINEAR, RotaryScaling
from pruning.models.transformer_lm import TransformerLM
from pruning.models.transformer_lm_config import FIRST, IN, OUT, RMS, LanguageModelConfig


def as_hugging_face(model: TransformerLM, given: Mapping[str, Any], generation: Mapping[str, Any]) -> HuggingFaceForm:
    """Return a network in Hugging Face's form, with equal outputs.

    Args:
        model: dense or extracted network.
        given, generation: content of ``config.json`` and ``generation_config.json`` of the network that it was made
            from, whose other settings are taken over; empty: unknown.

    Raises:
        UserError: Hugging Face's configuration does not have the shapes of the network.
    """
    check_dense(model.config.ranks)
    config, layers = _without_empty_layers(model.config)
    return HuggingFaceForm(hf_values(config, given), dict(generation), {}, _tensors(model, layers), load_llama)


def _without_empty_layers(config: LanguageModelConfig) -> tuple[LanguageModelConfig, list[int]]:
    """Return the configuration without layers of which no module is left, and the numbers of the layers that stay."""
    kept = [index for index in range(config.num_layers) if config.num_heads[index] or config.ffn_dim[index]]
    if not kept:
        raise UserError("the network has no layer left, and a Hugging Face directory needs one", REMEDY)
    small = replace(
        config, num_layers=len(kept), num_heads=tuple(config.num_heads[index] for index in kept),
        ffn_dim=tuple(config.ffn_dim[index] for index in kept),
        shared_by=tuple(config.shared(index) for index in kept),
    )  # fmt: skip
    return small, kept


def hf_values(config: LanguageModelConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``config.json`` for a configuration without empty layers.

    Args:
        config: configuration of the network.
        given: content of the file of the network that it was made from; settings that are no dimensions are taken over.

    Raises:
        UserError: Hugging Face's configuration does not have the shapes, or ``given`` is of another network.
    """
    if config.norm != RMS or not config.gated:
        raise UserError("the network is not of the Llama family, and cannot be written as a Hugging Face directory",
                        "leave out --hugging-face")  # fmt: skip
    shared = [config.shared(index) for index in range(config.num_layers)]
    heads = _one_of([sum(counts) for counts in shared], "query heads")
    kept = _one_of([len(counts) for counts in shared], "key/value heads")
    for index, counts in enumerate(shared):
        if min(counts) < max(counts):
            raise refused(f"key/value heads of layer {index} are shared by {min(counts)} to {max(counts)} query heads",
                          "one number for all key/value heads")  # fmt: skip
    family = QWEN2 if config.biased == (IN,) else LLAMA
    values = {
        **{name: value for name, value in given.items() if name != "dtype"},
        "architectures": [CLASSES[family]], "model_type": family, "torch_dtype": "float32",
        "vocab_size": config.vocab_size, "hidden_size": config.d_model, "num_hidden_layers": config.num_layers,
        "num_attention_heads": heads, "num_key_value_heads": kept,
        "intermediate_size": _one_of(config.ffn_dim, "hidden units"), "hidden_act": config.activation,
        "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tied,
    }  # fmt: skip
    if family == LLAMA:
        values |= {"attention_bias": OUT in config.biased, "mlp_bias": FIRST in config.biased}
    if heads * config.head_dim != config.d_model or "head_dim" in given:
        values["head_dim"] = config.head_dim  # otherwise transformers divides the width by the heads
    if config.positions:
        values["max_position_embeddings"] = config.positions
    if "layer_types" in given:
        values["layer_types"] = ["full_attention"] * config.num_layers
    if not any(given.get(name) for name in ("rope_theta", "rope_scaling")):  # before version 5 of transformers
        values |= {"rope_theta": config.rotary_base, "rope_scaling": _scaling(config.rotary_scaling)}
    if configuration(values) != replace(config, dropout=0.0):
        raise other_config()
    return values


def needs_head_dim(config: LanguageModelConfig) -> bool:
    """Return whether the heads do not fill the width, so that older transformers cannot load the directory."""
    return any(heads and heads * config.head_dim != config.d_model for heads in config.num_heads)


def _scaling(scaling: RotaryScaling | None) -> dict[str, Any] | None:
    if scaling is None or scaling.form == LINEAR:
        return None if scaling is None else {"type": LINEAR, "rope_type": LINEAR, "factor": scaling.factor}
    values = asdict(scaling)
    return {"rope_type": scaling.form, "factor": scaling.factor, "low_freq_factor": values["slow"],
            "high_freq_factor": values["fast"], "original_max_position_embeddings": values["positions"]}  # fmt: skip


def _one_of(counts: Sequence[int], what: str) -> int:
    """Return the count that all layers have.

    Raises:
        UserError: they have several, or a layer lacks the module.
    """
    if min(counts) == 0:
        raise refused(f"layer {list(counts).index(0)} has lost a part of its modules ({what})", "whole layers only")
    if min(counts) < max(counts):
        raise refused(f"the layers have {min(counts)} to {max(counts)} {what}", "one number for all layers")
    return counts[0]


def _tensors(model: TransformerLM, layers: Sequence[int]) -> dict[str, Tensor]:
    """Return the tensors by Hugging Face's names, with layers numbered without the empty ones."""
    numbers = {f"model.layers.{old}.": f"model.layers.{new}." for new, old in enumerate(layers)}
    found = {}
    for parts in their_parts(model).values():
        for name, tensor in parts.items():
            old = next((beginning for beginning in numbers if name.startswith(beginning)), "")
            found[numbers.get(old, "") + name[len(old) :]] = tensor.contiguous()
    return found
