"""Unit groups of a Zipformer.

Unit kinds: ``heads`` (in the attention weights and both self-attentions), ``ffn`` (hidden units of the three
feed-forward modules), ``nonlin`` (hidden units of the nonlinear attention), ``conv`` (channels of both convolution
modules), ``query_dims``, ``position_dims`` and ``value_dims`` (the same dimension of all heads of a module),
``subsampling`` (channels of the front end's convolutions), ``convnext`` (hidden units of its ConvNeXt module). For
whole modules: ``attention_module`` (a self-attention), ``nonlin_module``, ``ffn_module``, ``conv_module``,
``convnext_module``; ``layer``. On request also ``width``: the channels of the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Optional

from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, Span, UnitGroup
from pruning.models.module_units import ffn_groups, module_group
from pruning.models.zipformer_config import SHORTEST, ZipformerConfig

UNIT_KINDS = ("heads", "ffn", "nonlin", "conv", "query_dims", "position_dims", "value_dims", "subsampling", "convnext")
MODULE_KINDS = ("attention_module", "nonlin_module", "ffn_module", "conv_module", "convnext_module", "layer")
FFNS = {"ffn1": "ffn1_dim", "ffn2": "ffn2_dim", "ffn3": "ffn3_dim"}
ATTENTIONS = {"attention1": "value1_dim", "attention2": "value2_dim"}
CONVOLUTIONS = {"convolution1": "conv1_channels", "convolution2": "conv2_channels"}
USERS = (*ATTENTIONS, "nonlin")  # of the attention weights
MODULES = {**FFNS, "nonlin": "nonlin_dim", **ATTENTIONS, **CONVOLUTIONS}
"""Module of a layer -> field of the configuration with its size, 0 if it does not exist."""


def modules(config: ZipformerConfig, layer: int, names: Sequence[str] = tuple(MODULES)) -> list[str]:
    """Return which of the modules ``names`` a layer has."""
    return [name for name in names if getattr(config, MODULES[name])[layer]]


def unit_groups(config: ZipformerConfig, width: bool = False) -> list[UnitGroup]:
    """Return the unit groups of the encoder, for the modules that exist; with ``width``, the last are its channels."""
    groups = _front_end_groups(config)
    for stack in config.stacks:
        for index in stack.layers:
            if config.present[index]:
                groups += [replace(group, layer=index) for group in _layer_groups(config, index, stack.width)]
    return [*groups, *_width_groups(config)] if width else groups


def _front_end_groups(config: ZipformerConfig) -> list[UnitGroup]:
    front, module = "subsampling.", "subsampling.convnext"
    groups = [_front_channels(config, index) for index in range(len(config.subsampling_channels))]
    if config.convnext_dim:
        name = "subsampling.convnext"
        parent = module_group(front, "convnext", "convnext_module", "pointwise2", config.subsampling_channels[-1], ())
        following = Span(f"{module}.pointwise2.weight", 1)
        own = (*_both(f"{module}.pointwise1"), following)
        groups += [parent, UnitGroup(f"{name}.hidden", "convnext", config.convnext_dim, (following,), own, name)]
    return groups


def _front_channels(config: ZipformerConfig, index: int) -> UnitGroup:
    """Return the channels of a convolution of the front end; those of the last one pass through ConvNeXt."""
    front, convnext, last = "subsampling.", "subsampling.convnext", index + 1 == len(config.subsampling_channels)
    own = [*_both(f"{front}convs.{index}")]
    out = Span(f"{front}out.weight", 1, width=config.bins)
    following = [out if last else Span(f"{front}convs.{index + 1}.weight", 1)]
    if last and config.convnext_dim:
        own += [*_both(f"{convnext}.depthwise"), *_both(f"{convnext}.pointwise2")]
        following.append(Span(f"{convnext}.pointwise1.weight", 1))
    size = config.subsampling_channels[index]
    return UnitGroup(f"{front}convs.{index}.channels", "subsampling", size, tuple(following), (*own, *following),
                     minimum=1, readers=tuple(following))  # fmt: skip


def _both(module: str, width: int = 1, offset: int = 0, repeats: int = 1, period: int = 0) -> tuple[Span, Span]:
    """Return the rows of a module's weight and bias."""
    return (Span(f"{module}.weight", 0, width, offset, repeats, period),
            Span(f"{module}.bias", 0, width, offset, repeats, period))  # fmt: skip


def _layer_groups(config: ZipformerConfig, index: int, width: int) -> list[UnitGroup]:
    name, prefix = f"layers.{index}", f"layers.{index}."
    groups = [UnitGroup(name, "layer", 1, (Span(f"{prefix}bypass.scale", 0, width=width),), removes=(prefix,))]
    for module in modules(config, index):
        size = getattr(config, MODULES[module])[index]
        if module in FFNS:
            of_module = ffn_groups(prefix, module, size, width, norms=())
        elif module in CONVOLUTIONS:
            of_module = _convolution_groups(prefix, module, size, width, config.causal)
        elif module in ATTENTIONS:
            of_module = _attention_groups(prefix, module, size, config.num_heads[index], width)
        else:
            of_module = _nonlin_groups(prefix, module, size, width)
        shares = (f"{prefix}attention_weights.",) if module in USERS else ()
        groups += [replace(of_module[0], users=(name,), shares=shares), *of_module[1:]]
    return [*groups, *_weights_groups(config, index)]


def _convolution_groups(layer: str, module: str, channels: int, width: int, causal: bool) -> list[UnitGroup]:
    parent = module_group(layer, module, "conv_module", "out_proj", width, ())
    name, following = parent.name, Span(f"{parent.name}.out_proj.weight", 1)
    own = [*_both(f"{name}.in_proj"), *_both(f"{name}.in_proj", offset=channels)]
    if causal:
        chunked = f"{name}.chunked"
        own += [*_both(f"{chunked}.past"), *_both(f"{chunked}.within"), Span(f"{chunked}.edges", 1)]
    else:
        own += _both(f"{name}.depthwise")
    return [parent, UnitGroup(f"{name}.channels", "conv", channels, (following,), (*own, following), name)]


def _nonlin_groups(layer: str, module: str, hidden: int, width: int) -> list[UnitGroup]:
    parent = module_group(layer, module, "nonlin_module", "out_proj", width, ())
    name, following = parent.name, Span(f"{parent.name}.out_proj.weight", 1)
    own = [span for part in range(3) for span in _both(f"{name}.in_proj", offset=part * hidden)]
    return [parent, UnitGroup(f"{name}.hidden", "nonlin", hidden, (following,), (*own, following), name)]


def _attention_groups(layer: str, module: str, value_dim: int, heads: int, width: int) -> list[UnitGroup]:
    """Return a self-attention as a whole, and the dimensions of its values; dimension d of every head is a unit."""
    parent = module_group(layer, module, "attention_module", "out_proj", width, ())
    name = parent.name
    following = Span(f"{name}.out_proj.weight", 1, repeats=heads, period=value_dim)
    slices = (*_both(f"{name}.in_proj", repeats=heads, period=value_dim), following)
    return [parent, UnitGroup(f"{name}.value_dims", "value_dims", value_dim, (following,), slices, name)]


def pinned(config: ZipformerConfig, layer: int) -> int:
    """Return the number of heads that are no units: the first one while the nonlinear attention uses it."""
    return int(config.nonlin_dim[layer] > 0)


def _weights_groups(config: ZipformerConfig, index: int) -> list[UnitGroup]:
    """Return the units of the attention weights: heads, and the dimensions of queries and keys, and of positions."""
    layer, heads = f"layers.{index}.", config.num_heads[index]
    if not heads:
        return []
    query, position, weights = config.query_dim[index], config.position_dim[index], f"{layer}attention_weights"
    everyone = tuple(f"{layer}{module}" for module in modules(config, index, USERS))
    group = _head_group(config, index)
    groups = [] if group is None else [group]
    of_query = _both(f"{weights}.in_proj", repeats=heads, period=query)
    of_key = _both(f"{weights}.in_proj", offset=heads * query, repeats=heads, period=query)
    groups.append(UnitGroup(f"{weights}.query_dims", "query_dims", query, of_query, (*of_query, *of_key), minimum=1,
                            users=everyone))  # fmt: skip
    wanted = _both(f"{weights}.in_proj", offset=2 * heads * query, repeats=heads, period=position)
    encoded = Span(f"{weights}.pos_proj.weight", 0, repeats=heads, period=position)
    name = f"{weights}.position_dims"
    return [*groups, UnitGroup(name, "position_dims", position, wanted, (*wanted, encoded), minimum=1, users=everyone)]


def _head_group(config: ZipformerConfig, index: int) -> Optional[UnitGroup]:
    """Return the heads that may be removed, or None if there are none."""
    layer, heads, first = f"layers.{index}.", config.num_heads[index], pinned(config, index)
    attentions = modules(config, index, tuple(ATTENTIONS))
    if heads == first or not attentions:
        return None
    query, position, weights = config.query_dim[index], config.position_dim[index], f"{layer}attention_weights"
    own: list[Span] = []
    following: list[Span] = []
    for dim, start in ((query, 0), (query, heads * query), (position, 2 * heads * query)):
        own += _both(f"{weights}.in_proj", dim, start + first * dim)
    own.append(Span(f"{weights}.pos_proj.weight", 0, position, first * position))
    for module in attentions:
        dim = getattr(config, ATTENTIONS[module])[index]
        own += _both(f"{layer}{module}.in_proj", dim, first * dim)
        following.append(Span(f"{layer}{module}.out_proj.weight", 1, dim, first * dim))
    return UnitGroup(f"{weights}.heads", "heads", heads - first, tuple(following), (*own, *following),
                     minimum=1 - first, users=tuple(f"{layer}{module}" for module in attentions),
                     readers=tuple(following))  # fmt: skip


class Segment(NamedTuple):
    """Channels between the widths of two stacks; a stack has the segments that end at its width or before.

    Attributes:
        name: name of the group.
        start, end: first channel, and the one after the last.
        held: whether tensors have these channels, so that there is a group; not if the only stacks that have them lost
            all layers and keep the frame rate.
    """

    name: str
    start: int
    end: int
    held: bool

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.end - self.start


def segments(config: ZipformerConfig) -> list[Segment]:
    """Return the segments of the axis of channels, in order."""
    ends = sorted(set(config.widths))
    held = max(width for stream, width in _stream_places(config) if stream.writers or stream.scales)
    return [Segment(f"{WIDTH}.{index}", start, end, end <= held)
            for index, (start, end) in enumerate(zip([0, *ends], ends))]  # fmt: skip


def _width_groups(config: ZipformerConfig) -> list[UnitGroup]:
    """Return the channels of the residual stream, one group for each of the `segments`.

    All stacks share one axis of channels, so that a channel is removed from every stack that has it, and what is left
    of each stack is still a prefix. Masks act on everything that writes the stream, so that closed channels are 0. If
    nothing that writes a channel is left, it is 0 anyway, and masks act on bypass scales. Norms count all channels of
    the dense network, closed or not.
    """
    places = _stream_places(config)
    groups = []
    for name, start, end, held in segments(config):
        reached = [stream for stream, width in places if width >= end]
        writers = tuple(span for stream in reached for span in stream.written(start))
        readers = tuple(span for stream in reached for span in stream.read(start))
        others = tuple(Span(scale, 0, offset=start) for stream in reached for scale in stream.scales)
        if held:
            groups.append(UnitGroup(name, WIDTH, end - start, writers or others, (*writers, *others, *readers),
                                minimum=0 if start else min(2, end), readers=readers))  # fmt: skip
    return groups


class _Stream:
    """Names of what touches the stream of one stack: modules that write and read it, its norms, its bypass scales."""

    def __init__(self, writers: Sequence[str], readers: Sequence[str], norms: Sequence[str], scales: Sequence[str]):
        self.writers, self.readers, self.norms, self.scales = writers, readers, norms, scales

    def written(self, start: int) -> list[Span]:
        """Return the rows of the writers, and the biases of the norms, from channel ``start``."""
        rows = [span for name in self.writers for span in _both(name, offset=start)]
        return [*rows, *(Span(f"{name}.bias", 0, offset=start) for name in self.norms)]

    def read(self, start: int) -> list[Span]:
        """Return the columns of the readers from channel ``start``."""
        return [Span(f"{name}.weight", 1, offset=start) for name in self.readers]


def _stream_places(config: ZipformerConfig) -> list[tuple[_Stream, int]]:
    """Return what touches the stream in the front end and in each stack, with the width there."""
    places = [(_Stream(["subsampling.out"], [], ["subsampling.out_norm"], []), config.widths[0])]
    for number, stack in enumerate(config.stacks):
        writers, readers, norms = [], [], []
        scales = [f"resampling.{number}.combiner.scale"] if stack.downsampling > 1 else []
        for index in (index for index in stack.layers if config.present[index]):
            layer = f"layers.{index}."
            for module in modules(config, index):
                reader, writer = ("linear1", "linear2") if module in FFNS else ("in_proj", "out_proj")
                readers.append(f"{layer}{module}.{reader}")
                writers.append(f"{layer}{module}.{writer}")
            readers += [f"{layer}attention_weights.in_proj"] if config.num_heads[index] else []
            norms.append(f"{layer}norm")
            scales += [f"{layer}bypass_mid.scale", f"{layer}bypass.scale"]
        places.append((_Stream(writers, readers, norms, scales), stack.width))
    return places


def linear_layers(config: ZipformerConfig, frames: int) -> list[LinearLayer]:
    """Return the linear layers of all stacks, for ``frames`` feature frames."""
    found = []
    for stack in config.stacks:
        t = frames_in(frames, stack.downsampling)
        for index in (index for index in stack.layers if config.present[index]):
            layer = f"layers.{index}."
            for module in modules(config, index):
                pair = ("linear1", "linear2") if module in FFNS else ("in_proj", "out_proj")
                found += [LinearLayer(f"{layer}{module}.{linear}", cost_kind(module), t) for linear in pair]
            if config.num_heads[index]:
                weights = f"{layer}attention_weights"
                found.append(LinearLayer(f"{weights}.in_proj", "attention_weights", t))
                found.append(LinearLayer(f"{weights}.pos_proj", "attention_weights", 2 * t - 1))
    return found


def frames_in(frames: int, factor: int) -> int:
    """Return the number of frames in a stack that downsamples by ``factor``, for ``frames`` feature frames."""
    return -(-((max(frames, SHORTEST) - 7) // 2) // factor)


def cost_kind(module: str) -> str:
    """Return the kind of the cost terms of a module."""
    of_others = {**dict.fromkeys(FFNS, "ffn"), **dict.fromkeys(ATTENTIONS, "attention")}
    return "nonlin_attention" if module == "nonlin" else of_others.get(module, "convolution")


def shrink(config: ZipformerConfig, structure: Structure) -> ZipformerConfig:
    """Return the configuration of the encoder that ``structure`` leaves of one with ``config``."""

    def kept(group: str, otherwise: int) -> int:
        return structure.count(group) if group in structure.groups else otherwise

    def left(module: str) -> tuple[int, ...]:
        """Return what is left of the size of a module in each layer, 0 if it does not exist."""
        return tuple(kept(f"layers.{index}.{module}.{_UNITS[module]}", 0) for index in range(config.num_layers))

    def dims(field: str, group: str) -> tuple[int, ...]:
        """Return the dimension of each layer, which means nothing in layers without attention weights."""
        found = (
            structure.groups.get(f"layers.{index}.attention_weights.{group}") for index in range(config.num_layers)
        )
        return tuple(len(units.kept) if units is not None and units.kept else size
                     for units, size in zip(found, getattr(config, field)))  # fmt: skip

    widths = tuple(sum(kept(segment.name, segment.size) for segment in segments(config) if segment.end <= width)
                   for width in config.widths)  # fmt: skip
    channels = range(len(config.subsampling_channels))
    sizes = {module: left(module) for module in MODULES}
    return replace(
        config,
        widths=widths,
        norm_widths=config.norm_widths if widths == config.widths else config.norm_widths or config.widths,
        present=tuple(here and kept(f"layers.{index}", 0) > 0 for index, here in enumerate(config.present)),
        num_heads=tuple(
            _heads_left(config, structure, index) if any(sizes[module][index] for module in USERS) else 0
            for index in range(config.num_layers)
        ),
        query_dim=dims("query_dim", "query_dims"),
        position_dim=dims("position_dim", "position_dims"),
        value1_dim=sizes["attention1"],
        value2_dim=sizes["attention2"],
        ffn1_dim=sizes["ffn1"],
        ffn2_dim=sizes["ffn2"],
        ffn3_dim=sizes["ffn3"],
        nonlin_dim=sizes["nonlin"],
        conv1_channels=sizes["convolution1"],
        conv2_channels=sizes["convolution2"],
        subsampling_channels=tuple(structure.count(f"subsampling.convs.{index}.channels") for index in channels),
        convnext_dim=kept("subsampling.convnext.hidden", 0),
    )


def _heads_left(config: ZipformerConfig, structure: Structure, layer: int) -> int:
    """Return the number of heads that are left in a layer that uses any."""
    first, group = pinned(config, layer), structure.groups.get(f"layers.{layer}.attention_weights.heads")
    return config.num_heads[layer] if group is None else first + len(group.kept)


_UNITS = {**dict.fromkeys(FFNS, "hidden"), "nonlin": "hidden", **dict.fromkeys(ATTENTIONS, "value_dims"),
          **dict.fromkeys(CONVOLUTIONS, "channels")}  # fmt: skip


def existing_stacks(config: ZipformerConfig, counts: Mapping[str, float]) -> list[bool]:
    """Return whether each stack still has a layer with a module.

    Args:
        config: configuration of the encoder.
        counts: group name -> number of units kept; a group without an entry is kept.
    """

    def exists(layer: int) -> bool:
        name = f"layers.{layer}"
        there = config.present[layer] and counts.get(name, 1) > 0
        return there and any(counts.get(f"{name}.{module}", 1) for module in modules(config, layer))

    return [any(map(exists, stack.layers)) for stack in config.stacks]
