"""N-best lists of any recogniser: reading, writing, and merging of hypotheses that are scored alike."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pruning.errors import UserError
from pruning.files import PathLike, atomic_path, read_lines
from pruning.speech.scoring.word_errors import words_of
from pruning.speech.text.text_files import check_readable

_NUMBERED = re.compile(r"(?P<utterance>.+)-(?P<number>[0-9]+)")


class Entry(NamedTuple):
    """A hypothesis in an n-best list.

    Attributes:
        utterance: name of the utterance.
        score: natural log-probability, or any score of the recogniser; larger is better. Minus infinity: a language
            model assigned the text zero probability.
        text: words, separated by spaces.
    """

    utterance: str
    score: float
    text: str


def read_nbest(path: PathLike) -> dict[str, list[Entry]]:
    """Read an n-best list: lines of utterance, score and text, separated by tabs or spaces; the text may be empty.

    Returns:
        Hypotheses of each utterance by name, in the order of the file.

    Raises:
        UserError: the file is missing or a line is broken, or every utterance has one hypothesis and the names are
            numbered, as in Kaldi's n-best lists.
    """
    check_readable(path, "n-best list")
    found: dict[str, list[Entry]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        words = line.split()
        try:
            score = float(words[1])
        except (IndexError, ValueError):
            score = math.nan
        if math.isnan(score) or score == math.inf:
            raise UserError(
                f"{path} line {number}: {line[:60]!r} has no valid score",
                "write lines of the form UTTERANCE SCORE TEXT",
            )
        found.setdefault(words[0], []).append(Entry(words[0], score, " ".join(words_of(" ".join(words[2:])))))
    if not found:
        raise UserError(f"n-best list {path} is empty", "write lines of the form UTTERANCE SCORE TEXT")
    _check_names(found, path)
    return found


def _check_names(lists: Mapping[str, Sequence[Entry]], path: PathLike) -> None:
    """Refuse names such as ``u1-1``, ``u1-2``, with which Kaldi numbers the hypotheses of ``u1``."""
    if any(len(entries) > 1 for entries in lists.values()):
        return
    numbers: dict[str, list[int]] = {}
    for name in lists:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            return
        numbers.setdefault(match["utterance"], []).append(int(match["number"]))
    counted = all(sorted(of) == list(range(1, len(of) + 1)) for of in numbers.values())
    if counted and max(map(len, numbers.values())) > 1:
        one = next(name for name, of in numbers.items() if len(of) > 1)
        raise UserError(f"{path} has one hypothesis each for {one}-1, {one}-2, ...: names of Kaldi's n-best lists",
                        "remove the numbers: sed -E 's/^(\\S+)-[0-9]+/\\1/'")  # fmt: skip


def write_nbest(path: PathLike, entries: Iterable[Entry]) -> None:
    """Write an n-best list for `read_nbest`, by rename."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for entry in entries:
            stream.write(f"{entry.utterance}\t{entry.score:.6f}\t{entry.text}\n")


class Candidate(NamedTuple):
    """All hypotheses of an utterance that have the same words after the normaliser.

    Attributes:
        score: logarithm of the sum of the exponentials of the recogniser's scores.
        text: the hypothesis with the best score, as the recogniser wrote it.
        words: the words that are scored.
    """

    score: float
    text: str
    words: tuple[str, ...]


class Merged(NamedTuple):
    """Candidates of each utterance, best first, and what was merged into them.

    Attributes:
        candidates: of each utterance by name, in the order of the list.
        hypotheses: number of hypotheses in the list.
        unique: number of different ones, over the utterances.
        left_out: number of those beyond the allowed number, which are not candidates.
        empty: number of candidates without words.
        first: words of each utterance's hypothesis with the best score, before merging.
    """

    candidates: dict[str, list[Candidate]]
    hypotheses: int
    unique: int
    left_out: int
    empty: int
    first: dict[str, tuple[str, ...]]

    def counts(self) -> dict[str, int]:
        """Return the numbers by their names."""
        return {"hypotheses": self.hypotheses, "unique": self.unique, "left_out": self.left_out, "empty": self.empty}


def merged(
    lists: Mapping[str, Sequence[Entry]], words_in: Callable[[str], Sequence[str]] = words_of, most: int = 0
) -> Merged:
    """Merge the hypotheses of each utterance that have the same words.

    Args:
        lists: see `read_nbest`.
        words_in: returns the words of a text that are scored, see `pruning.speech.scoring.scored_words`.
        most: number of candidates of an utterance to keep, those with the best scores; 0: all.
    """
    found, unique = {}, 0
    for name, entries in lists.items():
        alike: dict[tuple[str, ...], list[Entry]] = {}
        for entry in entries:
            alike.setdefault(tuple(words_in(entry.text)), []).append(entry)
        all_of = [Candidate(float(np.logaddexp.reduce([entry.score for entry in same])),
                            max(same, key=lambda entry: entry.score).text, words)
                  for words, same in alike.items()]  # fmt: skip
        unique += len(all_of)
        found[name] = sorted(all_of, key=lambda one: -one.score)[: most or None]
    kept = [one for of in found.values() for one in of]
    first = {name: tuple(words_in(max(of, key=lambda entry: entry.score).text)) for name, of in lists.items()}
    empty = sum(not one.words for one in kept)
    return Merged(found, sum(map(len, lists.values())), unique, unique - len(kept), empty, first)
