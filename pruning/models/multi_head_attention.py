"""Multi-head attention with separate projections and an explicit head size, over its own sequence or another one.

Queries, keys and values are computed apart, so that keys and values can be kept from step to step.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Optional

from torch import Tensor, nn

from pruning.compat import attention
from pruning.models.rotary import rotated_neighbours

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class MultiHeadAttention(nn.Module):
    """Multi-head attention whose h-th head owns the rows ``h head_dim ... (h + 1) head_dim - 1`` of each projection.

    Args:
        d_model: input and output dimension.
        source_dim: dimension of the sequence that keys and values are computed from.
        num_heads: number of heads; the inner dimension is ``num_heads * head_dim``, independent of ``d_model``.
        head_dim: dimension of a head.
        biased: which of `PROJECTIONS` have a bias.
        dropout: dropout of the attention weights.
    """

    def __init__(
        self, d_model: int, source_dim: int, num_heads: int, head_dim: int, biased: Collection[str], dropout: float
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.dropout = num_heads, head_dim, dropout
        inner = num_heads * head_dim
        self.q_proj = nn.Linear(d_model, inner, bias="q_proj" in biased)
        self.k_proj = nn.Linear(source_dim, inner, bias="k_proj" in biased)
        self.v_proj = nn.Linear(source_dim, inner, bias="v_proj" in biased)
        self.out_proj = nn.Linear(inner, d_model, bias="out_proj" in biased)

    def by_head(self, x: Tensor) -> Tensor:
        """Split the outputs of a projection into heads, ``(N, T, H D) -> (N, H, T, D)``."""
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)

    def keys_values(self, source: Tensor, turns: Optional[Tensor] = None) -> tuple[Tensor, Tensor]:
        """Return keys and values ``(N, H, T, D)`` of ``source (N, T, source_dim)``; for ``turns`` see `forward`."""
        key, value = self.by_head(self.k_proj(source)), self.by_head(self.v_proj(source))
        return key if turns is None else rotated_neighbours(key, turns[0], turns[1]), value

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, bias: Optional[Tensor], turns: Optional[Tensor] = None
    ) -> Tensor:
        """Attend from ``x`` to keys and values.

        Args:
            x: input, ``(N, U, d_model)``.
            keys, values: output of `keys_values`, ``(N, H, T, D)``.
            bias: term that is added to the scores, broadcast to ``(N, H, U, T)``; None: no bias.
            turns: cosine and sine of rotary positions, which broadcast against ``(N, H, U, R)`` and rotate the first
                2 R entries of each head, see `pruning.models.rotary.rotated_neighbours`; None: no rotation.

        Returns:
            ``(N, U, d_model)``.
        """
        query = self.by_head(self.q_proj(x))
        if turns is not None:
            query = rotated_neighbours(query, turns[0], turns[1])
        context = attention(query, keys, values, bias, self.dropout if self.training else 0.0)  # (N, H, U, D)
        return self.out_proj(context.transpose(1, 2).flatten(2))
