"""The attention of Zipformers (arXiv 2310.11230, section 3.2): weights computed once, used by three modules."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pruning.models.attention import relative_shift
from pruning.models.layers import scaled_linear

_CLOSED = -1000.0  # score of masked keys, as in icefall; a row without any other key attends to all of them


def compact_positions(frames: int, dim: int, device: torch.device, dtype: torch.dtype, earlier: int = 0) -> Tensor:
    """Return encodings of the distances ``-(earlier + frames - 1) .. frames - 1`` from a query to a key.

    A distance x becomes the angle ``atan(2 pi c sign(x) (log(|x| + c) - log c) / dim)`` with ``c = sqrt(dim)``, which
    separates small distances and lets large ones run together; its multiples 1, 2, ... are encoded as cosine and sine,
    and the last entry is 1. Computed in float32 as in icefall, whose networks were trained with these values.

    Args:
        frames: number of queries, which are also the last keys.
        dim: number of entries of an encoding, even.
        device, dtype: of the result.
        earlier: number of keys before the first query.

    Returns:
        ``(earlier + 2 frames - 1, dim)``.
    """
    x = torch.arange(-(earlier + frames - 1), frames, device=device, dtype=torch.float32)[:, None]
    near = dim**0.5
    compressed = near * x.sign() * ((x.abs() + near).log() - math.log(near))
    angles = (compressed / (dim / (2.0 * math.pi))).atan() * torch.arange(1, dim // 2 + 1, device=device)
    encodings = torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)
    encodings[:, -1] = 1.0
    return encodings.to(dtype)


def extended(past: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``past (N, L, C)`` followed by ``new (N, T, C)``, and the last L frames of both."""
    both = torch.cat([past, new], dim=1)
    return both, both.narrow(1, int(new.shape[1]), int(past.shape[1]))  # constants, also of a trace


def by_head(x: Tensor, heads: int) -> Tensor:
    """``(..., heads D) -> (..., heads, D)``."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


class AttentionWeights(nn.Module):
    """Weights of every head, from queries, keys and compact relative positions, without a scale.

    ``in_proj`` computes queries, keys and queries for positions in this order; head h owns contiguous rows of each.

    Args:
        width: dimension of the input.
        num_heads: number H of heads.
        query_dim, position_dim: dimensions of a head's queries and keys, and of its queries for positions.
        encoding_dim: dimension of the positions.
    """

    def __init__(self, width: int, num_heads: int, query_dim: int, position_dim: int, encoding_dim: int) -> None:
        super().__init__()
        self.num_heads, self.query_dim, self.position_dim = num_heads, query_dim, position_dim
        self.in_proj = scaled_linear(width, num_heads * (2 * query_dim + position_dim), query_dim**-0.25)
        self.pos_proj = scaled_linear(encoding_dim, num_heads * position_dim, 0.05, bias=False)

    def forward(self, x: Tensor, positions: Tensor, closed: Tensor) -> Tensor:
        """Compute the weights.

        Args:
            x: ``(N, T, width)``.
            positions: output of `compact_positions`, ``(2T - 1, encoding_dim)``.
            closed: keys that are not attended to are True; bool, broadcast against ``(N, H, T, T)``.

        Returns:
            ``(N, H, T, T)``: query, key.
        """
        query, key, wanted = self._projected(x)
        return self._weights(query, key, wanted, positions, closed)

    def step(self, x: Tensor, positions: Tensor, closed: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the weights of T new frames on L past frames and themselves.

        Args:
            x: ``(N, T, width)``.
            positions: ``(L + 2T - 1, encoding_dim)``.
            closed: bool, broadcast against ``(N, H, T, L + T)``.
            past: keys of the past frames, ``(N, L, H D)``.

        Returns:
            Weights ``(N, H, T, L + T)``, and the keys of the last L frames.
        """
        query, key, wanted = self._projected(x)
        keys, past = extended(past, key.flatten(2))
        return self._weights(query, by_head(keys, self.num_heads), wanted, positions, closed), past

    def _weights(self, query: Tensor, key: Tensor, wanted: Tensor, positions: Tensor, closed: Tensor) -> Tensor:
        scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1)
        scores = scores + relative_shift(self.by_distance(wanted, positions))
        return scores.masked_fill(closed, _CLOSED).softmax(dim=-1)

    def _projected(self, x: Tensor) -> list[Tensor]:
        """Return queries, keys and queries for positions of ``x``, each ``(N, T, H, D)``."""
        dims = self.query_dim, self.query_dim, self.position_dim
        parts = self.in_proj(x).split([self.num_heads * dim for dim in dims], dim=-1)
        return [by_head(part, self.num_heads) for part in parts]

    def by_distance(self, wanted: Tensor, positions: Tensor) -> Tensor:
        """Return scores of distances ``(N, H, T, P)`` for ``wanted (N, T, H, D)`` and ``positions (P, ...)``."""
        encoded = by_head(self.pos_proj(positions), self.num_heads)  # (P, H, D)
        return wanted.transpose(1, 2) @ encoded.permute(1, 2, 0)


class SelfAttention(nn.Module):
    """Sums of values by given weights; head h owns contiguous rows of ``in_proj`` and columns of ``out_proj``."""

    def __init__(self, width: int, num_heads: int, value_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(width, num_heads * value_dim)
        self.out_proj = scaled_linear(num_heads * value_dim, width, 0.05)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """``x (N, T, width)``, ``weights (N, H, T, T)`` -> ``(N, T, width)``."""
        return self.attended(self.in_proj(x), weights)

    def step(self, x: Tensor, weights: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs of new frames ``x (N, T, width)``, and the values of the last of L past and T new frames.

        ``weights (N, H, T, L + T)``, ``past (N, L, H D)``.
        """
        values, past = extended(past, self.in_proj(x))
        return self.attended(values, weights), past

    def attended(self, values: Tensor, weights: Tensor) -> Tensor:
        """``values (N, K, H D)``, ``weights (N, H, T, K)`` -> ``(N, T, width)``."""
        values = by_head(values, self.num_heads).transpose(1, 2)  # (N, H, K, D)
        return self.out_proj((weights @ values).transpose(1, 2).flatten(2))


class NonlinearAttention(nn.Module):
    """``y (W (x tanh s))`` with the attention weights W of one head; ``in_proj`` computes s, x and y."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 3 * hidden)
        self.out_proj = scaled_linear(hidden, width, 0.05)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """``x (N, T, width)``, ``weights (N, T, T)`` -> ``(N, T, width)``."""
        gated, factor = self.projected(x)
        return self.out_proj((weights @ gated) * factor)

    def step(self, x: Tensor, weights: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs of new frames ``x (N, T, width)``, and what is summed of the last of L past and T new frames.

        ``weights (N, T, L + T)``, ``past (N, L, hidden)``.
        """
        gated, factor = self.projected(x)
        gated, past = extended(past, gated)
        return self.out_proj((weights @ gated) * factor), past

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is summed over time and what multiplies the sums, both ``(N, T, hidden)``."""
        gate, value, factor = self.in_proj(x).chunk(3, dim=-1)
        return value * gate.tanh(), factor
