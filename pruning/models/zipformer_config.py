"""Dimensions of a Zipformer, per layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

from pruning.limits import Count, Fraction, Natural, check_fields
from pruning.models.subsampling import subsampled

FRONT_KERNEL = 3
CONVNEXT_KERNEL = 7
SHORTEST = 9
"""Minimum number of feature frames, which gives one frame after the front end."""
_PER_LAYER = (
    "num_heads", "query_dim", "position_dim", "value1_dim", "value2_dim", "ffn1_dim", "ffn2_dim", "ffn3_dim",
    "nonlin_dim", "conv1_channels", "conv2_channels", "conv_kernel", "present",
)  # fmt: skip

_WIDTHS = (
    "widths", "query_dim", "position_dim", "value1_dim", "value2_dim", "ffn1_dim", "ffn2_dim", "ffn3_dim", "nonlin_dim",
    "conv1_channels", "conv2_channels", "subsampling_channels",
)  # fmt: skip


class Stack(NamedTuple):
    """One stack of layers.

    Attributes:
        width: number of channels.
        counted: number of channels that its norms count, see `ZipformerConfig.norm_widths`.
        downsampling: factor of its frame rate, relative to that of the front end.
        layers: indices of its layers.
    """

    width: int
    counted: int
    downsampling: int
    layers: range


@dataclass(frozen=True)
class ZipformerConfig:
    """Dimensions of a `pruning.models.zipformer.Zipformer`.

    A per-layer value is a list with one entry for all layers, one per stack, or one per layer; layers are counted
    through all stacks. 0 leaves a module out.

    Attributes:
        widths: number of channels of each stack. All stacks share one axis of channels: each has a prefix of it.
        stack_layers: number of layers of each stack.
        downsampling: factor of the frame rate of each stack, relative to that of the front end.
        num_heads: number of attention heads, per layer. The first head also serves the nonlinear attention.
        query_dim: dimension of queries and keys of a head, per layer.
        position_dim: dimension of the queries for positions of a head, per layer.
        value1_dim, value2_dim: dimension of the values of a head in the first and second self-attention, per layer.
        ffn1_dim, ffn2_dim, ffn3_dim: number of hidden units of the feed-forward modules, per layer.
        nonlin_dim: number of hidden units of the nonlinear attention, per layer.
        conv1_channels, conv2_channels: number of channels of the convolution modules, per layer.
        conv_kernel: kernel size of both convolution modules, odd, per layer.
        present: whether the layer exists, per layer; the others keep their numbers.
        encoding_dim: dimension of positions before they are projected, even.
        feature_dim: number of bins per input frame.
        subsampling_channels: number of channels of the three convolutions of the front end.
        convnext_dim: number of hidden units of the front end's ConvNeXt module.
        dropout: dropout of the front end's output and of hidden units of feed-forward modules, shared over time.
        causal: whether convolutions can be restricted to chunks, for streaming.
        isolated: whether the outputs of an utterance are those that it has alone; if not, padding reaches into its last
            frames, as in icefall.
        norm_widths: number of channels that the norms of each stack count, if channels of the network were removed:
            those that it had before; empty: ``widths``.
    """

    widths: tuple[Count, ...]
    stack_layers: tuple[Count, ...]
    downsampling: tuple[Count, ...]
    num_heads: tuple[Natural, ...]
    ffn1_dim: tuple[Natural, ...]
    ffn2_dim: tuple[Natural, ...]
    ffn3_dim: tuple[Natural, ...]
    nonlin_dim: tuple[Natural, ...]
    conv1_channels: tuple[Natural, ...]
    conv2_channels: tuple[Natural, ...]
    conv_kernel: tuple[Count, ...] = (31,)
    query_dim: tuple[Count, ...] = (32,)
    position_dim: tuple[Count, ...] = (4,)
    value1_dim: tuple[Natural, ...] = (12,)
    value2_dim: tuple[Natural, ...] = (12,)
    present: tuple[bool, ...] = (True,)
    encoding_dim: Count = 48
    feature_dim: Count = 80
    subsampling_channels: tuple[Count, ...] = (8, 32, 128)
    convnext_dim: Natural = 384
    dropout: Fraction = 0.1
    causal: bool = False
    isolated: bool = True
    norm_widths: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        stacks, layers = len(self.widths), sum(self.stack_layers)
        if not stacks or not len(self.stack_layers) == len(self.downsampling) == stacks:
            raise ValueError(f"stack_layers and downsampling must have one entry for each of the {stacks} widths")
        for name in ("widths", "stack_layers", "downsampling", "subsampling_channels", "norm_widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in _PER_LAYER:
            values = spread(getattr(self, name), self.stack_layers, name)
            object.__setattr__(self, name, values)
        if len(self.norm_widths) not in (0, stacks):
            raise ValueError(f"norm_widths must be empty or have one entry for each of the {stacks} stacks")
        if any(now > before for now, before in zip(self.widths, self.norm_widths)):
            raise ValueError("norm_widths must be at least widths")
        if len(self.subsampling_channels) != 3 or self.bins < 1:
            raise ValueError("subsampling_channels must have three entries, and feature_dim must be at least 7")
        if self.encoding_dim % 2 or any(kernel % 2 == 0 for kernel in self.conv_kernel):
            raise ValueError("encoding_dim must be even, and every conv_kernel odd")
        for layer in range(layers):
            if bool(self.num_heads[layer]) != self.attends(layer):
                raise ValueError(
                    f"layer {layer} must have heads if and only if it has attention or nonlinear attention"
                )

    @property
    def d_model(self) -> int:
        """Dimension of the outputs: the width of the widest stack."""
        return max(self.widths)

    @property
    def num_layers(self) -> int:
        """Number of layers of all stacks, with those that do not exist any more."""
        return sum(self.stack_layers)

    @property
    def bins(self) -> int:
        """Number of bins after the convolutions of the front end."""
        return subsampled(self.feature_dim, (2, 2))

    @property
    def stacks(self) -> list[Stack]:
        """The stacks, in order."""
        ends = list(accumulate(self.stack_layers))
        ranges = (range(end - count, end) for end, count in zip(ends, self.stack_layers))
        return [
            Stack(*values) for values in zip(self.widths, self.norm_widths or self.widths, self.downsampling, ranges)
        ]

    def scaled(self, d_model: int) -> ZipformerConfig:
        """Return the same layers and heads with all widths in proportion to ``d_model``, the width of the widest stack.

        Kernels, downsampling and the dimension of positions stay. Widths are rounded, and at least 1 unless they were
        0.
        """
        share = d_model / self.d_model

        def widths(values: Sequence[int]) -> tuple[int, ...]:
            return tuple(max(1, round(share * value)) if value else 0 for value in values)

        scaled: dict[str, Any] = {name: widths(getattr(self, name)) for name in _WIDTHS}
        return replace(self, **scaled, convnext_dim=widths([self.convnext_dim])[0], norm_widths=())

    def wider(self, hidden: int) -> ZipformerConfig:
        """Return the same network with ``hidden`` more units in every feed-forward module that has any."""
        first, second, third = (tuple(value + hidden if value else 0 for value in values)
                                for values in (self.ffn1_dim, self.ffn2_dim, self.ffn3_dim))  # fmt: skip
        return replace(self, ffn1_dim=first, ffn2_dim=second, ffn3_dim=third)

    def attends(self, layer: int) -> bool:
        """Return whether a layer has a module that uses attention weights."""
        return any(dims[layer] for dims in (self.value1_dim, self.value2_dim, self.nonlin_dim))


def spread(values: Sequence[Any], stack_layers: Sequence[int], name: str) -> tuple[Any, ...]:
    """Return one value per layer, given one for all layers, one per stack, or one per layer.

    Raises:
        ValueError: the number of values is wrong; the message contains ``name``.
    """
    layers, stacks = sum(stack_layers), len(stack_layers)
    if len(values) == layers:
        return tuple(values)
    if len(values) not in (1, stacks):
        raise ValueError(f"{name} has {len(values)} entries for {stacks} stacks with {layers} layers; give one, one per"
                         " stack, or one per layer")  # fmt: skip
    each = list(values) * (stacks if len(values) == 1 else 1)
    return tuple(value for value, count in zip(each, stack_layers) for _ in range(count))
