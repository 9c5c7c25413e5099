"""Language models at work in the recogniser: in beam search, and over hypotheses that are there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from pruning.speech.interfaces import LanguageModelNetwork, TransducerNetwork


class Memory(NamedTuple):
    """Of R histories.

    Attributes:
        log_probs: of what follows each, ``(R, V)``.
        state: the language model's own.
    """

    log_probs: Tensor
    state: Any


@dataclass(frozen=True)
class Fusion:
    """Shallow fusion: every symbol scores ``log P + lm_scale log P_LM - ilm_scale log P_ILM``.

    The internal language model is what the transducer says of the next symbol when it hears nothing (arXiv 2011.01991):
    the joiner with an encoder output of 0, blank left out.

    Attributes:
        lm: over the tokens of the transducer, in evaluation mode.
        boundary: the token that begins and ends its sentences.
        lm_scale: weight of the language model.
        ilm_scale: weight at which the internal one is taken off; 0: it stays.
    """

    lm: LanguageModelNetwork
    boundary: int
    lm_scale: float
    ilm_scale: float = 0.0

    def start(self, rows: int) -> Memory:
        """Histories that have only begun."""
        state = self.lm.start(1)
        device = state.lengths.device
        log_probs, state = self.lm.step(torch.full((1,), self.boundary, device=device), state)
        index = torch.zeros(rows, dtype=torch.long, device=device)
        return Memory(log_probs[index], state.select(index))

    def bonus(self, memory: Memory, internal: Optional[Tensor], blank: int) -> Tensor:
        """What each symbol scores more, ``(R, V)``; blank nothing.

        Args:
            memory: of the histories.
            internal: the joiner's logits with an encoder output of 0, ``(..., V)`` of R rows; None: not taken off.
            blank: its id.
        """
        bonus = self.lm_scale * memory.log_probs
        if internal is not None:
            logits = internal.flatten(0, -2)
            only = logits.index_fill(1, torch.tensor([blank], device=logits.device), float("-inf"))
            bonus = bonus - self.ilm_scale * only.log_softmax(dim=1)
        return bonus.index_fill(1, torch.tensor([blank], device=bonus.device), 0.0)

    def follow(self, memory: Memory, parent: Tensor, symbol: Tensor, emits: Tensor) -> Memory:
        """The memory after one frame.

        Args:
            memory: before it.
            parent: ``(R,)`` the row that each row continues.
            symbol: ``(R,)`` what it emits, where ``emits (R,)`` is true.
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
        """What each history scores more for ending, ``(R,)``."""
        return self.lm_scale * memory.log_probs[:, self.boundary]


@torch.no_grad()
def lm_scores(
    lm: LanguageModelNetwork, sequences: Sequence[Sequence[int]], boundary: int, max_tokens: int = 16384
) -> list[float]:
    """Log-probability of whole sequences, their end included, by a language model in evaluation mode.

    Args:
        lm: over the same tokens.
        sequences: token ids.
        boundary: the token that begins and ends sentences.
        max_tokens: of a batch, padding included.
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
        chosen = log_probs.gather(2, rows[:, 1:, None]).squeeze(2)  # padded with what ends: cut off next
        inside = torch.arange(longest)[None, :] < lengths[:, None]
        for index, score in zip(batch, chosen.masked_fill(~inside, 0.0).double().sum(dim=1).tolist()):
            found[index] = score
    return found


@torch.no_grad()
def internal_scores(model: TransducerNetwork, sequences: Sequence[Sequence[int]], encoder_out: Tensor) -> list[float]:
    """Log-probability of whole sequences, without their end, by a transducer's internal language model (see `Fusion`).

    Args:
        model: decoder and joiner.
        sequences: token ids.
        encoder_out: any outputs of its encoder, ``(N, T, D)``: their dimension and device count.
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
