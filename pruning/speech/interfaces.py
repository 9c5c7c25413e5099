"""What losses and decoding ask of a transducer: the interface, so that this floor imports no network."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Decoder(Protocol):
    """A stateless prediction network: it sees the last ``context_size`` tokens."""

    context_size: int
    vocab_size: int
    blank_id: int

    def __call__(self, tokens: Tensor, pad: bool) -> Tensor:
        """Tokens (N, U) int64 to (N, U, D) with ``pad``; without it exactly a context, to (N, 1, D)."""


def first_contexts(decoder: Decoder, *shape: int, device: torch.device) -> Tensor:
    """What a decoder sees before the first symbol, as in training: blank, and before it nothing (-1).

    Returns:
        ``(*shape, context_size)`` int64.
    """
    contexts = torch.full((*shape, decoder.context_size), -1, dtype=torch.int64, device=device)
    contexts[..., -1] = decoder.blank_id
    return contexts


class Joiner(Protocol):
    """Combines encoder and decoder outputs, broadcasting over leading dimensions, into logits (..., V)."""

    def __call__(self, encoder_out: Tensor, decoder_out: Tensor, project: bool = True) -> Tensor:
        """Logits (..., V); ``project=False`` takes inputs that went through the two projections already."""

    def encoder_proj(self, encoder_out: Tensor) -> Tensor:
        """(..., D) to (..., J)."""

    def decoder_proj(self, decoder_out: Tensor) -> Tensor:
        """(..., D_dec) to (..., J)."""


class SearchedNetwork(Protocol):
    """What a search over encoder outputs needs of a transducer, PyTorch's or an exported one."""

    @property
    def decoder(self) -> Decoder:
        """The prediction network."""

    @property
    def joiner(self) -> Joiner:
        """The joint network."""


class TransducerNetwork(SearchedNetwork, Protocol):
    """A transducer with the two simple heads of the pruned-range loss and a CTC head, less its encoder."""

    def simple_am(self, encoder_out: Tensor) -> Tensor:
        """(N, T, D) to unnormalised scores (N, T, V)."""

    def simple_lm(self, decoder_out: Tensor) -> Tensor:
        """(N, U + 1, D_dec) to unnormalised scores (N, U + 1, V)."""

    def ctc(self, encoder_out: Tensor) -> Tensor:
        """(N, T, D) to log-probabilities (N, T, V), blank 0."""


class LmMemory(Protocol):
    """What a language model remembers of several histories."""

    def select(self, index: Tensor) -> Any:
        """The histories ``index (K,)``, in that order."""

    def put(self, index: Tensor, other: Any) -> Any:
        """The same with the histories ``index (K,)`` replaced by those of ``other``."""


class LanguageModelNetwork(Protocol):
    """A language model over the tokens of a transducer."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens ``(N, U)`` to logits of what follows each prefix, ``(N, U, V)``."""

    def start(self, histories: int) -> Any:
        """The memory of so many empty histories."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One more token ``(N,)`` of each history: log-probabilities of what follows ``(N, V)``, and the memory."""
