"""Configuration of a Transformer language model: this toolkit's own, or one of the Llama family (arXiv 2302.13971)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Optional

from pruning.limits import Count, Fraction, Natural, OneOf, Positive, check_fields
from pruning.models.layers import ACTIVATIONS, per_layer
from pruning.models.rotary import RotaryScaling

LAYER, RMS = NORMS = ("layer", "rms")
IN, OUT, FIRST, SECOND = LINEARS = ("in_proj", "out_proj", "linear1", "linear2")
"""Linear layers of a block: those of attention, then those of the feed-forward module."""


@dataclass(frozen=True)
class LanguageModelConfig:
    """Dimensions of a `TransformerLM`.

    A per-layer value is a list with one entry for all layers or one entry per layer; 0 leaves the module out. The
    defaults are those of networks that are trained here; imported networks have others.

    Attributes:
        d_model: dimension of the residual stream and of the embedding.
        num_layers: number of blocks.
        head_dim: dimension of an attention head, even (never derived from ``d_model``).
        num_heads: number of attention heads (of queries), per layer.
        ffn_dim: number of hidden units of the feed-forward module, per layer.
        vocab_size: number of tokens; 0: the size of the tokenizer.
        tied: whether the output layer shares the weights of the embedding.
        dropout: dropout of embeddings, module outputs, FFN hidden units and attention weights.
        ranks: linear layer -> rank of its factored form; layers without an entry are dense.
        shared_by: number of query heads that share each key/value head, per layer, in the order of the heads: the map
            from query heads to key/value heads (arXiv 2305.13245). Empty: each query head has its own.
        norm: norms: ``layer``, or ``rms`` (`pruning.models.layers.RMSNorm`).
        norm_eps: what norms add to the variance or to the mean square.
        gated: whether feed-forward modules are gated.
        activation: activation of the feed-forward modules.
        biased: linear layers of a block that have a bias, of ``in_proj``, ``out_proj``, ``linear1`` and ``linear2``.
        rotary_base: base of the rates of rotary positions (arXiv 2104.09864, section 3.2.2).
        rotary_scaling: change of these rates; None: none.
        positions: number of tokens in the longest context that the network was trained on; 0: not known.
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
    shared_by: tuple[tuple[Count, ...], ...] = ()
    norm: Annotated[str, OneOf(NORMS)] = LAYER
    norm_eps: Positive = 1e-5
    gated: bool = False
    activation: Annotated[str, OneOf(tuple(ACTIVATIONS))] = "gelu"
    biased: tuple[Annotated[str, OneOf(LINEARS)], ...] = LINEARS
    rotary_base: Positive = 10000.0
    rotary_scaling: Optional[RotaryScaling] = None
    positions: Natural = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("num_heads", "ffn_dim"):
            object.__setattr__(self, name, per_layer(getattr(self, name), self.num_layers, name))
        object.__setattr__(self, "biased", tuple(self.biased))
        object.__setattr__(self, "shared_by", self._checked_sharing())
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")

    def _checked_sharing(self) -> tuple[tuple[int, ...], ...]:
        """Return ``shared_by`` for each layer; empty if every query head of the network has its own."""
        given = tuple(tuple(counts) for counts in self.shared_by)
        if len(given) not in (0, 1, self.num_layers):
            raise ValueError(f"shared_by has {len(given)} entries for {self.num_layers} layers; give one per layer")
        given = given * self.num_layers if len(given) == 1 else given
        for index, (counts, heads) in enumerate(zip(given, self.num_heads)):
            if sum(counts) != heads:
                raise ValueError(f"shared_by of layer {index} counts {sum(counts)} query heads, but num_heads {heads}")
        return given if any(count > 1 for counts in given for count in counts) else ()

    def shared(self, index: int) -> tuple[int, ...]:
        """Return the number of query heads of each key/value head of a layer, counted from 0."""
        return self.shared_by[index] if self.shared_by else (1,) * self.num_heads[index]

    @property
    def kv_heads(self) -> tuple[int, ...]:
        """Number of key/value heads of each layer."""
        return tuple(len(self.shared(index)) for index in range(self.num_layers))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> LanguageModelConfig:
        """Build a configuration from the output of ``dataclasses.asdict``; an unknown key raises TypeError."""
        scaling = value.get("rotary_scaling")
        return cls(**{**value, "rotary_scaling": RotaryScaling(**scaling) if isinstance(scaling, Mapping) else scaling})
