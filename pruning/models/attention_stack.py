"""Layers of an encoder or a decoder of Whisper and Moonshine: attention and feed-forward modules, each with a pre-norm.

A module whose dimension is 0 does not exist.
"""

from __future__ import annotations

from typing import Optional

from torch import Tensor, nn

from pruning.models.encoder_decoder_config import StackConfig
from pruning.models.layers import ACTIVATIONS, FeedForward, GatedFeedForward, layer_norm
from pruning.models.multi_head_attention import MultiHeadAttention
from pruning.models.rotary import rates, turns


def attention_module(config: StackConfig, heads: int, source_dim: int) -> Optional[MultiHeadAttention]:
    """Return the attention module of a layer; None for no heads."""
    if not heads:
        return None
    return MultiHeadAttention(
        config.d_model, source_dim, heads, config.head_dim, config.common.biased, config.attention_dropout
    )


def norm_for(config: StackConfig, units: int) -> Optional[nn.LayerNorm]:
    """Return the norm before a module of ``units`` units; None for no units."""
    return layer_norm(config.d_model, config.common.norm_bias) if units else None


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward module, each with its pre-norm and its residual."""

    def __init__(self, config: StackConfig, index: int) -> None:
        super().__init__()
        heads, hidden = config.heads[index], config.ffn_dim[index]
        activation = ACTIVATIONS[config.activation]
        self.attention = attention_module(config, heads, config.d_model)
        self.attention_norm = norm_for(config, heads)
        form = GatedFeedForward if config.gated else FeedForward
        self.ffn = form(config.d_model, hidden, config.ffn_dropout, activation) if hidden else None
        self.ffn_norm = norm_for(config, hidden)
        self.dropout = nn.Dropout(config.dropout)

    def attend(self, x: Tensor, bias: Optional[Tensor], turned: Optional[Tensor]) -> Tensor:
        """Apply self-attention with norm and residual, ``(N, T, D) -> (N, T, D)``.

        ``bias`` is added to the scores; for ``turned`` see `MultiHeadAttention.forward`.
        """
        if self.attention is None or self.attention_norm is None:
            return x
        normed = self.attention_norm(x)
        keys, values = self.attention.keys_values(normed, turned)
        return x + self.dropout(self.attention(normed, keys, values, bias, turned))

    def feed(self, x: Tensor) -> Tensor:
        """Apply the feed-forward module with norm and residual, ``(N, T, D) -> (N, T, D)``."""
        if self.ffn is None or self.ffn_norm is None:
            return x
        return x + self.dropout(self.ffn(self.ffn_norm(x)))

    def forward(self, x: Tensor, bias: Optional[Tensor], turned: Optional[Tensor]) -> Tensor:
        """``(N, T, D) -> (N, T, D)``; for ``bias`` and ``turned`` see `attend`."""
        return self.feed(self.attend(x, bias, turned))


def rotation_of(config: StackConfig, positions: Tensor) -> Optional[Tensor]:
    """Return the angles of rotary ``positions (P,)``, ``(2, P, rotary_dim / 2)``; None if the family has none."""
    if not config.rotary_dim:
        return None
    return turns(positions, rates(config.rotary_dim, config.rotary_base, positions.device))


def initialise(stack: nn.Module) -> None:
    """Initialise as Hugging Face does: small normal weights, zero biases, norms that change nothing."""
    for module in stack.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, (nn.Linear, nn.Conv1d)) and module.bias is not None:
            nn.init.zeros_(module.bias)
