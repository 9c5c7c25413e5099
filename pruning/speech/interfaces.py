"""Interfaces through which losses and decoding use networks, so that `speech` imports no network."""

from __future__ import annotations

from typing import Any, Optional, Protocol

import torch
from torch import Tensor


class Decoder(Protocol):
    """A stateless prediction network: its input is the last ``context_size`` tokens."""

    context_size: int
    vocab_size: int
    blank_id: int

    def __call__(self, tokens: Tensor, pad: bool) -> Tensor:
        """Map tokens (N, U) int64 to (N, U, D) with ``pad``; without it, one context per row to (N, 1, D)."""


def first_contexts(decoder: Decoder, *shape: int, device: torch.device) -> Tensor:
    """Return the decoder's input before the first symbol, as in training: blank, preceded by -1 (no token).

    Returns:
        ``(*shape, context_size)`` int64.
    """
    contexts = torch.full((*shape, decoder.context_size), -1, dtype=torch.int64, device=device)
    contexts[..., -1] = decoder.blank_id
    return contexts


class Joiner(Protocol):
    """Combines encoder and decoder outputs, broadcasting over leading dimensions, into logits (..., V)."""

    def __call__(self, encoder_out: Tensor, decoder_out: Tensor, project: bool = True) -> Tensor:
        """Return logits (..., V); with ``project=False`` the inputs are already projected."""

    def encoder_proj(self, encoder_out: Tensor) -> Tensor:
        """Project (..., D) to (..., J)."""

    def decoder_proj(self, decoder_out: Tensor) -> Tensor:
        """Project (..., D_dec) to (..., J)."""


class SearchedNetwork(Protocol):
    """The parts of a transducer that a search over encoder outputs needs; PyTorch's or exported ones."""

    @property
    def decoder(self) -> Decoder:
        """The prediction network."""

    @property
    def joiner(self) -> Joiner:
        """The joint network."""


class TransducerNetwork(SearchedNetwork, Protocol):
    """A transducer without its encoder, with the two simple heads of the pruned-range loss and a CTC head."""

    def simple_am(self, encoder_out: Tensor) -> Tensor:
        """Map (N, T, D) to unnormalised scores (N, T, V)."""

    def simple_lm(self, decoder_out: Tensor) -> Tensor:
        """Map (N, U + 1, D_dec) to unnormalised scores (N, U + 1, V)."""

    def ctc(self, encoder_out: Tensor) -> Tensor:
        """Map (N, T, D) to log-probabilities (N, T, V), blank 0."""


class OwnDecoder(Protocol):
    """A decoder that writes text and reads the encoder's output by cross-attention, with cached keys and values."""

    @property
    def room(self) -> int:
        """Largest number of tokens that it takes; 0: any number."""

    def memory(self, encoded: Any) -> Any:
        """Return what every step reads of N encoded utterances: ``output (N, T, D)`` and ``lengths (N,)``."""

    def start(self, memory: Any) -> Any:
        """Return the state of an empty history for each utterance of ``memory``.

        It has ``select(index (K,))``, histories with their utterances, and ``reordered(index (N,))``, each of the same
        utterance as the one in its place.
        """

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Append one token ``(N,)`` to each history; return log-probabilities of the next ``(N, V)`` and the state."""


class DecoderNetwork(Protocol):
    """A network with an `OwnDecoder`."""

    @property
    def decoder(self) -> OwnDecoder:
        """The decoder."""


class EncoderDecoderNetwork(DecoderNetwork, Protocol):
    """A network with an encoder and an `OwnDecoder`."""

    @property
    def encoder(self) -> Any:
        """Maps inputs ``(N, ...)`` and lengths ``(N,)`` to ``output (N, T, D)`` and ``lengths (N,)``."""


class LmMemory(Protocol):
    """The state of a language model for several histories."""

    def select(self, index: Tensor) -> Any:
        """Return the state of the histories ``index (K,)``, in that order."""

    def put(self, index: Tensor, other: Any) -> Any:
        """Return the state with the histories ``index (K,)`` replaced by those of ``other``."""


class LanguageModelNetwork(Protocol):
    """A language model over the tokens of a transducer."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(N, U)`` to logits of the token that follows each prefix, ``(N, U, V)``."""

    def start(self, histories: int) -> Any:
        """Return the state of ``histories`` empty histories."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Append one token ``(N,)`` to each history; return log-probabilities of the next ``(N, V)`` and the state."""


class ExtendedNetwork(Protocol):
    """A language model that takes several tokens at once, also trees of them."""

    @property
    def output_weight(self) -> Tensor:
        """Weight of the output layer, ``(V, D)``."""

    def start(self, histories: int) -> Any:
        """Return the state of ``histories`` empty histories."""

    def extend(self, tokens: Tensor, state: Any, sees: Optional[Tensor] = None) -> tuple[Tensor, Any]:
        """Append tokens ``(N, U)`` to each history, of which token u attends to v if ``sees (N, U, U)``.

        Returns:
            The input of the output layer, ``(N, U, D)``, and the state.
        """
