"""Decoder-only Transformer language model over tokens, with dimensions set per layer.

It has pre-norm blocks (arXiv 2002.04745) and rotary positions (arXiv 2104.09864), so that there is no maximum length.
Its configuration makes it a network of this toolkit, or one of the Llama family (arXiv 2302.13971).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Optional, cast

import torch
from torch import Tensor, nn

from pruning.core import low_rank
from pruning.core.cost import CostTerm
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.models import lm_units
from pruning.models.causal_attention import CausalAttention, seen
from pruning.models.layers import ACTIVATIONS, FeedForward, GatedFeedForward, RMSNorm
from pruning.models.rotary import rates, scaled, turns
from pruning.models.transformer_lm_config import RMS, LanguageModelConfig


class LmState(NamedTuple):
    """State of a language model for N histories, which may have different lengths.

    ``keys`` and ``values`` map the index of each layer with attention to ``(N, H, T, D)``, with H key/value heads;
    entries at and after the length of a history are meaningless. ``lengths`` has shape ``(N,)``.
    """

    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    lengths: Tensor

    @classmethod
    def empty(cls, like: Tensor, histories: int, heads: Sequence[int], head_dim: int) -> LmState:
        """Return the state of empty histories, with the type and the device of ``like``.

        Args:
            like: any tensor of the network.
            histories: their number.
            heads: number of key/value heads of each layer; 0: the layer has no attention.
            head_dim: dimension of a head.
        """
        keys, values = ({index: like.new_zeros(histories, count, 0, head_dim)
                         for index, count in enumerate(heads) if count} for _ in range(2))  # fmt: skip
        return cls(keys, values, torch.zeros(histories, dtype=torch.long, device=like.device))

    def select(self, index: Tensor) -> LmState:
        """Return the state of the histories ``index (K,)``, in that order."""
        keys, values = ({layer: cached[index] for layer, cached in part.items()} for part in (self.keys, self.values))
        return LmState(keys, values, self.lengths[index])

    def put(self, index: Tensor, other: LmState) -> LmState:
        """Return a state in which the histories ``index (K,)`` are replaced by those of ``other``."""
        parts = []
        for ours, theirs in ((self.keys, other.keys), (self.values, other.values)):
            part = {}
            for layer, cached in ours.items():
                room = max(cached.shape[2], theirs[layer].shape[2])
                old, new = (nn.functional.pad(x, (0, 0, 0, room - x.shape[2])) for x in (cached, theirs[layer]))
                part[layer] = old.index_copy(0, index, new)
            parts.append(part)
        return LmState(parts[0], parts[1], self.lengths.index_copy(0, index, other.lengths))


def norm_for(config: LanguageModelConfig) -> nn.Module:
    """Return a norm over the residual stream."""
    eps = config.norm_eps
    return RMSNorm(config.d_model, eps) if config.norm == RMS else nn.LayerNorm(config.d_model, eps)


class TransformerLayer(nn.Module):
    """Self-attention and FFN, each with its own pre-norm and residual; a module whose dimension is 0 does not exist."""

    def __init__(self, config: LanguageModelConfig, index: int) -> None:
        super().__init__()
        d, shared, hidden = config.d_model, config.shared(index), config.ffn_dim[index]
        self.attention = CausalAttention(d, shared, config.head_dim, config.dropout, config.biased) if shared else None
        self.attention_norm = norm_for(config) if shared else None
        form, activation = GatedFeedForward if config.gated else FeedForward, ACTIVATIONS[config.activation]
        self.ffn = form(d, hidden, config.dropout, activation, config.biased) if hidden else None
        self.ffn_norm = norm_for(config) if hidden else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        """``x (N, U, D)``, ``positions`` from `rotary.turns`, ``bias (U, U)`` on the scores -> ``(N, U, D)``."""
        if self.attention is not None and self.attention_norm is not None:
            x = x + self.dropout(self.attention(self.attention_norm(x), positions, bias))
        return self.feed(x)

    def feed(self, x: Tensor) -> Tensor:
        """Apply the feed-forward module with norm and residual, ``(N, U, D) -> (N, U, D)``."""
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return x


class TransformerLM(nn.Module):
    """Embedding, blocks, a norm, and an output layer for the next token.

    Only the blocks are pruned; the embedding, tied or not, loses the channels that the residual stream loses.
    """

    kind: ClassVar[str] = "transformer_lm"

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        if config.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {config.vocab_size}")
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(TransformerLayer(config, index) for index in range(config.num_layers))
        self.norm = norm_for(config)
        self.output = None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._initialise()
        low_rank.install(self, config.ranks)

    def _initialise(self) -> None:
        """Initialise as GPT-2: small normal weights, scaled down with depth where they write to the residual stream."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        deep = 0.02 / math.sqrt(2 * max(1, self.config.num_layers))
        for name, parameter in self.named_parameters():
            if name.endswith(("out_proj.weight", "linear2.weight")):
                nn.init.normal_(parameter, std=deep)

    def log_probs(self, tokens: Tensor) -> Tensor:
        """Return log-probabilities ``(N, U, V)`` of the next token after each prefix of ``tokens (N, U)``."""
        return self(tokens).log_softmax(dim=2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next token after each prefix.

        Args:
            tokens: ``(N, U)`` int64, beginning with the start-of-sentence token.

        Returns:
            ``(N, U, V)``.
        """
        return nn.functional.linear(self.hidden(tokens), self.output_weight)

    @property
    def output_weight(self) -> Tensor:
        """Weight of the output layer, ``(V, D)``, which is that of the embedding if they are tied."""
        return self.embedding.weight if self.output is None else self.output.weight

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the input of the output layer, ``(N, U, D)``; ``tokens (N, U)`` as in `forward`."""
        length = tokens.shape[1]
        x = self.dropout(self.embedding(tokens))  # (N, U, D)
        positions = self._turns(torch.arange(length, device=tokens.device))
        future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        bias = torch.zeros(length, length, dtype=x.dtype, device=x.device).masked_fill(future, torch.finfo(x.dtype).min)
        for layer in self.layers:
            x = layer(x, positions, bias)
        normed: Tensor = self.norm(x)
        return normed

    def _turns(self, positions: Tensor) -> Tensor:
        """Return cosine and sine of the angles of ``positions (P,)``, ``(2, P, head_dim / 2)`` float32."""
        config = self.config
        plain = rates(config.head_dim, config.rotary_base, positions.device)
        return turns(positions, scaled(plain, config.rotary_scaling))

    def start(self, histories: int) -> LmState:
        """Return the state of ``histories`` empty histories, on the device of the network."""
        return LmState.empty(self.embedding.weight, histories, self.config.kv_heads, self.config.head_dim)

    def step(self, tokens: Tensor, state: LmState) -> tuple[Tensor, LmState]:
        """Append one token to each history.

        Args:
            tokens: next token of each history, ``(N,)`` int64.
            state: state of the N histories; is not modified.

        Returns:
            Log-probabilities of the token that follows, ``(N, V)`` float32, and the new state.
        """
        x = self.dropout(self.embedding(tokens))[:, None]  # (N, 1, D)
        positions = self._turns(state.lengths)
        keys, values = {}, {}
        for index, module in enumerate(self.layers):
            layer = cast(TransformerLayer, module)
            if layer.attention is not None and layer.attention_norm is not None:
                y, keys[index], values[index] = layer.attention.step(
                    layer.attention_norm(x), positions, state.keys[index], state.values[index], state.lengths
                )
                x = x + layer.dropout(y)
            x = layer.feed(x)
        logits = nn.functional.linear(self.norm(x), self.output_weight).squeeze(1)
        return logits.float().log_softmax(dim=1), LmState(keys, values, state.lengths + 1)

    def extend(
        self, tokens: Tensor, state: LmState, sees: Optional[Tensor] = None, counts: Optional[Tensor] = None
    ) -> tuple[Tensor, LmState]:
        """Append several tokens to each history, or a tree of tokens: several continuations with shared beginnings.

        Args:
            tokens: the new tokens, ``(N, U)`` int64.
            state: state of the N histories; is not modified.
            sees: ``(N, U, U)`` bool, whether token u attends to the new token v: in a tree, to its ancestors and
                itself. Its position is behind as many tokens as it attends to. None: to all new ones up to itself.
            counts: number of valid new tokens of each row, which come first, ``(N,)``; None: all.

        Returns:
            The input of the output layer at the new tokens, ``(N, U, D)``, as from `hidden`, and the new state, which
            has no meaning if the tokens are a tree with branches.
        """
        n, length = tokens.shape
        if sees is None:
            sees = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril().expand(n, -1, -1)
        x = self.dropout(self.embedding(tokens))  # (N, U, D)
        places = state.lengths[:, None] + sees.sum(dim=2) - 1  # (N, U)
        positions = self._turns(places.flatten()).unflatten(1, (n, length))
        cached = max((keys.shape[2] for keys in state.keys.values()), default=0)
        bias = seen(sees, state.lengths, cached, x)
        keys, values = {}, {}
        for index, module in enumerate(self.layers):
            layer = cast(TransformerLayer, module)
            if layer.attention is not None and layer.attention_norm is not None:
                y, keys[index], values[index] = layer.attention.extend(
                    layer.attention_norm(x), positions, state.keys[index], state.values[index], state.lengths, bias
                )
                x = x + layer.dropout(y)
            x = layer.feed(x)
        normed: Tensor = self.norm(x)
        return normed, LmState(keys, values, state.lengths + (length if counts is None else counts))

    @property
    def residual_width(self) -> int:
        """Number of channels of the residual stream."""
        return self.config.d_model

    def unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups of the blocks; with factored layers, only their components.

        Raises:
            UserError: ``width`` is asked for and layers are factored.
        """
        if self.config.ranks:
            low_rank.refuse_width(width)
            return low_rank.component_groups(self)
        return lm_units.unit_groups(self.config, width)

    def cost_terms(self, frames: int, width: bool = False) -> list[CostTerm]:
        """Return the cost terms of the blocks and the last norm for a sentence of ``frames`` tokens."""
        if width and not self.config.ranks:
            return lm_units.cost_terms(self.config, frames, width)
        return low_rank.cost_terms(self, lm_units.unit_groups(self.config), lm_units.cost_terms(self.config, frames),
                                   self.linear_layers(frames))  # fmt: skip

    def linear_layers(self, frames: int) -> list[low_rank.LinearLayer]:
        """Return the linear layers that may be factored, for a sentence of ``frames`` tokens."""
        return lm_units.linear_layers(self.config, frames)

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the logits ``(tokens, V)`` for two random sentences."""
        return self(torch.randint(self.config.vocab_size, (2, 50), generator=generator)).flatten(0, 1)

    def shrink(self, structure: Structure) -> TransformerLM:
        """Return a new language model with the shapes that ``structure`` leaves."""
        if self.config.ranks:
            return self.with_ranks(low_rank.shrunk_ranks(self, structure))
        return TransformerLM(lm_units.shrink(self.config, structure))

    def with_ranks(self, ranks: Mapping[str, int]) -> TransformerLM:
        """Return a new language model with the layers of ``ranks`` factored; its weights are not set."""
        return TransformerLM(dataclasses.replace(self.config, ranks=dict(ranks)))
