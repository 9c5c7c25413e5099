"""Unit groups and costs of a Conformer encoder.

Unit kinds: ``heads``, ``ffn`` (hidden units of both feed-forward modules), ``conv`` (channels of the convolution
module), ``subsampling`` (channels of the subsampling convolutions); for whole modules: ``attention_module``,
``ffn_module``, ``conv_module``. On request also ``width``: the channels of the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Optional

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, Span, UnitGroup
from pruning.models.conformer import REWORKED, ConformerConfig
from pruning.models.module_units import attention_groups, ffn_groups, module_group, stream_group, unit_terms
from pruning.models.subsampling import KERNEL, subsampled

UNIT_KINDS = ("heads", "ffn", "conv", "subsampling")
MODULE_KINDS = ("attention_module", "ffn_module", "conv_module")
_FFNS = {"macaron": "macaron_dim", "ffn": "ffn_dim"}  # attribute of the layer -> field of the configuration


def unit_groups(config: ConformerConfig, prefix: str = "encoder.", width: bool = False) -> list[UnitGroup]:
    """Return the unit groups of the encoder under ``prefix`` in its network, for the modules that exist.

    With ``width``, the last one is that of the residual width; heads on the encoder add their slices to it.
    """
    groups = _subsampling_groups(config, f"{prefix}subsampling.")
    for index in range(config.num_layers):
        groups += [replace(group, layer=index) for group in _layer_groups(config, index, f"{prefix}layers.{index}.")]
    return [*groups, _width_group(config, prefix)] if width else groups


def _layer_groups(config: ConformerConfig, index: int, layer: str) -> list[UnitGroup]:
    groups, d = [], config.d_model
    norms = () if config.variant == REWORKED else None  # None: a norm before each module
    for name, field in _FFNS.items():
        if getattr(config, field)[index]:
            groups += ffn_groups(layer, name, getattr(config, field)[index], d, norms=norms)
    if config.num_heads[index]:
        groups += attention_groups(layer, config.num_heads[index], config.head_dim, d, True, norms)
    if config.conv_channels[index]:
        groups += _convolution_groups(layer, config.conv_channels[index], config)
    return groups


def _subsampling_groups(config: ConformerConfig, prefix: str) -> list[UnitGroup]:
    bins = subsampled(config.feature_dim, config.subsampling_strides)
    groups = []
    for i, channels in enumerate(config.subsampling_channels):
        last = i + 1 == len(config.subsampling_channels)
        following = Span(f"{prefix}out.weight", 1, width=bins) if last else Span(f"{prefix}convs.{i + 1}.weight", 1)
        own = (Span(f"{prefix}convs.{i}.weight", 0), Span(f"{prefix}convs.{i}.bias", 0))
        name = f"{prefix}convs.{i}.channels"
        groups.append(UnitGroup(name, "subsampling", channels, (following,), (*own, following), minimum=1))
    return groups


_NORM_TENSORS = {
    "batch": ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"),
    "layer": ("norm.weight", "norm.bias"),
    "none": (),
}


def _convolution_groups(layer: str, channels: int, config: ConformerConfig) -> list[UnitGroup]:
    before = () if config.variant == REWORKED else None
    parent = module_group(layer, "convolution", "conv_module", "pointwise2", config.d_model, before)
    name = parent.name
    following = Span(f"{name}.pointwise2.weight", 1)
    gated = [  # the gated linear unit couples the channels c and c + channels
        Span(f"{name}.pointwise1.{tensor}", 0, offset=offset)
        for offset in (0, channels)
        for tensor in ("weight", "bias")
    ]
    tensors = ("depthwise.weight", "depthwise.bias", *_NORM_TENSORS[config.conv_norm])
    slices = (*gated, *(Span(f"{name}.{tensor}", 0) for tensor in tensors), following)
    norms = (f"{name}.norm",) if config.conv_norm == "layer" else ()
    # a layer norm over a single channel would make it constant
    minimum = min(2, channels) if norms else 0
    return [parent, UnitGroup(f"{name}.channels", "conv", channels, (following,), slices, name, minimum, norms=norms)]


_STREAM_MODULES = (  # module of a layer, field of its size, the linear layers that read and write the stream
    ("macaron", "macaron_dim", "linear1", "linear2"),
    ("attention", "num_heads", "in_proj", "out_proj"),
    ("convolution", "conv_channels", "pointwise1", "pointwise2"),
    ("ffn", "ffn_dim", "linear1", "linear2"),
)


def _width_group(config: ConformerConfig, prefix: str) -> UnitGroup:
    """Return the group of the channels of the residual stream.

    Its masks act on weight and bias of the norms, behind which all modules and heads read the stream, and on what
    writes the input of the first layer. The reworked variant has no such norms, so there they act on all that write.
    Closed channels of every layer's output are 0 in both.
    """
    reworked = config.variant == REWORKED
    readers, writers = [], [f"{prefix}subsampling.out"]
    norms: list[str] = []
    for index in range(config.num_layers):
        layer = f"{prefix}layers.{index}."
        for module, field, reader, writer in _STREAM_MODULES:
            if getattr(config, field)[index]:
                readers.append(f"{layer}{module}.{reader}")
                writers.append(f"{layer}{module}.{writer}")
                norms += [] if reworked else [f"{layer}{module}_norm"]
        norms.append(f"{layer}final_norm")
    after = [f"{prefix}after_norm"] * config.after_norm
    if reworked:
        rms_norms = [f"{prefix}subsampling.out_norm", *norms]
        return stream_group(prefix, config.d_model, after, writers, readers, writers, rms_norms)
    return stream_group(prefix, config.d_model, [*norms, *after], writers, readers, writers[:1])


def cost_terms(config: ConformerConfig, frames: int, prefix: str = "encoder.", width: bool = False) -> list[CostTerm]:
    """Return the cost terms for an utterance of ``frames`` feature frames, subsampling included.

    MACs count convolutions, linear layers and the matrix products of attention, but not norms and activations. With
    ``width``, the terms multiply the count of the residual width instead of ``d_model``.
    """
    wide, d = ((f"{prefix}{WIDTH}",), 1) if width else ((), config.d_model)
    terms = _subsampling_terms(config, frames, f"{prefix}subsampling.", wide, d)
    t, p = subsampled(frames, config.subsampling_strides), config.position_dim
    distances = max(2 * t - 1, 0)
    reworked = config.variant == REWORKED
    vectors = d if reworked else 3 * d  # output bias of a module, and weight and bias of its norm
    per_channel = 3 if config.conv_norm == "none" else 5  # 3 biases (gated unit 2, depthwise 1), 2 of the norm
    for index in range(config.num_layers):
        layer = f"{prefix}layers.{index}."
        for name, field in _FFNS.items():
            if getattr(config, field)[index]:
                module = f"{layer}{name}"
                unit = (module, f"{module}.hidden")
                terms += unit_terms("ffn", unit, wide, (2 * d, 2 * t * d), (1, 0))
                terms.append(CostTerm("ffn", (module, *wide), vectors, 0))
        if config.num_heads[index]:
            module, h = f"{layer}attention", config.head_dim
            per_width = 4 * d * h, 4 * t * d * h  # q, k, v and output weights
            parameters = p * h + 5 * h  # position weights; q, k, v biases, u, v
            macs = distances * p * h + 2 * t * t * h + t * distances * h
            terms += unit_terms("attention", (module, f"{module}.heads"), wide, per_width, (parameters, macs))
            terms.append(CostTerm("attention", (module, *wide), vectors, 0))
        if config.conv_channels[index]:
            module, k = f"{layer}convolution", config.conv_kernel
            unit = (module, f"{module}.channels")
            terms += unit_terms("convolution", unit, wide, (3 * d, 3 * t * d), (k + per_channel, t * k))
            terms.append(CostTerm("convolution", (module, *wide), vectors, 0))
        terms.append(CostTerm("norm", (), 1, 0) if reworked else CostTerm("norm", wide, 2 * d, 0))
    if config.after_norm:
        terms.append(CostTerm("norm", wide, 2 * d, 0))
    return terms


def _subsampling_terms(
    config: ConformerConfig, frames: int, prefix: str, wide: tuple[str, ...], d: int
) -> list[CostTerm]:
    terms: list[CostTerm] = []
    previous: tuple[str, ...] = ()
    time, bins, area = frames, config.feature_dim, KERNEL * KERNEL
    for i, stride in enumerate(config.subsampling_strides):
        time, bins = subsampled(time, (stride,)), subsampled(bins, (stride,))
        group = f"{prefix}convs.{i}.channels"
        terms.append(CostTerm("subsampling", (*previous, group), area, area * time * bins))
        terms.append(CostTerm("subsampling", (group,), 1, 0))
        previous = (group,)
    terms.append(CostTerm("subsampling", (*previous, *wide), bins * d, time * bins * d))
    terms.append(CostTerm("subsampling", wide, d, 0))
    return terms


def linear_layers(config: ConformerConfig, frames: int, prefix: str = "encoder.") -> list[LinearLayer]:
    """Return the linear layers of the blocks, including pointwise convolutions."""
    t = subsampled(frames, config.subsampling_strides)
    layers = []
    for index in range(config.num_layers):
        layer = f"{prefix}layers.{index}."
        for name, field in _FFNS.items():
            if getattr(config, field)[index]:
                layers += [LinearLayer(f"{layer}{name}.{linear}", "ffn", t) for linear in ("linear1", "linear2")]
        if config.num_heads[index]:
            for linear, calls in (("in_proj", t), ("pos_proj", max(2 * t - 1, 0)), ("out_proj", t)):
                layers.append(LinearLayer(f"{layer}attention.{linear}", "attention", calls))
        if config.conv_channels[index]:
            for linear in ("pointwise1", "pointwise2"):
                layers.append(LinearLayer(f"{layer}convolution.{linear}", "convolution", t))
    return layers


def shrink(config: ConformerConfig, structure: Structure, prefix: str = "encoder.") -> ConformerConfig:
    """Return the configuration of the encoder that ``structure`` leaves of one with ``config``."""

    def kept(field: str, group: str) -> tuple[int, ...]:
        return tuple(
            structure.count(f"{prefix}layers.{index}.{group}") if size else 0
            for index, size in enumerate(getattr(config, field))
        )

    channels = range(len(config.subsampling_channels))
    d = structure.count(f"{prefix}{WIDTH}") if f"{prefix}{WIDTH}" in structure.groups else config.d_model
    return replace(
        config,
        d_model=d,
        dense_dim=config.dense_dim if d == config.d_model else config.position_dim,
        num_heads=kept("num_heads", "attention.heads"),
        macaron_dim=kept("macaron_dim", "macaron.hidden"),
        ffn_dim=kept("ffn_dim", "ffn.hidden"),
        conv_channels=kept("conv_channels", "convolution.channels"),
        subsampling_channels=tuple(structure.count(f"{prefix}subsampling.convs.{i}.channels") for i in channels),
    )


def existing_layers(
    config: ConformerConfig, counts: Optional[Mapping[str, float]] = None, prefix: str = "encoder."
) -> list[bool]:
    """Return whether each layer still has a module in addition to its final norm.

    Args:
        config: configuration of the encoder.
        counts: group name -> number of units kept; a group without an entry is kept.
        prefix: prefix of the encoder's names in its network.
    """
    counts = {} if counts is None else counts
    exists = []
    for index in range(config.num_layers):
        sizes = {
            "macaron": config.macaron_dim[index],
            "attention": config.num_heads[index],
            "convolution": config.conv_channels[index],
            "ffn": config.ffn_dim[index],
        }
        exists.append(any(size and counts.get(f"{prefix}layers.{index}.{name}", 1) for name, size in sizes.items()))
    return exists
