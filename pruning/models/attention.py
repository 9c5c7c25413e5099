"""Self-attention with relative positions, as in Transformer-XL (arXiv 1901.02860, section 3.3) and the Conformer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pruning.compat import attention


def relative_positions(frames: int, d_model: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return sinusoids for the distances ``frames - 1 .. -(frames - 1)``, ``(2 frames - 1, d_model)``."""
    distance = torch.arange(frames - 1, -frames, -1, device=device, dtype=torch.float32)
    rate = torch.exp(torch.arange(0, d_model, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / d_model))
    angle = distance[:, None] * rate[None, :]
    interleaved = torch.stack((torch.sin(angle), torch.cos(angle)), dim=2).flatten(1)
    return interleaved[:, :d_model].to(dtype)


def relative_shift(scores: Tensor) -> Tensor:
    """Map scores per distance ``(N, H, T, 2T - 1)`` to scores per key ``(N, H, T, T)``; entry (i, j) is for i - j.

    With L earlier keys, ``(N, H, T, L + 2T - 1)`` becomes ``(N, H, T, L + T)``.
    """
    if scores.requires_grad and torch.is_grad_enabled():
        return _RelativeShift.apply(scores)
    if not torch.jit.is_tracing():
        return _by_key(scores.contiguous())
    n, heads, frames, width = scores.shape
    padded = nn.functional.pad(scores, (1, 0))  # (N, H, T, 2T)
    shifted = padded.reshape(n, heads, width + 1, frames)[:, :, 1:].reshape(n, heads, frames, width)
    return shifted[..., : width - frames + 1]


class _RelativeShift(torch.autograd.Function):
    """Relative shift with one copy per direction; in the plain form, each slice allocates zeros when going back."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        ctx.shape = scores.shape
        return _by_key(scores.contiguous()).clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        result = gradient.new_zeros(ctx.shape)
        _by_key(result).copy_(gradient)
        return result


def _by_key(scores: Tensor) -> Tensor:
    """View contiguous ``(N, H, T, W)`` as ``(N, H, T, W - T + 1)``, such that entry (i, j) is (i, T - 1 - i + j)."""
    n, heads, frames, width = scores.shape
    strides = (heads * frames * width, frames * width, width - 1, 1)
    shape = (n, heads, frames, width - frames + 1)
    return scores.as_strided(shape, strides, scores.storage_offset() + frames - 1)


class RelativePositionAttention(nn.Module):
    """Multi-head self-attention with relative positions and an explicit head size.

    ``in_proj`` computes queries, keys and values in this order; head h owns the contiguous rows
    ``h head_dim ... (h + 1) head_dim - 1`` of each.

    Args:
        d_model: input and output dimension.
        num_heads: number of heads; the inner dimension is ``num_heads * head_dim``, independent of ``d_model``.
        head_dim: dimension of a head.
        dropout: dropout of the attention weights.
        position_dim: dimension of the positions; 0: ``d_model``.
    """

    def __init__(
        self, d_model: int, num_heads: int, head_dim: int, dropout: float = 0.0, position_dim: int = 0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.dropout = dropout
        inner = num_heads * head_dim
        self.in_proj = nn.Linear(d_model, 3 * inner)
        self.pos_proj = nn.Linear(position_dim or d_model, inner, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(num_heads, head_dim))
        self.pos_bias_v = nn.Parameter(torch.empty(num_heads, head_dim))
        self.out_proj = nn.Linear(inner, d_model)
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor) -> Tensor:
        """Apply self-attention.

        Args:
            x: input, ``(N, T, d_model)``.
            positions: output of `relative_positions`, ``(2T - 1, position_dim)``.
            padding: ``(N, T)`` bool, True on padding frames.

        Returns:
            ``(N, T, d_model)``.
        """
        n, frames, _ = x.shape
        shape = (n, frames, self.num_heads, self.head_dim)
        query, key, value = (part.reshape(shape) for part in self.in_proj(x).chunk(3, dim=-1))
        pos = self.pos_proj(positions).view(-1, self.num_heads, self.head_dim)  # (2T - 1, H, D)
        by_distance = torch.einsum("nthd,phd->nhtp", query + self.pos_bias_v, pos)
        bias = relative_shift(by_distance) / math.sqrt(self.head_dim)
        bias = bias.masked_fill(padding[:, None, None, :], torch.finfo(bias.dtype).min)
        context = attention(
            (query + self.pos_bias_u).transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            bias,
            self.dropout if self.training else 0.0,
        )  # (N, H, T, D)
        return self.out_proj(context.transpose(1, 2).reshape(n, frames, -1))
