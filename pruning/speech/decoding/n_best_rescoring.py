"""Rescore n-best lists: weights of language model and words, contexts of earlier hypotheses, weights chosen on dev."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pruning.speech.decoding.n_best import Candidate, Entry
from pruning.speech.decoding.text_scorer import Request, TextScorer
from pruning.speech.scoring.word_errors import Transcript, count_errors


class Weights(NamedTuple):
    """What is added to a recogniser's score: ``lm_scale log P_LM(text) + word_bonus (number of words)``.

    Attributes:
        lm_scale: weight of the language model, at least 0; with 0 it has no influence.
        word_bonus: score of a word, in nats.
    """

    lm_scale: float
    word_bonus: float = 0.0


@dataclass
class Rescorer:
    """Rescore the candidates of utterances.

    With context, an utterance is scored behind the best candidates of the utterances before it in its recording, which
    depend on the weights. The utterances that are first in their recordings are scored together, then all second ones,
    and so on. Utterances with the same context under several weights are scored once.

    Attributes:
        candidates: of each utterance by name, best first, see `pruning.speech.decoding.n_best.merged`.
        scorer: language model.
        written: returns a text as the language model reads it.
        context: number of earlier utterances whose best candidates precede a text.
        recordings: utterances of each recording in order, see `pruning.speech.text.recordings.by_recording`; ignored
            without context.

    Raises:
        UserError: the language model cannot score a candidate.
    """

    candidates: Mapping[str, Sequence[Candidate]]
    scorer: TextScorer
    written: Callable[[str], str]
    context: int = 0
    recordings: Sequence[Sequence[str]] = ()
    _known: dict[tuple[str, tuple[str, ...]], np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.texts = {name: tuple(self.written(one.text) for one in of) for name, of in self.candidates.items()}
        self.scorer.prepare(text for texts in self.texts.values() for text in texts)

    def totals(self, weights: Sequence[Weights]) -> dict[str, np.ndarray]:
        """Return the scores of the C candidates of each utterance under each of W weights, ``(W, C)``."""
        chains = self.recordings if self.context else [[name] for name in self.candidates]
        before: list[list[tuple[str, ...]]] = [[()] * len(weights) for _ in chains]
        found = {}
        for place in range(max(map(len, chains), default=0)):
            here = [(index, chain[place]) for index, chain in enumerate(chains) if place < len(chain)]
            self._score({(name, context) for index, name in here for context in before[index]})
            for index, name in here:
                of_lm = np.stack([self._known[name, context] for context in before[index]])  # (W, C)
                found[name] = self._summed(name, of_lm, weights)
                if self.context:
                    best = found[name].argmax(axis=1)
                    before[index] = [(*context, self.texts[name][row])[-self.context :]
                                     for context, row in zip(before[index], best)]  # fmt: skip
        return {name: found[name] for name in self.candidates}

    def _score(self, wanted: set[tuple[str, tuple[str, ...]]]) -> None:
        missing = sorted(wanted - self._known.keys())
        scores = self.scorer.score([Request(self.texts[name], context) for name, context in missing])
        self._known.update(zip(missing, map(np.array, scores)))

    def _summed(self, name: str, of_lm: np.ndarray, weights: Sequence[Weights]) -> np.ndarray:
        scales, bonuses = np.array(weights, dtype=float).T[:, :, None]  # (W, 1) each
        own = np.array([one.score for one in self.candidates[name]])
        words = np.array([len(one.words) for one in self.candidates[name]])
        with np.errstate(invalid="ignore"):  # 0 times minus infinity
            scaled = np.where(scales > 0, scales * of_lm, 0.0)
        return own + scaled + bonuses * words


def reordered(
    candidates: Mapping[str, Sequence[Candidate]], totals: Mapping[str, np.ndarray]
) -> dict[str, list[Entry]]:
    """Return the candidates of each utterance with their total scores ``(C,)``, best first.

    Of equal scores, such as those of texts without probability, the one with the better recogniser's score is first.
    """
    found = {}
    for name, of in candidates.items():
        order = np.argsort(-totals[name], kind="stable")
        found[name] = [Entry(name, float(totals[name][index]), of[index].text) for index in order]
    return found


def errors_of(
    candidates: Mapping[str, Sequence[Candidate]], references: Mapping[str, list[str]]
) -> dict[str, np.ndarray]:
    """Return the number of errors of each of the C candidates of each utterance, ``(C,)``.

    All words of an utterance without candidates are deleted: ``(1,)``.
    """
    found = {}
    for name, words in references.items():
        hypotheses = [list(one.words) for one in candidates.get(name, ())] or [[]]
        found[name] = np.array([count_errors(Transcript(name, words, one))["total"] for one in hypotheses])
    return found


def oracle_errors(candidates: Mapping[str, Sequence[Candidate]], references: Mapping[str, list[str]]) -> dict[str, int]:
    """Return the fewest errors of any candidate of each utterance."""
    return {name: int(of.min()) for name, of in errors_of(candidates, references).items()}


class Tried(NamedTuple):
    """The errors on dev with some weights."""

    weights: Weights
    errors: int
    wer: float


class Tuned(NamedTuple):
    """Weights that were tried on dev.

    Attributes:
        best: those with the fewest errors; of equally good ones the smallest scale, then the smallest absolute bonus.
        tried: all of them.
        at_edge: in words, which of the best weights lie at the edge of what was tried.
    """

    best: Tried
    tried: list[Tried]
    at_edge: list[str]


def tune(
    rescorer: Rescorer, references: Mapping[str, list[str]], scales: Sequence[float], bonuses: Sequence[float]
) -> Tuned:
    """Choose weights by the word errors of the best candidates.

    Args:
        rescorer: of the dev list.
        references: words of each utterance.
        scales: weights of the language model to try.
        bonuses: scores of a word to try.
    """
    weights = [Weights(scale, bonus) for scale in sorted(set(scales)) for bonus in sorted(set(bonuses))]
    totals, errors = rescorer.totals(weights), errors_of(rescorer.candidates, references)
    counts = np.zeros(len(weights), dtype=int)
    for name, of in errors.items():
        counts += of[totals[name].argmax(axis=1)] if name in totals else of[0]
    words = sum(map(len, references.values()))
    tried = [Tried(one, int(count), 100.0 * int(count) / max(1, words)) for one, count in zip(weights, counts)]
    best = min(tried, key=lambda one: (one.errors, one.weights.lm_scale, abs(one.weights.word_bonus)))
    return Tuned(best, tried, at_edge(best.weights, scales, bonuses))


def at_edge(best: Weights, scales: Sequence[float], bonuses: Sequence[float]) -> list[str]:
    """Return which weights have the smallest or the largest value that was tried, of several; a scale of 0 is no edge.

    Without a language model, the scale has no edge.
    """
    found = []
    if len(set(scales)) > 1 and best.lm_scale in (min(scales), max(scales)) and best.lm_scale > 0:
        found.append(f"--lm-scale {best.lm_scale:g}")
    if len(set(bonuses)) > 1 and best.word_bonus in (min(bonuses), max(bonuses)):
        found.append(f"--word-bonus {best.word_bonus:g}")
    return found
