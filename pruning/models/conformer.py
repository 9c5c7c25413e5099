"""The Conformer encoder (arXiv 2005.08100), every dimension chosen per layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pruning.models.attention import RelativePositionAttention, relative_positions
from pruning.models.layers import FeedForward, per_layer
from pruning.models.subsampling import ConvSubsampling, beyond


@dataclass(frozen=True)
class ConformerConfig:
    """Dimensions of a `ConformerEncoder`.

    A per-layer value is a list with one entry for all layers or one for each; 0 leaves that module out.

    Attributes:
        d_model: dimension of the residual stream.
        num_layers: Conformer blocks.
        head_dim: dimension of an attention head (never derived from ``d_model``).
        num_heads: attention heads, per layer.
        macaron_dim: hidden units of the first feed-forward module, per layer.
        ffn_dim: hidden units of the second, per layer.
        conv_channels: channels of the convolution module, per layer.
        conv_kernel: its kernel, odd.
        feature_dim: bins per input frame.
        subsampling_channels: channels of the subsampling convolutions.
        subsampling_strides: their strides, two of them 2.
        dropout: on module outputs, FFN hidden units and attention weights.
    """

    d_model: int
    num_layers: int
    head_dim: int
    num_heads: tuple[int, ...]
    macaron_dim: tuple[int, ...]
    ffn_dim: tuple[int, ...]
    conv_channels: tuple[int, ...]
    conv_kernel: int = 31
    feature_dim: int = 80
    subsampling_channels: tuple[int, ...] = (8, 32, 128)
    subsampling_strides: tuple[int, ...] = (1, 2, 2)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("num_heads", "macaron_dim", "ffn_dim", "conv_channels"):
            object.__setattr__(self, name, per_layer(getattr(self, name), self.num_layers, name))
        for name in ("subsampling_channels", "subsampling_strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel {self.conv_kernel} must be odd")

    def scaled(self, d_model: int) -> ConformerConfig:
        """The same layers and heads with every width in proportion to ``d_model``: that of a head, of the feed-forward
        modules, of the convolutions and of the subsampling. Widths are rounded, and at least 1 where there was any.
        """
        share = d_model / self.d_model

        def widths(values: Sequence[int]) -> tuple[int, ...]:
            return tuple(max(1, round(share * value)) if value else 0 for value in values)

        return dataclasses.replace(
            self,
            d_model=d_model,
            head_dim=widths([self.head_dim])[0],
            macaron_dim=widths(self.macaron_dim),
            ffn_dim=widths(self.ffn_dim),
            conv_channels=widths(self.conv_channels),
            subsampling_channels=widths(self.subsampling_channels),
        )


class EncoderOutput(NamedTuple):
    """``output (N, T', D)``, ``lengths (N,)``, and ``layers``: the subsampled input and each block's output."""

    output: Tensor
    lengths: Tensor
    layers: list[Tensor]


class PointwiseConvolution(nn.Conv1d):
    """A convolution of kernel 1 over channels-last input: a matrix product, the frames of a batch one long matrix.

    Its parameters are named and shaped as `torch.nn.Conv1d`'s.
    """

    channels_first = False

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, channels_in) -> (N, T, channels_out)``."""
        return nn.functional.linear(x, self.weight.squeeze(2), self.bias)


class ConvolutionModule(nn.Module):
    """Pointwise, gated linear unit, depthwise, batch norm, Swish, pointwise."""

    def __init__(self, d_model: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.pointwise1 = PointwiseConvolution(d_model, 2 * channels)
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.BatchNorm1d(channels)
        self.pointwise2 = PointwiseConvolution(channels, d_model)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """``x (N, T, d_model)``, ``padding (N, T)`` True on padding -> ``(N, T, d_model)``."""
        y = nn.functional.glu(self.pointwise1(x), dim=2).masked_fill(padding[:, :, None], 0.0)  # (N, T, C)
        y = depthwise_convolution(y, self.depthwise)
        return self.pointwise2(nn.functional.silu(self.norm(y.flatten(0, 1)).view_as(y)))


def depthwise_convolution(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """``(N, T, C) -> (N, T, C)`` through a depthwise convolution over time.

    On a CPU through the two-dimensional kernel, which takes channels last as they are: some seven times as fast.
    """
    y = x.transpose(1, 2)
    if x.device.type != "cpu":
        return convolution(y).transpose(1, 2)
    weight, bias, padding = convolution.weight.unsqueeze(2), convolution.bias, (0, int(convolution.padding[0]))
    y = nn.functional.conv2d(y.unsqueeze(2), weight, bias, padding=padding, groups=convolution.groups)
    return y.squeeze(2).transpose(1, 2)


class ConformerLayer(nn.Module):
    """Half-step FFN, self-attention, convolution, half-step FFN, norm; each with its own pre-norm and residual.

    A module whose dimension is 0 does not exist; the final norm always does.
    """

    def __init__(self, config: ConformerConfig, index: int) -> None:
        super().__init__()
        d, dropout = config.d_model, config.dropout
        heads, channels = config.num_heads[index], config.conv_channels[index]
        self.macaron = FeedForward(d, config.macaron_dim[index], dropout) if config.macaron_dim[index] else None
        self.macaron_norm = nn.LayerNorm(d) if self.macaron is not None else None
        self.attention = RelativePositionAttention(d, heads, config.head_dim, dropout) if heads else None
        self.attention_norm = nn.LayerNorm(d) if self.attention is not None else None
        self.convolution = ConvolutionModule(d, channels, config.conv_kernel) if channels else None
        self.convolution_norm = nn.LayerNorm(d) if self.convolution is not None else None
        self.ffn = FeedForward(d, config.ffn_dim[index], dropout) if config.ffn_dim[index] else None
        self.ffn_norm = nn.LayerNorm(d) if self.ffn is not None else None
        self.final_norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor) -> Tensor:
        """``x (N, T, D)``, ``positions (2T - 1, D)``, ``padding (N, T)`` -> ``(N, T, D)``."""
        if self.macaron is not None and self.macaron_norm is not None:
            x = x + 0.5 * self.dropout(self.macaron(self.macaron_norm(x)))
        if self.attention is not None and self.attention_norm is not None:
            x = x + self.dropout(self.attention(self.attention_norm(x), positions, padding))
        if self.convolution is not None and self.convolution_norm is not None:
            x = x + self.dropout(self.convolution(self.convolution_norm(x), padding))
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + 0.5 * self.dropout(self.ffn(self.ffn_norm(x)))
        return self.final_norm(x)


class ConformerEncoder(nn.Module):
    """Features normalised with fixed statistics, subsampling by 4, and a stack of Conformer layers.

    The buffers ``feature_mean`` and ``feature_scale`` ``(feature_dim,)`` begin as 0 and 1 (features as they are); a
    recipe sets them once from its training data (`set_feature_statistics`).
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("feature_mean", torch.zeros(config.feature_dim))
        self.register_buffer("feature_scale", torch.ones(config.feature_dim))
        self.subsampling = ConvSubsampling(
            config.feature_dim, config.subsampling_channels, config.subsampling_strides, config.d_model
        )
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(ConformerLayer(config, index) for index in range(config.num_layers))

    @torch.no_grad()
    def set_feature_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Normalise features by ``mean`` and standard ``deviation``, each ``(feature_dim,)``, from now on."""
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(1 / deviation.clamp(min=1e-3))

    def forward(self, features: Tensor, lengths: Tensor, return_layers: bool = False) -> EncoderOutput:
        """Encode.

        Args:
            features: ``(N, T, feature_dim)``.
            lengths: ``(N,)`` valid frames.
            return_layers: whether ``layers`` of the result is filled.

        Under autocast, modules compute in its precision but the residual stream stays in that of the features.
        """
        silent = beyond(lengths, features.shape[1])  # zeros, so that what pads a batch has no effect
        x = ((features - self.feature_mean) * self.feature_scale).masked_fill(silent[:, :, None], 0.0)
        precision = x.dtype
        x, lengths = self.subsampling(x, lengths)  # (N, T', D)
        x = self.dropout(x.to(precision) * math.sqrt(self.config.d_model))
        positions = relative_positions(x.shape[1], self.config.d_model, x.device, x.dtype)
        padding = beyond(lengths, x.shape[1])  # (N, T')
        layers: list[Tensor] = [x] if return_layers else []
        for layer in self.layers:
            x = layer(x, positions, padding)
            if return_layers:
                layers.append(x)
        return EncoderOutput(x, lengths, layers)
