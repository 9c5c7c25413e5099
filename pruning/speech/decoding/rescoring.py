"""Rescore hypotheses with a language model: those of our searches, or n-best lists of any recogniser."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.files import PathLike, atomic_path, read_lines
from pruning.speech.decoding.beam import Hypothesis
from pruning.speech.decoding.fusion import internal_scores, lm_scores
from pruning.speech.interfaces import LanguageModelNetwork, TransducerNetwork
from pruning.speech.scoring.word_errors import words_of

_NUMBERED = re.compile(r"(?P<utterance>.+)-(?P<number>[0-9]+)")


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


def check_readable(path: PathLike, what: str) -> None:
    """Check that a file exists; pipes such as ``<(zcat FILE)`` are accepted.

    Raises:
        UserError: the file does not exist or is a directory; ``what`` names it in the message.
    """
    if not Path(path).exists():
        raise UserError(f"{what} {path} does not exist", "correct the path")
    if Path(path).is_dir():
        raise UserError(f"{what} {path} is a directory", "give a file")


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


def rescore(
    lists: dict[str, list[Entry]], score_texts: Callable[[Sequence[str]], Sequence[float]], scale: float
) -> dict[str, list[Entry]]:
    """Return the lists with ``score + scale log P_LM(text)``, best first.

    Args:
        lists: see `read_nbest`.
        score_texts: returns natural log-probabilities of texts.
        scale: weight of the language model, at least 0. With 0 the lists are only sorted.

    Texts with zero probability under the language model come last, in the order of the recogniser's scores.
    """
    texts = sorted({entry.text for entries in lists.values() for entry in entries})
    known = dict(zip(texts, score_texts(texts)))
    found = {}
    for name, entries in lists.items():
        sums = [entry.score + (scale * known[entry.text] if scale else 0.0) for entry in entries]
        order = sorted(range(len(entries)), key=lambda index: (-sums[index], -entries[index].score))
        found[name] = [Entry(name, sums[index], entries[index].text) for index in order]
    return found
