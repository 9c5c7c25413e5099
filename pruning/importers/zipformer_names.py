"""Names of the tensors of icefall's ``zipformer`` recipe, and ours."""

from __future__ import annotations

from pruning.models.zipformer_config import ZipformerConfig

_OF_LAYER = {  # module of a layer, or a part of it: ours -> theirs
    "attention_weights.in_proj": "self_attn_weights.in_proj",
    "attention_weights.pos_proj": "self_attn_weights.linear_pos",
    "nonlin": "nonlin_attention",
    "norm": "norm",
    "bypass.scale": "bypass.bypass_scale",
    "bypass_mid.scale": "bypass_mid.bypass_scale",
}
for _number in (1, 2):
    _OF_LAYER[f"attention{_number}"] = f"self_attn{_number}"
    _ours, _theirs = f"convolution{_number}", f"conv_module{_number}"
    _OF_LAYER[f"{_ours}.depthwise"] = f"{_theirs}.depthwise_conv"
    _OF_LAYER[f"{_ours}.chunked.past"] = f"{_theirs}.depthwise_conv.causal_conv"
    _OF_LAYER[f"{_ours}.chunked.within"] = f"{_theirs}.depthwise_conv.chunkwise_conv"
    _OF_LAYER[f"{_ours}.chunked.edges"] = f"{_theirs}.depthwise_conv.chunkwise_conv_scale"
    _OF_LAYER[_ours] = _theirs
for _number in (1, 2, 3):
    _OF_LAYER[f"ffn{_number}.linear1"] = f"feed_forward{_number}.in_proj"
    _OF_LAYER[f"ffn{_number}.linear2"] = f"feed_forward{_number}.out_proj"

_OF_FRONT_END = {
    "convs.0": "conv.0",  # between them are activations and what only training uses
    "convs.1": "conv.4",
    "convs.2": "conv.7",
    "convnext.depthwise": "convnext.depthwise_conv",
    "convnext.pointwise1": "convnext.pointwise_conv1",
    "convnext.pointwise2": "convnext.pointwise_conv2",
    "out": "out",
    "out_norm": "out_norm",
}
AROUND = {  # modules outside the encoder: ours -> theirs
    "decoder.embedding": "decoder.embedding",
    "decoder.conv": "decoder.conv",
    "joiner.encoder_proj": "joiner.encoder_proj",
    "joiner.decoder_proj": "joiner.decoder_proj",
    "joiner.output": "joiner.output_linear",
    "simple_am": "simple_am_proj",
    "simple_lm": "simple_lm_proj",
    "ctc_head": "ctc_output.1",
    "head.output": "ctc_output.1",
}
UNUSED = "bypass_scale"
"""Tensor of each layer that icefall's network has but does not use."""


def layer_prefix(config: ZipformerConfig, layer: int) -> str:
    """Return the prefix of icefall's names in a layer, which are numbered within their stacks."""
    for number, stack in enumerate(config.stacks):
        if layer in stack.layers:
            inner = "encoder." if stack.downsampling > 1 else ""
            return f"encoder.encoders.{number}.{inner}layers.{layer - stack.layers.start}."
    raise ValueError(f"there is no layer {layer}")


def theirs(config: ZipformerConfig, ours: str) -> str:
    """Return icefall's name of the tensor ``ours`` of the encoder, which must not be a statistic of features."""
    part, _, rest = ours.partition(".")
    if part == "subsampling":
        return f"encoder_embed.{_renamed(rest, _OF_FRONT_END)}"
    if part == "downsample":
        return f"encoder.downsample_output.{rest}"
    number, _, rest = rest.partition(".")
    if part == "layers":
        return layer_prefix(config, int(number)) + _renamed(rest, _OF_LAYER)
    of_stack = {"downsample.bias": "downsample.bias", "combiner.scale": "out_combiner.bypass_scale"}
    return f"encoder.encoders.{number}.{of_stack[rest]}"


def _renamed(name: str, names: dict[str, str]) -> str:
    """Return a name whose longest beginning among ``names`` is replaced."""
    beginnings = [ours for ours in names if name == ours or name.startswith(f"{ours}.")]
    ours = max(beginnings, key=len)
    return names[ours] + name[len(ours) :]
