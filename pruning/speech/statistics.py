"""What differences between systems are worth: bootstrap by speaker and utterance, and Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pruning.errors import UserError

REPLICATIONS = 10_000


@dataclass(frozen=True)
class Design:
    """The utterances that systems are compared on, and how they are drawn again: speakers first, then utterances.

    Utterances of one speaker err alike; drawing utterances alone would call differences certain that another ten
    speakers would turn round.

    Attributes:
        weights: ``(R, U)`` how often each utterance counts in each of R replications.
    """

    weights: np.ndarray

    @classmethod
    def of(cls, speakers: Sequence[str], replications: int = REPLICATIONS, seed: int = 0) -> Design:
        """The design for utterances of the given ``speakers``, one name for each utterance.

        Raises:
            UserError: there is no utterance.
        """
        if not speakers:
            raise UserError("there are no utterances to compare on", "decode a test set first")
        generator = np.random.default_rng(seed)
        names = sorted(set(speakers))
        members = [np.flatnonzero(np.asarray(speakers) == name) for name in names]
        weights = np.zeros((replications, len(speakers)), dtype=np.float32)
        drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=replications)  # (R, S)
        for index, own in enumerate(members):  # a speaker who comes twice gives twice as many utterances
            draws = drawn[:, index] * len(own)
            weights[:, own] = generator.multinomial(draws, np.full(len(own), 1 / len(own)))
        return cls(weights)

    def rates(self, errors: np.ndarray, words: np.ndarray) -> np.ndarray:
        """100 x errors / words of each replication, ``(R,)``; ``errors`` and ``words`` ``(U,)``."""
        return 100.0 * (self.weights @ errors.astype(np.float64)) / np.maximum(self.weights @ words, 1.0)


class Estimate(NamedTuple):
    """A rate or a difference of rates in percent, with its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(design: Design, errors: np.ndarray, words: np.ndarray) -> Estimate:
    """The rate ``100 x sum(errors) / sum(words)`` with its interval.

    Args:
        design: of the utterances.
        errors: ``(U,)`` of a system, or the difference of two systems'; means over seeds are as good as counts.
        words: ``(U,)`` of the references.
    """
    low, high = np.percentile(design.rates(errors, words), (2.5, 97.5))
    return Estimate(float(100.0 * errors.sum() / words.sum()), float(low), float(high))


def p_value(design: Design, difference: np.ndarray, words: np.ndarray) -> float:
    """Two-sided bootstrap p-value of a paired difference of errors ``(U,)`` being 0.

    Twice the share of replications on the other side of 0 (with one counted on each, so that it is never 0).
    """
    rates = design.rates(difference, words)
    count = len(rates)
    below, above = (int((rates <= 0).sum()) + 1) / (count + 1), (int((rates >= 0).sum()) + 1) / (count + 1)
    return min(1.0, 2 * min(below, above))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979): corrected p-values by name."""
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    corrected: dict[str, float] = {}
    largest = 0.0
    for index, (name, value) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - index) * value))
        corrected[name] = largest
    return corrected
