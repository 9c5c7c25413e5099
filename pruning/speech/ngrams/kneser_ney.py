"""Estimate n-gram models by interpolated modified Kneser-Ney smoothing.

The smoothing follows Chen and Goodman (An Empirical Study of Smoothing Techniques for Language Modeling, TR-10-98,
Harvard University, 1998). Details that they leave open follow Heafield, Pouzyrevsky, Clark and Koehn (Scalable Modified
Kneser-Ney Language Model Estimation, ACL 2013), whose lmplz gives the same models.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from pruning.errors import UserError
from pruning.speech.ngrams import ngram
from pruning.speech.ngrams.ngram import Level, NgramModel

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Discounts of n-grams seen once, twice and more often if the text is too small to estimate them; as in lmplz."""

logger = logging.getLogger(__name__)


def estimate(
    texts: Sequence[str], order: int, vocabulary: Optional[Iterable[str]] = None, minimum_count: int = 1
) -> NgramModel:
    """Estimate a model of sentences.

    Words outside the vocabulary are counted as ``<unk>``, whose probability is that of all of them together, so
    perplexities over different vocabularies are not comparable.

    Args:
        texts: sentences of words separated by white space; empty ones are skipped.
        order: length of the longest n-grams.
        vocabulary: words of the model, whether or not they occur in the text; None: the words of the text.
        minimum_count: minimum number of times a word occurs in the text to be in the default vocabulary.

    Raises:
        UserError: the order or the vocabulary is invalid, a sentence contains ``<s>`` or ``</s>``, or no sentence is
            long enough for an n-gram of the highest order.
    """
    if order < 1:
        raise UserError(f"the order of n-grams must be at least 1, got {order}", "give another order")
    words = (*ngram.SPECIAL, *_vocabulary(texts, vocabulary, minimum_count))
    tokens = np.fromiter(_ids(texts, words), dtype=np.int64)
    if not len(tokens):
        raise UserError("the text contains no words", "give text with one sentence per line")
    found = _count(tokens, len(words), order)
    probabilities = [np.array([1.0 / (len(words) - 1)])]  # of a word without history; <s> is never predicted
    left = []
    for length, counts in enumerate(found, start=1):
        probability, after = _smooth(counts, _discounts(counts.counts, length), len(words), probabilities[-1])
        probabilities.append(probability)
        left.append(after)
    probabilities[1][ngram.START_ID] = 10.0**ngram.START_LOG_PROBABILITY
    left.append(np.ones(len(found[-1].keys)))
    levels = [
        Level(counts.keys, np.log(probability), np.log(weight))
        for counts, probability, weight in zip(found, probabilities[1:], left[1:])
    ]
    return NgramModel(words, levels)


def _vocabulary(texts: Sequence[str], vocabulary: Optional[Iterable[str]], minimum_count: int) -> list[str]:
    """Return the sorted words of a model, without the special ones."""
    if vocabulary is None:
        found = Counter(word for text in texts for word in text.split())
        known = {word for word, count in found.items() if count >= minimum_count}
    else:
        known = set(vocabulary)
    known.difference_update(ngram.SPECIAL, [ngram.UNKNOWN_OF_OTHERS])
    for word in known:
        if word.split() != [word]:
            raise UserError(f"{word!r} in the vocabulary is not one word", "remove the white space")
    if not known:
        raise UserError("the vocabulary is empty", "check the text, the vocabulary and the minimum count")
    return sorted(known)


def _ids(texts: Sequence[str], words: Sequence[str]) -> Iterator[int]:
    """Yield all sentences as ids, one after another, each from ``<s>`` to ``</s>``."""
    ids = {word: index for index, word in enumerate(words)}
    for number, text in enumerate(texts, start=1):
        sentence = text.split()
        if ngram.START in sentence or ngram.END in sentence:
            remedy = "remove the marks; each line is one sentence"
            raise UserError(f"line {number} of the text contains {ngram.START} or {ngram.END}", remedy)
        if sentence:
            yield ngram.START_ID
            for word in sentence:
                yield ids.get(word, ngram.UNKNOWN_ID)
            yield ngram.END_ID


@dataclass
class _Counts:
    """The K n-grams of one length.

    Attributes:
        keys: (K,) int64, as in `Level`.
        suffixes: (K,) int64, rows of the last n - 1 words in the level below.
        counts: (K,) int64: number of occurrences for n-grams of the highest order and those that start with ``<s>``;
            for others, number of distinct words before them (Chen and Goodman, section 2.7; "adjusted" in Heafield et
            al., section 3.2). 0 for words that occur only in the vocabulary, and for ``<s>``.
    """

    keys: np.ndarray
    suffixes: np.ndarray
    counts: np.ndarray


def _count(tokens: np.ndarray, size: int, order: int) -> list[_Counts]:
    """Count the n-grams of lengths 1 to ``order`` in ``tokens`` (T,) with ``size`` distinct words."""
    begins = np.arange(len(tokens))  # starts of the n-grams that lie within a sentence
    rows = tokens  # (T,) row of the n-gram that begins at each token
    started = np.arange(size) == ngram.START_ID  # which n-grams begin with <s>
    levels = [_Counts(np.arange(size), np.zeros(size, np.int64), np.bincount(tokens, minlength=size))]
    for length in range(2, order + 1):
        begins = begins[tokens[begins + length - 2] != ngram.END_ID]
        if not len(begins):
            remedy = f"give an order of at most {length - 1}, or more text"
            raise UserError(f"no sentence of the text is long enough for n-grams of order {order}", remedy)
        keys, first, inverse, occurrences = np.unique(
            rows[begins] * size + tokens[begins + length - 1],
            return_index=True, return_inverse=True, return_counts=True,
        )  # fmt: skip
        suffixes = rows[begins[first] + 1]
        below = levels[-1]
        below.counts = np.where(started, below.counts, np.bincount(suffixes, minlength=len(below.keys)))
        levels.append(_Counts(keys, suffixes, occurrences))
        started = started[keys // size]
        rows = np.full(len(tokens), -1)
        rows[begins] = inverse
    levels[0].counts[ngram.START_ID] = 0
    return levels


def _discounts(counts: np.ndarray, length: int) -> tuple[float, float, float]:
    """Return the discounts of counts 1, 2 and more, by Chen and Goodman's equation 26, or the fall-back.

    Args:
        counts: (K,) counts of the n-grams of one length.
        length: length of the n-grams, for the log.
    """
    once, twice, thrice, four_times = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()
    if once and twice and thrice:
        y = once / (once + 2 * twice)
        discounts = (1 - 2 * y * twice / once, 2 - 3 * y * thrice / twice, 3 - 4 * y * four_times / thrice)
        if min(discounts) > 0:
            return discounts
    logger.info(
        "%d-grams: no discounts from the %d, %d, %d and %d n-grams counted 1, 2, 3 and 4 times; using the fall-back %s",
        length, once, twice, thrice, four_times, FALLBACK_DISCOUNTS,
    )  # fmt: skip
    return FALLBACK_DISCOUNTS


def _smooth(
    counts: _Counts, discounts: tuple[float, float, float], size: int, below: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of n-grams, interpolated with those of their last n - 1 words (Heafield et al., 3.3).

    Args:
        counts: counts of the K n-grams.
        discounts: discounts of counts 1, 2 and more.
        size: number of words.
        below: (J,) probabilities of the level below.

    Returns:
        The probabilities (K,), and the weight (gamma) that each history (J,) leaves to the level below; 1 if nothing
        follows the history.
    """
    histories = counts.keys // size
    taken = np.array((0.0, *discounts))[np.minimum(counts.counts, 3)]
    totals = np.bincount(histories, counts.counts, minlength=len(below))
    left = np.ones(len(below))
    np.divide(np.bincount(histories, taken, minlength=len(below)), totals, out=left, where=totals > 0)
    own = (counts.counts - taken) / totals[histories]
    return own + left[histories] * below[counts.suffixes], left
