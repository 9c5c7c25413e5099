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


def rotation(positions: Tensor, head_dim: int) -> Tensor:
    """Return cosine and sine of the angles by which rotary positions rotate pairs of entries (arXiv 2104.09864, 3.2.2).

    Args:
        positions: ``(P,)``, counted from 0.
        head_dim: dimension of a head, even.

    Returns:
        ``(2, P, head_dim / 2)`` float32.
    """
    pairs = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    return turns(positions, torch.exp(pairs * (-math.log(10000.0) / head_dim)))


def turns(positions: Tensor, rates: Tensor) -> Tensor:
    """Return cosine and sine of ``positions (P,)`` times ``rates (R,)``, the angle per position, ``(2, P, R)``."""
    angles = positions[:, None].float() * rates[None, :]
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate ``x (..., head_dim)`` by angles whose ``cosine`` and ``sine`` broadcast against half of ``head_dim``."""
    first, second = x.chunk(2, dim=-1)
    cosine, sine = cosine.to(x), sine.to(x)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def rotated_neighbours(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate pairs of neighbouring entries of ``x (..., head_dim)`` (arXiv 2104.09864, equation 34).

    The angles, whose ``cosine`` and ``sine`` have R entries, rotate the first 2 R entries; the others stay.
    """
    cosine, sine = cosine.to(x), sine.to(x)
    size = 2 * cosine.shape[-1]
    first, second = x[..., :size:2], x[..., 1:size:2]
    pairs = torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-1).flatten(-2)
    return torch.cat([pairs, x[..., size:]], dim=-1)


def inserted(cached: Tensor, new: Tensor, lengths: Tensor) -> Tensor:
    """Write entries behind each history of a cache, which grows if they do not fit.

    Args:
        cached: ``(N, H, T, D)``, of which the first ``lengths`` entries are valid.
        new: ``(N, H, U, D)``.
        lengths: length of each history, ``(N,)``.

    Returns:
        ``(N, H, T', D)``.
    """
    room = int(lengths.max()) + new.shape[2] - cached.shape[2]
    if room > 0:
        cached = nn.functional.pad(cached, (0, 0, 0, room))
    places = lengths[:, None] + torch.arange(new.shape[2], device=lengths.device)  # (N, U)
    return cached.scatter(2, places[:, None, :, None].expand_as(new), new)


def appended(
    keys: Tensor, values: Tensor, key: Tensor, value: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Append one position to each history of keys and values.

    Args:
        keys, values: cache, ``(N, H, T, D)``, of which the first ``lengths`` entries are valid.
        key, value: of the new positions, ``(N, H, 1, D)``.
        lengths: length of each history, ``(N,)``.

    Returns:
        Keys and values that include the new positions, ``(N, H, T', D)``, and a bias ``(N, 1, 1, T')`` that is added to
        scores: very negative at entries beyond a history.
    """
    keys, values = inserted(keys, key, lengths), inserted(values, value, lengths)
    ahead = torch.arange(keys.shape[2], device=lengths.device)[None, :] > lengths[:, None]  # (N, T')
    bias = torch.zeros_like(ahead, dtype=key.dtype).masked_fill(ahead, torch.finfo(key.dtype).min)
    return keys, values, bias[:, None, None]


def seen(sees: Tensor, lengths: Tensor, cached: int, like: Tensor) -> Tensor:
    """Return the bias with which new positions attend to their history and to some of the new positions.

    Args:
        sees: ``(N, U, U)`` bool, whether new position u attends to new position v.
        lengths: length of each history, ``(N,)``.
        cached: number of entries of the cache without the new ones, see `inserted`.
        like: a tensor with the type of the bias.

    Returns:
        ``(N, 1, U, T')``, 0 or very negative.
    """
    n, new, _ = sees.shape
    room = max(cached, int(lengths.max()) + new)
    place = torch.arange(room, device=lengths.device) - lengths[:, None]  # (N, T'), from 0 at the first new one
    inside = ((place >= 0) & (place < new))[:, None]
    of_new = sees.gather(2, place.clamp(0, new - 1)[:, None].expand(n, new, room))  # (N, U, T')
    hidden = ~((place < 0)[:, None] | (inside & of_new))
    bias = torch.zeros_like(hidden, dtype=like.dtype).masked_fill(hidden, torch.finfo(like.dtype).min)
    return bias[:, None]


class CausalAttention(nn.Module):
    """Causal multi-head self-attention with rotary positions and an explicit head size.

    The weights have the layout of `RelativePositionAttention`.

    Args:
        d_model: input and output dimension.
        num_heads: number of heads; the inner dimension is ``num_heads * head_dim``, independent of ``d_model``.
        head_dim: dimension of a head, even.
        dropout: dropout of the attention weights.
    """

    def __init__(self, d_model: int, num_heads: int, head_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.dropout = dropout
        self.in_proj = nn.Linear(d_model, 3 * num_heads * head_dim)
        self.out_proj = nn.Linear(num_heads * head_dim, d_model)

    def _projected(self, x: Tensor) -> list[Tensor]:
        """Return queries, keys and values ``(N, H, U, D)`` of ``x (N, U, d_model)``."""
        n, length, _ = x.shape
        parts = self.in_proj(x).chunk(3, dim=-1)
        return [part.reshape(n, length, self.num_heads, self.head_dim).transpose(1, 2) for part in parts]

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        context = attention(query, key, value, bias, self.dropout if self.training else 0.0)  # (N, H, U, D)
        return self.out_proj(context.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        """Attend to the current and all earlier positions.

        Args:
            x: input, ``(N, U, d_model)``.
            positions: output of `rotation`, ``(2, U, head_dim / 2)``.
            bias: ``(U, U)`` that is added to the scores: very negative for future positions.

        Returns:
            ``(N, U, d_model)``.
        """
        query, key, value = self._projected(x)
        return self._attended(rotated(query, *positions), rotated(key, *positions), value, bias)

    def extend(
        self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend from several new positions of each history.

        Args:
            x: input at the new positions, ``(N, U, d_model)``.
            positions: ``(2, N, U, head_dim / 2)`` of the new positions.
            keys, values: cache, ``(N, H, T, D)``, of which the first ``lengths`` entries are valid.
            lengths: length of each history, ``(N,)``.
            bias: ``(N, 1, U, T')`` that is added to the scores of the entries of the cache with the new ones.

        Returns:
            The output ``(N, U, d_model)``, and keys and values that include the new positions, ``(N, H, T', D)``.
        """
        cosine, sine = positions[:, :, None]
        query, key, value = self._projected(x)  # (N, H, U, D)
        keys, values = inserted(keys, rotated(key, cosine, sine), lengths), inserted(values, value, lengths)
        return self._attended(rotated(query, cosine, sine), keys, values, bias), keys, values

    def step(
        self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend from one new position of each history.

        Args:
            x: input at the new positions, ``(N, 1, d_model)``.
            positions: ``(2, N, head_dim / 2)`` of the new positions.
            keys, values: cache, ``(N, H, T, D)``, of which the first ``lengths`` entries are valid.
            lengths: length of each history, ``(N,)``.

        Returns:
            The output ``(N, 1, d_model)``, and keys and values that include the new positions.
        """
        cosine, sine = positions[:, :, None, None]
        query, key, value = self._projected(x)  # (N, H, 1, D)
        keys, values, bias = appended(keys, values, rotated(key, cosine, sine), value, lengths)
        return self._attended(rotated(query, cosine, sine), keys, values, bias), keys, values
