"""Causal self-attention with rotary positions, in which query heads may share keys and values (arXiv 2305.13245)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Optional

import torch
from torch import Tensor, nn

from pruning.compat import attention
from pruning.models.rotary import rotated
from pruning.models.transformer_lm_config import IN, OUT


def all_full(lengths: Tensor, cached: int) -> bool:
    """Return whether all ``cached`` entries of a cache are valid; a trace, which must serve any lengths, says no."""
    return not torch.jit.is_tracing() and int(lengths.min()) == cached


def inserted(cached: Tensor, new: Tensor, lengths: Tensor) -> Tensor:
    """Write entries behind each history of a cache, which grows if they do not fit.

    Args:
        cached: ``(N, H, T, D)``, of which the first ``lengths`` entries are valid.
        new: ``(N, H, U, D)``.
        lengths: length of each history, ``(N,)``.

    Returns:
        ``(N, H, T', D)``.
    """
    if all_full(lengths, cached.shape[2]):
        return torch.cat([cached, new], dim=2)
    room = int(lengths.max()) + new.shape[2] - cached.shape[2]
    if room > 0:
        cached = nn.functional.pad(cached, (0, 0, 0, room))
    places = lengths[:, None] + torch.arange(new.shape[2], device=lengths.device)  # (N, U)
    return cached.scatter(2, places[:, None, :, None].expand_as(new), new)


def appended(
    keys: Tensor, values: Tensor, key: Tensor, value: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Optional[Tensor]]:
    """Append one position to each history of keys and values.

    Args:
        keys, values: cache, ``(N, H, T, D)``, of which the first ``lengths`` entries are valid.
        key, value: of the new positions, ``(N, H, 1, D)``.
        lengths: length of each history, ``(N,)``.

    Returns:
        Keys and values that include the new positions, ``(N, H, T', D)``, and a bias ``(N, 1, 1, T')`` that is added to
        scores: very negative at entries beyond a history; None if there are none.
    """
    full = all_full(lengths, keys.shape[2])
    keys, values = inserted(keys, key, lengths), inserted(values, value, lengths)
    if full:
        return keys, values, None
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

    ``in_proj`` computes queries, keys and values in this order; head h owns the contiguous rows
    ``h head_dim ... (h + 1) head_dim - 1`` of each. The query heads that share a key/value head are neighbours.

    Args:
        d_model: input and output dimension.
        shared: number of query heads of each key/value head; the inner dimension is their sum times ``head_dim``,
            independent of ``d_model``.
        head_dim: dimension of a head, even.
        dropout: dropout of the attention weights.
        biased: which of ``in_proj`` and ``out_proj`` have a bias.
    """

    of_query: Optional[Tensor]

    def __init__(
        self,
        d_model: int,
        shared: Sequence[int],
        head_dim: int,
        dropout: float = 0.0,
        biased: Collection[str] = (IN, OUT),
    ) -> None:
        super().__init__()
        self.head_dim, self.dropout = head_dim, dropout
        self.sizes = [count * head_dim for count in (sum(shared), len(shared), len(shared))]
        heads = torch.arange(len(shared)).repeat_interleave(torch.tensor(shared))
        self.register_buffer("of_query", heads if max(shared) > 1 else None, persistent=False)
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=IN in biased)
        self.out_proj = nn.Linear(self.sizes[0], d_model, bias=OUT in biased)

    def _projected(self, x: Tensor) -> list[Tensor]:
        """Return queries ``(N, H, U, D)``, keys and values ``(N, K, U, D)`` of ``x (N, U, d_model)``."""
        n, length, _ = x.shape
        parts = self.in_proj(x).split(self.sizes, dim=-1)
        return [part.reshape(n, length, -1, self.head_dim).transpose(1, 2) for part in parts]

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, bias: Optional[Tensor]) -> Tensor:
        key, value = self._for_queries(key), self._for_queries(value)
        context = attention(query, key, value, bias, self.dropout if self.training else 0.0)  # (N, H, U, D)
        return self.out_proj(context.transpose(1, 2).flatten(2))

    def _for_queries(self, x: Tensor) -> Tensor:
        """Return the keys or values of each query head, ``(N, K, T, D) -> (N, H, T, D)``."""
        return x if self.of_query is None else x.index_select(1, self.of_query)

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        """Attend to the current and all earlier positions.

        Args:
            x: input, ``(N, U, d_model)``.
            positions: output of `pruning.models.rotary.turns`, ``(2, U, head_dim / 2)``.
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
            keys, values: cache, ``(N, K, T, D)``, of which the first ``lengths`` entries are valid.
            lengths: length of each history, ``(N,)``.
            bias: ``(N, 1, U, T')`` that is added to the scores of the entries of the cache with the new ones.

        Returns:
            The output ``(N, U, d_model)``, and keys and values that include the new positions, ``(N, K, T', D)``.
        """
        cosine, sine = positions[:, :, None]
        query, key, value = self._projected(x)  # (N, H or K, U, D)
        keys, values = inserted(keys, rotated(key, cosine, sine), lengths), inserted(values, value, lengths)
        return self._attended(rotated(query, cosine, sine), keys, values, bias), keys, values

    def step(
        self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend from one new position of each history.

        Args:
            x: input at the new positions, ``(N, 1, d_model)``.
            positions: ``(2, N, head_dim / 2)`` of the new positions.
            keys, values: cache, ``(N, K, T, D)``, of which the first ``lengths`` entries are valid.
            lengths: length of each history, ``(N,)``.

        Returns:
            The output ``(N, 1, d_model)``, and keys and values that include the new positions.
        """
        cosine, sine = positions[:, :, None, None]
        query, key, value = self._projected(x)  # (N, H or K, 1, D)
        keys, values, bias = appended(keys, values, rotated(key, cosine, sine), value, lengths)
        return self._attended(rotated(query, cosine, sine), keys, values, bias), keys, values
