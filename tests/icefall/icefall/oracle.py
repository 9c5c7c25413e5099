"""Modules of the stand-ins for icefall's Conformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Linear = Callable[..., nn.Module]


def distances(frames: int, d_model: int) -> Tensor:
    """Return a sinusoid for every distance ``-(frames - 1) ... frames - 1``, ``(2 frames - 1, d_model)``."""
    table = torch.empty(2 * frames - 1, d_model)
    for row, distance in enumerate(range(-(frames - 1), frames)):
        for pair in range(d_model // 2):
            angle = distance / 10000 ** (2 * pair / d_model)
            table[row, 2 * pair], table[row, 2 * pair + 1] = math.sin(angle), math.cos(angle)
    return table


class Attention(nn.Module):
    """Attention over one utterance ``(T, D)``."""

    def __init__(self, d_model: int, heads: int, linear: Linear, scale_first: bool) -> None:
        super().__init__()
        self.heads, self.scale_first = heads, scale_first
        self.in_proj = linear(d_model, 3 * d_model)
        self.out_proj = linear(d_model, d_model)
        self.linear_pos = linear(d_model, d_model, bias=False)
        for name in ("pos_bias_u", "pos_bias_v"):
            setattr(self, name, nn.Parameter(torch.randn(heads, d_model // heads)))
            if scale_first:
                setattr(self, f"{name}_scale", nn.Parameter(torch.randn(())))

    def _bias(self, name: str) -> Tensor:
        scale = getattr(self, f"{name}_scale").exp() if self.scale_first else 1.0
        return getattr(self, name) * scale

    def forward(self, x: Tensor) -> Tensor:
        frames, d_model = x.shape
        size = d_model // self.heads
        q, k, v = (part.view(frames, self.heads, size) for part in self.in_proj(x).split(d_model, dim=1))
        p = self.linear_pos(distances(frames, d_model)).view(-1, self.heads, size)
        before, after = (size**-0.5, 1.0) if self.scale_first else (1.0, size**-0.5)
        table = torch.arange(frames)[:, None] - torch.arange(frames)[None, :] + frames - 1  # (i, j) -> i - j
        scores = torch.einsum("ihd,jhd->hij", q * before + self._bias("pos_bias_u"), k)
        scores = scores + torch.einsum("ihd,ijhd->hij", q * before + self._bias("pos_bias_v"), p[table])
        return self._out(torch.einsum("hij,jhd->ihd", (scores * after).softmax(dim=2), v).reshape(frames, d_model))

    def _out(self, x: Tensor) -> Tensor:
        """Apply the layer's weights without calling it, as icefall does."""
        layer: Any = self.out_proj
        scaled = self.scale_first
        weight = layer.weight * layer.weight_scale.exp() if scaled else layer.weight
        bias = layer.bias * layer.bias_scale.exp() if scaled else layer.bias
        return x @ weight.T + bias


class Convolution(nn.Module):
    """Convolution module for one utterance ``(T, D)``."""

    def __init__(self, d_model: int, kernel: int, conv: Linear, norm: nn.Module | None, activation: nn.Module) -> None:
        super().__init__()
        self.pointwise_conv1 = conv(d_model, 2 * d_model, 1)
        self.depthwise_conv = conv(d_model, d_model, kernel, padding=kernel // 2, groups=d_model)
        if norm is not None:
            self.norm = norm
        self.pointwise_conv2 = conv(d_model, d_model, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.pointwise_conv1(x.T[None]).chunk(2, dim=1)
        y = self.depthwise_conv(value * gate.sigmoid())[0].T
        if hasattr(self, "norm"):
            y = self.norm(y)
        return self.pointwise_conv2(self.activation(y).T[None])[0].T


class Layer(nn.Module):
    """Layer for a batch ``(T, N, D)``; utterances are processed one by one, each with its own length."""

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        outputs = [self.of_one(x[:length, n]) for n, length in enumerate(lengths)]
        return nn.utils.rnn.pad_sequence(outputs)

    def of_one(self, x: Tensor) -> Tensor:
        """Process one utterance, ``(T, D) -> (T, D)``."""
        raise NotImplementedError


class Conformer(nn.Module):
    """A Conformer that embeds utterances one by one; layers take a batch, as in icefall."""

    scale = 1.0
    encoder_embed: nn.Module
    encoder: Any

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        embedded = [self.encoder_embed(features[:length]) * self.scale for features, length in zip(x, x_lens.tolist())]
        lengths = [len(utterance) for utterance in embedded]
        y = nn.utils.rnn.pad_sequence(embedded)
        for layer in self.encoder.layers:
            y = layer(y, lengths)
        return self.output(y).transpose(0, 1), torch.tensor(lengths)

    def output(self, y: Tensor) -> Tensor:
        """Apply the modules after the layers."""
        return y
