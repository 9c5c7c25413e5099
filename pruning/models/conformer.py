"""Conformer encoder (arXiv 2005.08100) whose dimensions are set per layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Optional

import torch
from torch import Tensor, nn

from pruning.limits import Count, Fraction, Natural, OneOf, check_fields
from pruning.models.attention import RelativePositionAttention, relative_positions
from pruning.models.feature_statistics import NormalisedFeatures
from pruning.models.layers import BasicNorm, FeedForward, double_swish, per_layer
from pruning.models.subsampling import ConvSubsampling, beyond

STANDARD, REWORKED = VARIANTS = ("standard", "reworked")
CONV_NORMS = ("batch", "layer", "none")
PROBE_FRAMES = 500


@dataclass(frozen=True)
class ConformerConfig:
    """Dimensions of a `ConformerEncoder`.

    A per-layer value is a list with one entry for all layers or one entry per layer; 0 leaves the module out.

    Attributes:
        d_model: dimension of the residual stream, its width.
        num_layers: number of Conformer blocks.
        head_dim: dimension of an attention head (never derived from ``d_model``).
        num_heads: number of attention heads, per layer.
        macaron_dim: number of hidden units of the first feed-forward module, per layer.
        ffn_dim: number of hidden units of the second feed-forward module, per layer.
        conv_channels: number of channels of the convolution module, per layer.
        conv_kernel: kernel size of the convolution module, odd.
        feature_dim: number of bins per input frame.
        subsampling_channels: number of channels of each subsampling convolution.
        subsampling_strides: stride of each subsampling convolution; exactly two of them are 2.
        dropout: dropout of module outputs, FFN hidden units and attention weights.
        variant: ``standard``: a layer norm before each module and after each layer, feed-forward modules in half steps,
            Swish (arXiv 2005.08100); ``reworked``: as in icefall's ``pruned_transducer_stateless2`` to ``5``: one
            `BasicNorm` after each layer and after the subsampling, none before modules, whole steps, `double_swish`.
        conv_norm: norm of the convolution module: ``batch``, ``layer`` (over its channels) or ``none``.
        after_norm: whether a layer norm follows the last layer.
        dense_dim: ``d_model`` of the network from which channels of the residual stream were removed; 0: none were. It
            stays the dimension of positions, and its root the scale of the input of the first layer.
    """

    d_model: Count
    num_layers: Count
    head_dim: Count
    num_heads: tuple[Natural, ...]
    macaron_dim: tuple[Natural, ...]
    ffn_dim: tuple[Natural, ...]
    conv_channels: tuple[Natural, ...]
    conv_kernel: Count = 31
    feature_dim: Count = 80
    subsampling_channels: tuple[Count, ...] = (8, 32, 128)
    subsampling_strides: tuple[Count, ...] = (1, 2, 2)
    dropout: Fraction = 0.1
    variant: Annotated[str, OneOf(VARIANTS)] = STANDARD
    conv_norm: Annotated[str, OneOf(CONV_NORMS)] = "batch"
    after_norm: bool = False
    dense_dim: Natural = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("num_heads", "macaron_dim", "ffn_dim", "conv_channels"):
            object.__setattr__(self, name, per_layer(getattr(self, name), self.num_layers, name))
        for name in ("subsampling_channels", "subsampling_strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel must be odd, got {self.conv_kernel}")
        if 0 < self.dense_dim < self.d_model:
            raise ValueError(f"dense_dim must be 0 or at least d_model = {self.d_model}, got {self.dense_dim}")

    @property
    def position_dim(self) -> int:
        """Dimension of positions, which removed channels of the residual stream do not change."""
        return self.dense_dim or self.d_model

    def scaled(self, d_model: int) -> ConformerConfig:
        """Return the same layers and heads with all widths in proportion to ``d_model``.

        Widths are those of a head, of the feed-forward modules, of the convolutions and of the subsampling. They are
        rounded, and at least 1 unless they were 0.
        """
        share = d_model / self.d_model

        def widths(values: Sequence[int]) -> tuple[int, ...]:
            return tuple(max(1, round(share * value)) if value else 0 for value in values)

        return dataclasses.replace(
            self,
            d_model=d_model,
            dense_dim=0,
            head_dim=widths([self.head_dim])[0],
            macaron_dim=widths(self.macaron_dim),
            ffn_dim=widths(self.ffn_dim),
            conv_channels=widths(self.conv_channels),
            subsampling_channels=widths(self.subsampling_channels),
        )

    def wider(self, hidden: int) -> ConformerConfig:
        """Return the same network with ``hidden`` more units in every feed-forward module that has any."""
        macaron, ffn = (tuple(value + hidden if value else 0 for value in values)
                        for values in (self.macaron_dim, self.ffn_dim))  # fmt: skip
        return dataclasses.replace(self, macaron_dim=macaron, ffn_dim=ffn)

    def shallower(self, num_layers: int) -> ConformerConfig:
        """Return the first ``num_layers`` layers."""
        return dataclasses.replace(
            self,
            num_layers=num_layers,
            num_heads=self.num_heads[:num_layers],
            macaron_dim=self.macaron_dim[:num_layers],
            ffn_dim=self.ffn_dim[:num_layers],
            conv_channels=self.conv_channels[:num_layers],
        )


class EncoderOutput(NamedTuple):
    """``output (N, T', D)``, ``lengths (N,)``, and ``layers``: the subsampled input and the output of each block."""

    output: Tensor
    lengths: Tensor
    layers: list[Tensor]


class PointwiseConvolution(nn.Conv1d):
    """A convolution of kernel size 1 over channels-last input, computed as one matrix product over all frames.

    Its parameters have the names and shapes of those of `torch.nn.Conv1d`.
    """

    channels_first = False

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, channels_in) -> (N, T, channels_out)``."""
        return nn.functional.linear(x, self.weight.squeeze(2), self.bias)


class ConvolutionModule(nn.Module):
    """Pointwise convolution, gated linear unit, depthwise convolution, norm, activation, pointwise convolution."""

    def __init__(self, config: ConformerConfig, channels: int) -> None:
        super().__init__()
        d_model, kernel = config.d_model, config.conv_kernel
        self.pointwise1 = PointwiseConvolution(d_model, 2 * channels)
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm: Optional[nn.Module] = None
        if config.conv_norm != "none":
            self.norm = nn.BatchNorm1d(channels) if config.conv_norm == "batch" else nn.LayerNorm(channels)
        self.activation = double_swish if config.variant == REWORKED else nn.functional.silu
        self.pointwise2 = PointwiseConvolution(channels, d_model)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """``x (N, T, d_model)``, ``padding (N, T)`` True on padding -> ``(N, T, d_model)``."""
        y = nn.functional.glu(self.pointwise1(x), dim=2).masked_fill(padding[:, :, None], 0.0)  # (N, T, C)
        y = depthwise_convolution(y, self.depthwise)
        if self.norm is not None:
            y = _normed(self.norm, y.flatten(0, 1)).view_as(y)
        return self.pointwise2(self.activation(y))


def _normed(norm: nn.Module, frames: Tensor) -> Tensor:
    """Apply ``norm``, ``(frames, C) -> (frames, C)``.

    A batch of a single frame has no variance, so batch norm uses the running statistics, in training as well.
    """
    if isinstance(norm, nn.BatchNorm1d) and norm.training and len(frames) == 1:
        statistics = norm.running_mean, norm.running_var
        return nn.functional.batch_norm(frames, *statistics, norm.weight, norm.bias, eps=norm.eps)
    return norm(frames)


def depthwise_convolution(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """Apply a depthwise convolution over time, ``(N, T, C) -> (N, T, C)``.

    On a CPU it uses the two-dimensional kernel, which takes channels-last input without a copy: about seven times as
    fast.
    """
    y = x.transpose(1, 2)
    if x.device.type != "cpu":
        return convolution(y).transpose(1, 2)
    weight, bias, padding = convolution.weight.unsqueeze(2), convolution.bias, (0, int(convolution.padding[0]))
    y = nn.functional.conv2d(y.unsqueeze(2), weight, bias, padding=padding, groups=convolution.groups)
    return y.squeeze(2).transpose(1, 2)


class ConformerLayer(nn.Module):
    """Half-step FFN, self-attention, convolution, half-step FFN, norm; each module with its own pre-norm and residual.

    A module whose dimension is 0 does not exist; the final norm always exists. The reworked variant has whole steps and
    no norm except the final one, a `BasicNorm`.
    """

    def __init__(self, config: ConformerConfig, index: int) -> None:
        super().__init__()
        d, dropout, reworked = config.d_model, config.dropout, config.variant == REWORKED
        activation = double_swish if reworked else nn.functional.silu
        macaron, heads = config.macaron_dim[index], config.num_heads[index]
        channels, hidden = config.conv_channels[index], config.ffn_dim[index]
        attention_dropout = 0.0 if reworked else dropout

        def norm_of(module: Optional[nn.Module]) -> nn.Module:
            return nn.Identity() if reworked or module is None else nn.LayerNorm(d)

        self.macaron = FeedForward(d, macaron, dropout, activation) if macaron else None
        self.macaron_norm = norm_of(self.macaron)
        self.attention = None
        if heads:
            dims = d, heads, config.head_dim, attention_dropout, config.position_dim
            self.attention = RelativePositionAttention(*dims)
        self.attention_norm = norm_of(self.attention)
        self.convolution = ConvolutionModule(config, channels) if channels else None
        self.convolution_norm = norm_of(self.convolution)
        self.ffn = FeedForward(d, hidden, dropout, activation) if hidden else None
        self.ffn_norm = norm_of(self.ffn)
        self.final_norm = BasicNorm() if reworked else nn.LayerNorm(d)
        self.step = 1.0 if reworked else 0.5
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor) -> Tensor:
        """``x (N, T, D)``, ``positions (2T - 1, P)``, ``padding (N, T)`` -> ``(N, T, D)``; P is ``position_dim``."""
        if self.macaron is not None:
            x = x + self.step * self.dropout(self.macaron(self.macaron_norm(x)))
        if self.attention is not None:
            x = x + self.dropout(self.attention(self.attention_norm(x), positions, padding))
        if self.convolution is not None:
            x = x + self.dropout(self.convolution(self.convolution_norm(x), padding))
        if self.ffn is not None:
            x = x + self.step * self.dropout(self.ffn(self.ffn_norm(x)))
        return self.final_norm(x)


class ConformerEncoder(NormalisedFeatures):
    """Normalisation of features with fixed statistics, subsampling by 4, and a stack of Conformer layers.

    A recipe sets the statistics of the features (`NormalisedFeatures`).
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__(config.feature_dim)
        self.config = config
        reworked = config.variant == REWORKED
        self.scale = 1.0 if reworked else math.sqrt(config.position_dim)
        self.subsampling = ConvSubsampling(
            config.feature_dim, config.subsampling_channels, config.subsampling_strides, config.d_model,
            double_swish if reworked else torch.relu, reworked,
        )  # fmt: skip
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(ConformerLayer(config, index) for index in range(config.num_layers))
        self.after_norm = nn.LayerNorm(config.d_model) if config.after_norm else None

    def forward(self, features: Tensor, lengths: Tensor, return_layers: bool = False) -> EncoderOutput:
        """Encode features.

        Under autocast, modules compute in its precision, but the residual stream keeps the precision of the features.

        Args:
            features: ``(N, T, feature_dim)``.
            lengths: ``(N,)`` valid frames.
            return_layers: whether to fill ``layers`` of the result.
        """
        silent = beyond(lengths, features.shape[1])  # zeroed, so that padding has no effect
        x = ((features - self.feature_mean) * self.feature_scale).masked_fill(silent[:, :, None], 0.0)
        precision = x.dtype
        x, lengths = self.subsampling(x, lengths)  # (N, T', D)
        x = self.dropout(x.to(precision) * self.scale)
        positions = relative_positions(x.shape[1], self.config.position_dim, x.device, x.dtype)
        padding = beyond(lengths, x.shape[1])  # (N, T')
        layers: list[Tensor] = [x] if return_layers else []
        for layer in self.layers:
            x = layer(x, positions, padding)
            if return_layers:
                layers.append(x)
        if self.after_norm is not None:
            x = self.after_norm(x)
        return EncoderOutput(x, lengths, layers)
