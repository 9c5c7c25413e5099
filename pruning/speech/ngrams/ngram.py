"""Back-off n-gram models of words: probability of a sentence, as a whole or word by word.

``kneser_ney`` estimates models from text, ``arpa`` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UNKNOWN, START, END = "<unk>", "<s>", "</s>"
SPECIAL = (UNKNOWN, START, END)
"""Words that every model has but no text contains, in the order of their ids 0, 1 and 2."""
UNKNOWN_ID, START_ID, END_ID = range(3)
UNKNOWN_OF_OTHERS = "<UNK>"
"""Spelling of ``<unk>`` in some ARPA files and Kaldi word lists; never a word of a vocabulary."""
START_LOG_PROBABILITY = -99.0
"""log10 probability of ``<s>`` within a sentence: ARPA files write -99 for 0."""

State = tuple[int, ...]
"""The part of the history that matters for the following words: equal states continue alike. ``()``: no history."""


@dataclass(frozen=True)
class Level:
    """The K n-grams of one length, sorted by the ids of their words. A row of a level is one n-gram.

    Attributes:
        keys: (K,) int64, ascending: row of the first n - 1 words in the level below (0 for n = 1), times the number of
            words, plus the id of the last word.
        log_probability: (K,) float64, natural log-probability of the last word after the others.
        back_off: (K,) float64, natural log of the weight of the shorter history for words that follow these n words in
            no n-gram. Zeros in the highest level.
    """

    keys: np.ndarray
    log_probability: np.ndarray
    back_off: np.ndarray

    def find(self, key: int) -> int:
        """Return the row of ``key``, or -1."""
        row = int(self.keys.searchsorted(key))
        return row if row < len(self.keys) and self.keys[row] == key else -1

    def find_all(self, keys: np.ndarray) -> np.ndarray:
        """Return the rows (M,) of ``keys`` (M,) int64, -1 for missing ones."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        rows = np.minimum(self.keys.searchsorted(keys), len(self.keys) - 1)
        return np.where(self.keys[rows] == keys, rows, -1)


class NgramModel:
    """A back-off model over a closed vocabulary and ``<unk>``, which stands for all other words.

    Args:
        words: words in order of their ids: ``SPECIAL``, then the vocabulary.
        levels: levels of lengths 1 to N; the first has a row for each of ``words``.

    Attributes:
        words: words as given.
        levels: levels as given.
    """

    def __init__(self, words: Sequence[str], levels: Sequence[Level]) -> None:
        self.words = tuple(words)
        self.levels = tuple(levels)
        self._ids = {word: index for index, word in enumerate(words) if index not in (UNKNOWN_ID, START_ID)}

    @property
    def order(self) -> int:
        """Number of words in the longest n-grams."""
        return len(self.levels)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Words of the model, without ``<unk>``, ``<s>`` and ``</s>``."""
        return self.words[len(SPECIAL) :]

    def out_of_vocabulary(self, words: Sequence[str]) -> list[bool]:
        """Return which of ``words`` count as ``<unk>``; this includes ``<s>`` and ``</s>``, which are not words."""
        return [word == END or word not in self._ids for word in words]

    def score(self, words: Sequence[str]) -> list[float]:
        """Return the natural-log probability of each word of a sentence given those before it, and last of its end.

        Args:
            words: words of the sentence, without ``<s>`` and ``</s>``; may be empty.
        """
        state, scores = self.start(), []
        for word, unknown in zip(words, self.out_of_vocabulary(words)):
            log_probability, state = self.advance(state, UNKNOWN if unknown else word)
            scores.append(log_probability)
        return [*scores, self.advance(state, END)[0]]

    def start(self) -> State:
        """Return the state at the start of a sentence."""
        return (START_ID,)[: self.order - 1]

    def advance(self, state: State, word: str) -> tuple[float, State]:
        """Return the natural-log probability of a word after those that led to ``state``, and the next state.

        A state contains the rows of the last word, the last two words, and so on, -1 if they are not an n-gram. For
        each history, from the shortest, the result is the n-gram's own probability, or else the history's back-off
        weight times the probability from the next shorter history.

        Args:
            state: state from ``start`` or ``advance``.
            word: any word, or ``</s>``.
        """
        index = self._ids.get(word, UNKNOWN_ID)
        log_probability = self.levels[0].log_probability[index]
        rows = [index]
        for history, below, level in zip(state, self.levels, self.levels[1:]):
            row = -1 if history < 0 else level.find(history * len(self.words) + index)
            if row >= 0:
                log_probability = level.log_probability[row]
            elif history >= 0:
                log_probability += below.back_off[history]
            rows.append(row)
        del rows[self.order - 1 :]
        while rows and rows[-1] < 0:  # so that histories equivalent to the model are one state
            rows.pop()
        return float(log_probability), tuple(rows)
