"""Language models in decoding: shallow fusion in beam search, and scores of finished hypotheses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from pruning.speech.interfaces import LanguageModelNetwork, TransducerNetwork


class Memory(NamedTuple):
    """State of a language model for R histories.

    Attributes:
        log_probs: log-probabilities of the token that follows each history, ``(R, V)``.
        state: internal state of the language model.
    """

    log_probs: Tensor
    state: Any


@dataclass(frozen=True)
class Fusion:
    """Shallow fusion: every symbol scores ``log P + lm_scale log P_LM - ilm_scale log P_ILM``.

    The internal language model is the transducer's prediction of the next symbol without acoustic input (arXiv
    2011.01991): the joiner with an encoder output of 0, blank excluded.

    Attributes:
        lm: language model over the tokens of the transducer, in evaluation mode.
        boundary: token that begins and ends its sentences.
        lm_scale: weight of the language model.
        ilm_scale: weight of the internal language model, which is subtracted; 0: nothing is subtracted.
    """

    lm: LanguageModelNetwork
    boundary: int
    lm_scale: float
    ilm_scale: float = 0.0

    def start(self, rows: int) -> Memory:
        """Return the state of ``rows`` empty histories."""
        state = self.lm.start(1)
        device = state.lengths.device
        log_probs, state = self.lm.step(torch.full((1,), self.boundary, device=device), state)
        index = torch.zeros(rows, dtype=torch.long, device=device)
        return Memory(log_probs[index], state.select(index))

    def bonus(self, memory: Memory, internal: Optional[Tensor], blank: int) -> Tensor:
        """Return the score added to each symbol, ``(R, V)``; 0 for blank.

        Args:
            memory: state of the histories.
            internal: the joiner's logits with an encoder output of 0, ``(..., V)`` with R rows; None: not subtracted.
            blank: id of blank.
        """
        bonus = self.lm_scale * memory.log_probs
        if internal is not None:
            logits = internal.flatten(0, -2)
            only = logits.index_fill(1, torch.tensor([blank], device=logits.device), float("-inf"))
            bonus = bonus - self.ilm_scale * only.log_softmax(dim=1)
        return bonus.index_fill(1, torch.tensor([blank], device=bonus.device), 0.0)

    def follow(self, memory: Memory, parent: Tensor, symbol: Tensor, emits: Tensor) -> Memory:
        """Return the state after one frame.

        Args:
            memory: state before the frame.
            parent: ``(R,)`` row that each row continues.
            symbol: ``(R,)`` emitted symbol, valid if ``emits (R,)`` is true.
            emits: ``(R,)`` whether the row emits a symbol.
        """
        new = torch.nonzero(emits).flatten()
        if not len(new) and bool((parent == torch.arange(len(parent), device=parent.device)).all()):
            return memory
        log_probs, state = memory.log_probs[parent], memory.state.select(parent)
        if len(new):
            found, changed = self.lm.step(symbol[new], state.select(new))
            log_probs, state = log_probs.index_copy(0, new, found), state.put(new, changed)
        return Memory(log_probs, state)

    def end(self, memory: Memory) -> Tensor:
        """Return the score added to each history for ending, ``(R,)``."""
        return self.lm_scale * memory.log_probs[:, self.boundary]


@torch.no_grad()
def lm_scores(
    lm: LanguageModelNetwork, sequences: Sequence[Sequence[int]], boundary: int, max_tokens: int = 16384
) -> list[float]:
    """Return the log-probability of whole sequences, end included, under a language model in evaluation mode.

    Args:
        lm: language model over the same tokens.
        sequences: token ids of each sequence.
        boundary: token that begins and ends sentences.
        max_tokens: maximum number of tokens in a batch, padding included.
    """
    found, device = [0.0] * len(sequences), lm.start(1).lengths.device
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    while order:
        longest = len(sequences[order[-1]]) + 1
        batch, order = order[-max(1, max_tokens // longest) :], order[: -max(1, max_tokens // longest)]
        rows = torch.full((len(batch), longest + 1), boundary)  # (N, U + 1)
        for row, index in zip(rows, batch):
            row[1 : len(sequences[index]) + 1] = torch.tensor(sequences[index], dtype=torch.long)
        lengths = torch.tensor([len(sequences[index]) + 1 for index in batch])
        log_probs = lm(rows[:, :-1].to(device)).float().log_softmax(dim=2).cpu()
        chosen = log_probs.gather(2, rows[:, 1:, None]).squeeze(2)  # padding is the boundary token; it is masked below
        inside = torch.arange(longest)[None, :] < lengths[:, None]
        for index, score in zip(batch, chosen.masked_fill(~inside, 0.0).double().sum(dim=1).tolist()):
            found[index] = score
    return found


@torch.no_grad()
def internal_scores(model: TransducerNetwork, sequences: Sequence[Sequence[int]], encoder_out: Tensor) -> list[float]:
    """Return the log-probability of whole sequences, without end, under a transducer's internal LM (see `Fusion`).

    Args:
        model: network with decoder and joiner.
        sequences: token ids of each sequence.
        encoder_out: any encoder outputs, ``(N, T, D)``; only their dimension and device are used.
    """
    decoder, joiner = model.decoder, model.joiner
    silent = joiner.encoder_proj(encoder_out.new_zeros(1, 1, encoder_out.size(2)))
    found = []
    for sequence in sequences:
        tokens = torch.tensor([[decoder.blank_id, *sequence]], device=encoder_out.device)
        logits = joiner(silent, joiner.decoder_proj(decoder(tokens, pad=True)), project=False)[0].float()  # (U + 1, V)
        logits[:, decoder.blank_id] = float("-inf")
        chosen = logits[:-1].log_softmax(dim=1).gather(1, tokens[0, 1:, None])
        found.append(float(chosen.double().sum()))
    return found
