"""Perplexity of text per token and per word, under any language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.speech.text.sentences import SentenceBatch
from pruning.speech.text.table import TextTable


class WordScores(NamedTuple):
    """Scores of one sentence.

    Attributes:
        place: index of the sentence in its file, from 0.
        nll: negative log-likelihood of each word and, if it is scored, of the sentence end, in nats, ``(words + 1,)``.
        tokens: number of scored tokens in the sentence.
    """

    place: int
    nll: np.ndarray
    tokens: int


class Perplexity(NamedTuple):
    """Perplexity of a text.

    Attributes:
        sentences: number of sentences.
        words: number of counted words, scored sentence ends included.
        left_out: number of words outside the vocabulary, which are not counted.
        tokens: number of all scored tokens.
        word_nll: negative log-likelihood of the counted words, summed, in nats.
        token_nll: negative log-likelihood of all tokens, summed, in nats.
        sums: ``(sentences, 4)``: of each sentence ``word_nll``, number of counted words, ``token_nll`` and tokens.
    """

    sentences: int
    words: int
    left_out: int
    tokens: int
    word_nll: float
    token_nll: float
    sums: np.ndarray

    @property
    def per_word(self) -> float:
        """Perplexity of the counted words and scored sentence ends."""
        return math.exp(self.word_nll / max(1, self.words))

    @property
    def per_token(self) -> float:
        """Perplexity of all scored tokens."""
        return math.exp(self.token_nll / max(1, self.tokens))


def variant(form: str, context: int = 0, block: int = 0, ends: bool = False) -> str:
    """Return what the settings of a measurement add to the name of its set; empty for the default settings.

    Args:
        form: how lines are written, see `pruning.speech.text.written_form`.
        context, block, ends: see `pruning.speech.scoring.running_text.Setting`.
    """
    form = "" if form == "as-is" else f"-{form}"
    running = f"{f'-context{context}' if context else ''}{f'-block{block}' if block else ''}"
    return f"{form}{running}{'-ends' if ends else ''}"


@torch.no_grad()
def token_nll(model: Callable[[Tensor], Tensor], batch: SentenceBatch) -> Tensor:
    """Return the negative log-likelihood of every target of a batch, ``(N, U)`` float32; 0 on padding.

    Args:
        model: tokens ``(N, U)`` -> logits ``(N, U, V)``.
        batch: batch on the device of the model.
    """
    logits = model(batch.inputs).float()
    targets = batch.targets.clamp(min=0)
    chosen = logits.gather(2, targets[:, :, None]).squeeze(2) - logits.logsumexp(dim=2)
    return -chosen.masked_fill(~batch.mask, 0.0)


def word_scores(
    model: Callable[[Tensor], Tensor], batches: Iterable[SentenceBatch], tokenizer: TextTable
) -> list[WordScores]:
    """Score sentences with a language model over word pieces, in the order of their file.

    Args:
        model: tokens ``(N, U)`` -> logits ``(N, U, V)``, in evaluation mode.
        batches: batches of whole sentences.
        tokenizer: tokeniser of the model.
    """
    begins = tokenizer.begins()
    found = []
    for batch in batches:
        nll, targets = token_nll(model, batch).cpu().numpy(), batch.targets.cpu().numpy()
        for row, tokens, place in zip(nll, targets, batch.places.tolist()):
            length = int((tokens >= 0).sum())
            word = np.cumsum(begins[tokens[: length - 1]]) - 1
            of_words = np.bincount(np.maximum(word, 0), weights=row[: length - 1])
            found.append(WordScores(place, np.append(of_words, row[length - 1]), length))
    return sorted(found, key=lambda scores: scores.place)


def perplexity(
    scores: Sequence[WordScores],
    sentences: Sequence[str],
    vocabulary: Optional[Collection[str]] = None,
    ends: bool = True,
) -> Perplexity:
    """Sum up scores.

    Words outside the vocabulary are left out whatever their scores, so that models over words and models over word
    pieces can be compared.

    Args:
        scores: scores of the sentences, in their order.
        sentences: the text, without empty lines.
        vocabulary: words that are counted; None: all.
        ends: whether sentence ends are scored.

    Raises:
        ValueError: scores and sentences do not match.
        UserError: a counted word has zero probability, so the perplexity would be infinite.
    """
    sums = np.zeros((len(sentences), 4))
    left_out = 0
    for index, (of_sentence, sentence) in enumerate(zip(scores, sentences)):
        words = sentence.split()
        if len(of_sentence.nll) != len(words) + ends:
            raise ValueError(f"sentence {index + 1} has {len(words)} words and {len(of_sentence.nll) - ends} scores")
        counted = np.array([*(vocabulary is None or word in vocabulary for word in words), *[True] * ends])
        impossible = np.flatnonzero(counted & ~np.isfinite(of_sentence.nll))
        if len(impossible):
            word = [*words, "the end"][int(impossible[0])]
            what = f"{word!r} in sentence {index + 1} has zero probability, so the perplexity is infinite"
            raise UserError(what, "leave such words out with --vocabulary, or use a model with a probability for <unk>")
        nats = of_sentence.nll
        sums[index] = nats[counted].sum(), counted.sum(), nats.sum(), of_sentence.tokens
        left_out += int((~counted).sum())
    if len(scores) != len(sentences):
        raise ValueError(f"{len(scores)} scores for {len(sentences)} sentences")
    word_nll, counted_words, token_nll, tokens = sums.sum(axis=0).tolist()
    return Perplexity(len(sentences), int(counted_words), left_out, int(tokens), word_nll, token_nll, sums)
