"""Rescore the hypotheses of our searches with a language model over the tokens of the transducer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.speech.decoding.beam import Hypothesis
from pruning.speech.decoding.fusion import internal_scores, lm_scores
from pruning.speech.interfaces import LanguageModelNetwork, TransducerNetwork


@dataclass(frozen=True)
class Rescoring:
    """Choose hypotheses by ``score + lm_scale log P_LM - ilm_scale log P_ILM``.

    Attributes:
        lm: language model over the tokens of the transducer, in evaluation mode.
        boundary: token that begins and ends its sentences.
        lm_scale: weight of the language model.
        ilm_scale: weight of the transducer's internal language model, which is subtracted; 0: nothing is subtracted.
        length_norm: divide the sum by the number of tokens, initial context included, as in beam search.
    """

    lm: LanguageModelNetwork
    boundary: int
    lm_scale: float
    ilm_scale: float = 0.0
    length_norm: bool = False

    def best(
        self, model: TransducerNetwork, found: Sequence[Sequence[Hypothesis]], encoder_out: Tensor
    ) -> list[list[int]]:
        """Return the tokens of each utterance's best hypothesis; empty for an utterance without hypotheses.

        Args:
            model: transducer that produced the hypotheses.
            found: hypotheses of each utterance.
            encoder_out: encoder outputs, ``(N, T, D)``.
        """
        every = [hypothesis for of_utterance in found for hypothesis in of_utterance]
        sequences = [hypothesis.tokens for hypothesis in every]
        scores = torch.tensor([hypothesis.score for hypothesis in every], dtype=torch.float64)
        if every:
            scores += self.lm_scale * torch.tensor(lm_scores(self.lm, sequences, self.boundary), dtype=torch.float64)
        if every and self.ilm_scale:
            scores -= self.ilm_scale * torch.tensor(internal_scores(model, sequences, encoder_out), dtype=torch.float64)
        if self.length_norm:
            scores /= torch.tensor([len(tokens) + model.decoder.context_size for tokens in sequences])
        chosen, start = [], 0
        for of_utterance in found:
            part: Tensor = scores[start : start + len(of_utterance)]
            chosen.append(of_utterance[int(part.argmax())].tokens if len(of_utterance) else [])
            start += len(of_utterance)
        return chosen
