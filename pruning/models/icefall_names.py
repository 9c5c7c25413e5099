"""Mapping from tensors of icefall's Conformers to those of `ConformerEncoder`: names, and scales multiplied out."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from pruning.models.conformer import REWORKED, ConformerConfig

_MODULES = {  # modules of a layer; the number of a feed-forward module's second linear layer depends on the variant
    "macaron.linear1.": "feed_forward_macaron.0.",
    "macaron.linear2.": "feed_forward_macaron.{second}.",
    "macaron.": "feed_forward_macaron.",
    "macaron_norm.": "norm_ff_macaron.",
    "attention.in_proj.": "self_attn.in_proj.",
    "attention.out_proj.": "self_attn.out_proj.",
    "attention.pos_proj.": "self_attn.linear_pos.",
    "attention.": "self_attn.",
    "attention_norm.": "norm_mha.",
    "convolution.pointwise1.": "conv_module.pointwise_conv1.",
    "convolution.depthwise.": "conv_module.depthwise_conv.",
    "convolution.pointwise2.": "conv_module.pointwise_conv2.",
    "convolution.": "conv_module.",
    "convolution_norm.": "norm_conv.",
    "ffn.linear1.": "feed_forward.0.",
    "ffn.linear2.": "feed_forward.{second}.",
    "ffn.": "feed_forward.",
    "ffn_norm.": "norm_ff.",
    "final_norm.log_eps": "norm_final.eps",
    "final_norm.": "norm_final.",
}

COMBINER = "encoder.combiner."
"""Name prefix of encoder tensors that only training uses."""


def encoder_name(ours: str, variant: str) -> str:
    """Return icefall's name for a tensor, or for a name prefix, of our Conformer encoder."""
    between, second = (3, "4") if variant == REWORKED else (2, "3")  # modules per convolution; see _MODULES
    if ours.startswith("layers."):
        _, number, rest = ours.split(".", 2)
        theirs = next((new + rest[len(old) :] for old, new in _MODULES.items() if rest.startswith(old)), rest)
        return f"encoder.layers.{number}.{theirs.format(second=second)}"
    if ours.startswith("subsampling.convs."):
        _, _, number, rest = ours.split(".", 3)
        return f"encoder_embed.conv.{int(number) * between}.{rest}"
    return ours.replace("subsampling.", "encoder_embed.").replace("log_eps", "eps")


def scale_name(name: str) -> str:
    """Return the name of a tensor's scale in a reworked network, where all tensors except norms' ``eps`` have one."""
    return "decoder.embedding.scale" if name == "decoder.embedding.weight" else f"{name}_scale"


def folded(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a tensor times the exponential of its scale, or the tensor itself if it has no scale."""
    scale = state.get(scale_name(name))
    return state[name] if scale is None else state[name] * scale.exp()


def encoder_tensor(state: Mapping[str, Tensor], ours: str, config: ConformerConfig, prefix: str = "") -> Tensor:
    """Return a tensor of our encoder from the tensors of icefall's encoder, whose names begin with ``prefix``."""
    tensor = folded(state, f"{prefix}{encoder_name(ours, config.variant)}")
    if config.variant == REWORKED and ours.endswith(("pos_bias_u", "pos_bias_v")):
        return tensor * math.sqrt(config.head_dim)  # icefall scales queries before adding it, we after
    return tensor
