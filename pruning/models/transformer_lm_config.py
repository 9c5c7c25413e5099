"""Configuration of a Transformer language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pruning.limits import Count, Fraction, Natural, check_fields
from pruning.models.layers import per_layer


@dataclass(frozen=True)
class LanguageModelConfig:
    """Dimensions of a `TransformerLM`.

    A per-layer value is a list with one entry for all layers or one entry per layer; 0 leaves the module out.

    Attributes:
        d_model: dimension of the residual stream and of the embedding.
        num_layers: number of blocks.
        head_dim: dimension of an attention head, even (never derived from ``d_model``).
        num_heads: number of attention heads, per layer.
        ffn_dim: number of hidden units of the feed-forward module, per layer.
        vocab_size: number of tokens; 0: the size of the tokenizer.
        tied: whether the output layer shares the weights of the embedding.
        dropout: dropout of embeddings, module outputs, FFN hidden units and attention weights.
        ranks: linear layer -> rank of its factored form; layers without an entry are dense.
    """

    d_model: Count
    num_layers: Count
    head_dim: Count
    num_heads: tuple[Natural, ...]
    ffn_dim: tuple[Natural, ...]
    vocab_size: Natural = 0
    tied: bool = True
    dropout: Fraction = 0.1
    ranks: dict[str, Count] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("num_heads", "ffn_dim"):
            object.__setattr__(self, name, per_layer(getattr(self, name), self.num_layers, name))
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> LanguageModelConfig:
        """Build a configuration from the output of ``dataclasses.asdict``; an unknown key raises TypeError."""
        return cls(**value)
