"""Back-off n-gram models of words: how probable a sentence is, whole or word by word.

``kneser_ney`` estimates them from text, ``arpa`` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UNKNOWN, START, END = "<unk>", "<s>", "</s>"
SPECIAL = (UNKNOWN, START, END)
"""The words of every model that are none of a text, in the order of their ids, which are 0, 1 and 2."""
UNKNOWN_ID, START_ID, END_ID = range(3)
UNKNOWN_OF_OTHERS = "<UNK>"
"""As some ARPA files and Kaldi's word lists spell ``<unk>``; no word of a vocabulary either."""
START_LOG_PROBABILITY = -99.0
"""log10 of the probability that a sentence starts anew within itself, as ARPA files write 0."""

State = tuple[int, ...]
"""What has been said, as far as it matters for the words to come: equal states go on alike. ``()``: nothing."""


@dataclass(frozen=True)
class Level:
    """The K n-grams of one length, sorted by the ids of their words. A row of a level is one n-gram.

    Attributes:
        keys: (K,) int64, ascending: the row that the first n - 1 words have in the level below (0 for n = 1), times the
            number of words, plus the id of the last word.
        log_probability: (K,) float64, natural, of the last word after the others.
        back_off: (K,) float64, natural: the weight of what shorter histories say of a word that no n-gram has after
            these n words. Zeros in the highest level.
    """

    keys: np.ndarray
    log_probability: np.ndarray
    back_off: np.ndarray

    def find(self, key: int) -> int:
        """The row of ``key``, or -1."""
        row = int(self.keys.searchsorted(key))
        return row if row < len(self.keys) and self.keys[row] == key else -1

    def find_all(self, keys: np.ndarray) -> np.ndarray:
        """The rows (M,) of ``keys`` (M,) int64, each -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        rows = np.minimum(self.keys.searchsorted(keys), len(self.keys) - 1)
        return np.where(self.keys[rows] == keys, rows, -1)


class NgramModel:
    """A back-off model over a closed vocabulary and ``<unk>``, which every other word counts as.

    Args:
        words: by id: ``SPECIAL``, then the vocabulary.
        levels: of lengths 1 to N; the first has a row for each of ``words``.

    Attributes:
        words: as given.
        levels: as given.
    """

    def __init__(self, words: Sequence[str], levels: Sequence[Level]) -> None:
        self.words = tuple(words)
        self.levels = tuple(levels)
        self._ids = {word: index for index, word in enumerate(words) if index not in (UNKNOWN_ID, START_ID)}

    @property
    def order(self) -> int:
        """The number of words of the longest n-grams."""
        return len(self.levels)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words it knows, without ``<unk>``, ``<s>`` and ``</s>``."""
        return self.words[len(SPECIAL) :]

    def out_of_vocabulary(self, words: Sequence[str]) -> list[bool]:
        """Which of ``words`` count as ``<unk>``; ``<s>`` and ``</s>`` are no words, and do."""
        return [word == END or word not in self._ids for word in words]

    def score(self, words: Sequence[str]) -> list[float]:
        """Natural-log probabilities of each word of a sentence after those before it, and last of its end.

        Args:
            words: of the sentence, without ``<s>`` and ``</s>``; may be empty.
        """
        state, scores = self.start(), []
        for word, unknown in zip(words, self.out_of_vocabulary(words)):
            log_probability, state = self.advance(state, UNKNOWN if unknown else word)
            scores.append(log_probability)
        return [*scores, self.advance(state, END)[0]]

    def start(self) -> State:
        """The state in which a sentence starts."""
        return (START_ID,)[: self.order - 1]

    def advance(self, state: State, word: str) -> tuple[float, State]:
        """The natural-log probability of a word after those that led to ``state``, and the state after it.

        A state holds the rows of the last word, the last two words, and so on, -1 where they are no n-gram. For each
        history, from the shortest: the n-gram's own probability, or else the history's back-off weight times what the
        next shorter history says.

        Args:
            state: from ``start`` or ``advance``.
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
        while rows and rows[-1] < 0:  # so that histories alike to the model are one state
            rows.pop()
        return float(log_probability), tuple(rows)
