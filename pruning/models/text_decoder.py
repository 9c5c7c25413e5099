"""Decoder of Whisper and of Moonshine: a Transformer over tokens that reads the encoder's output by cross-attention.

All dimensions are set per layer.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Protocol, cast

import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.models.attention_stack import EncoderLayer, attention_module, initialise, norm_for, rotation_of
from pruning.models.audio_encoder import is_padded, padding_bias
from pruning.models.causal_attention import appended
from pruning.models.encoder_decoder_config import TextDecoderConfig
from pruning.models.layers import layer_norm
from pruning.models.transformer_lm import LmState


class Encoded(Protocol):
    """What a decoder needs of an encoder's output."""

    @property
    def output(self) -> Tensor:
        """Outputs ``(N, T, D)``."""

    @property
    def lengths(self) -> Tensor:
        """Number of valid frames ``(N,)``."""


class Memory(NamedTuple):
    """What cross-attention reads of the outputs of the encoder for N utterances.

    ``keys`` and ``values`` map the index of each layer with cross-attention to ``(N, H, T, D)``; ``bias (N, 1, 1, T)``
    is added to the scores and leaves out padding; it is 0, and need not be added, if nothing is ``padded``.
    """

    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    bias: Tensor
    padded: bool = True

    def contiguous(self) -> Memory:
        """Return it with the keys and values of each head in one piece, which single positions read faster."""
        keys, values = ({layer: kept.contiguous() for layer, kept in part.items()} for part in (self.keys, self.values))
        return self._replace(keys=keys, values=values)

    def select(self, index: Tensor) -> Memory:
        """Return the memory of the utterances ``index (K,)``, in that order."""
        keys, values = ({layer: kept[index] for layer, kept in part.items()} for part in (self.keys, self.values))
        return Memory(keys, values, self.bias[index], self.padded)


class DecoderState(NamedTuple):
    """State of a decoder for N histories, which may have different lengths, each with its utterance."""

    history: LmState
    memory: Memory

    def select(self, index: Tensor) -> DecoderState:
        """Return the state of the histories ``index (K,)``, in that order."""
        return DecoderState(self.history.select(index), self.memory.select(index))

    def reordered(self, index: Tensor) -> DecoderState:
        """Return the state of the histories ``index (N,)``, each of the same utterance as the one in its place."""
        return DecoderState(self.history.select(index), self.memory)


class DecoderLayer(EncoderLayer):
    """Self-attention, cross-attention and feed-forward module, each with its pre-norm and its residual."""

    def __init__(self, config: TextDecoderConfig, index: int) -> None:
        super().__init__(config, index)
        heads = config.cross_heads[index]
        self.cross_attention = attention_module(config, heads, config.memory_dim)
        self.cross_attention_norm = norm_for(config, heads)

    def forward(
        self,
        x: Tensor,
        bias: Optional[Tensor],
        turned: Optional[Tensor],
        memory: Optional[Memory] = None,
        index: int = 0,
    ) -> Tensor:
        """Apply layer ``index``, ``(N, U, D) -> (N, U, D)``; for ``bias`` and ``turned`` see `EncoderLayer.attend`."""
        x = self.attend(x, bias, turned)
        return self.feed(x if memory is None else self.read(x, memory, index))

    def read(self, x: Tensor, memory: Memory, index: int) -> Tensor:
        """Apply cross-attention of layer ``index`` with norm and residual, ``(N, U, D) -> (N, U, D)``."""
        if self.cross_attention is None or self.cross_attention_norm is None:
            return x
        keys, values, bias = memory.keys[index], memory.values[index], memory.bias if memory.padded else None
        return x + self.dropout(self.cross_attention(self.cross_attention_norm(x), keys, values, bias))

    def step(self, x: Tensor, turned: Optional[Tensor], state: LmState, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Apply self-attention of layer ``index`` from one new position of each history, with norm and residual.

        Args:
            x: input at the new positions, ``(N, 1, D)``.
            turned: see `pruning.models.multi_head_attention.MultiHeadAttention.forward`.
            state: the histories.
            index: number of this layer.

        Returns:
            The output ``(N, 1, D)``, and keys and values that include the new positions.
        """
        assert self.attention is not None and self.attention_norm is not None
        normed = self.attention_norm(x)
        key, value = self.attention.keys_values(normed, turned)
        keys, values, bias = appended(state.keys[index], state.values[index], key, value, state.lengths)
        return x + self.dropout(self.attention(normed, keys, values, bias, turned)), keys, values


class TextDecoder(nn.Module):
    """Embedding, layers, a norm, and an output layer for the next token, with arbitrary dimensions per layer."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.positions, config.d_model) if config.positions else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_layers))
        self.norm = layer_norm(config.d_model, config.common.norm_bias)
        self.output = None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        initialise(self)

    @property
    def output_weight(self) -> Tensor:
        """Weight of the output layer, ``(V, D)``, which is that of the embedding if they are tied."""
        return self.embedding.weight if self.output is None else self.output.weight

    @property
    def room(self) -> int:
        """Largest number of tokens; 0: any number."""
        return self.config.positions

    def memory(self, encoded: Encoded) -> Memory:
        """Return keys and values of the outputs of the encoder ``(N, T, memory_dim)``, which every step reads."""
        x = encoded.output
        keys, values = {}, {}
        for index, module in enumerate(self.layers):
            attention = cast(DecoderLayer, module).cross_attention
            if attention is not None:
                keys[index], values[index] = attention.keys_values(x)
        bias = padding_bias(encoded.lengths, x.shape[1], x.dtype)
        return Memory(keys, values, bias, is_padded(encoded.lengths, x.shape[1]))

    def states(self, tokens: Tensor, memory: Memory) -> list[Tensor]:
        """Return the input of each layer and the input of the output layer, ``num_layers + 1`` tensors ``(N, U, D)``.

        Args:
            tokens: ``(N, U)`` int64, beginning with the start of a transcript.
            memory: output of `memory` for the N utterances.

        Raises:
            UserError: there are more tokens than positions.
        """
        self._check_room(tokens.shape[1])
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embedded(tokens, places)
        future = places[None, :] > places[:, None]
        bias = torch.zeros_like(future, dtype=x.dtype).masked_fill(future, torch.finfo(x.dtype).min)  # (U, U)
        turned = rotation_of(self.config, places)
        states = [x]
        for index, module in enumerate(self.layers):
            states.append(module(states[-1], bias, turned, memory, index))
        states[-1] = self.norm(states[-1])
        return states

    def forward(self, tokens: Tensor, memory: Memory) -> Tensor:
        """Return the logits ``(N, U, V)`` of the next token after each prefix; for the arguments see `states`."""
        return self.logits(self.states(tokens, memory)[-1])

    def logits(self, x: Tensor) -> Tensor:
        """Apply the output layer, ``(..., D) -> (..., V)``."""
        return nn.functional.linear(x, self.output_weight)

    def start(self, memory: Memory) -> DecoderState:
        """Return the state of an empty history for each utterance of ``memory``."""
        history = LmState.empty(memory.bias, memory.bias.shape[0], self.config.heads, self.config.head_dim)
        return DecoderState(history, memory.contiguous())

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Append one token to each history.

        Args:
            tokens: next token of each history, ``(N,)`` int64.
            state: state of the N histories; is not modified.

        Returns:
            Log-probabilities of the token that follows, ``(N, V)`` float32, and the new state.

        Raises:
            UserError: a history has no position left.
        """
        history = state.history
        self._check_room(int(history.lengths.max()) + 1)
        x = self.embedded(tokens[:, None], history.lengths[:, None])
        turned = rotation_of(self.config, history.lengths)
        turned = None if turned is None else turned[:, :, None, None]  # (2, N, 1, 1, R)
        keys, values = {}, {}
        for index, module in enumerate(self.layers):
            layer = cast(DecoderLayer, module)
            if index in history.keys:
                x, keys[index], values[index] = layer.step(x, turned, history, index)
            x = layer.feed(layer.read(x, state.memory, index))
        logits = self.logits(self.norm(x)).squeeze(1)
        history = LmState(keys, values, history.lengths + 1)
        return logits.float().log_softmax(dim=1), DecoderState(history, state.memory)

    def embedded(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Return the first layer's input ``(N, U, D)`` for ``tokens (N, U)`` at ``places``, ``(U,)`` or ``(N, 1)``."""
        x: Tensor = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions(places)
        return self.dropout(x)

    def _check_room(self, tokens: int) -> None:
        most = self.room
        if 0 < most < tokens:
            raise UserError(f"a transcript of more than {most} tokens is too long for the decoder",
                            "cut the recordings into shorter ones")  # fmt: skip
