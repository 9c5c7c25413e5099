"""Intervals of rates, by one bootstrap for all tables: over speakers, utterances and seeds; Holm's method."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
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

    An utterance of an unknown speaker is its own speaker: it is drawn alone (Bisani and Ney, ICASSP 2004).

    Attributes:
        weights: ``(R, U)`` float32, how often each utterance counts in each of R replications.
    """

    weights: np.ndarray

    @classmethod
    def of_sets(cls, sets: Iterable[tuple[str, str, str]]) -> Design:
        """The design for utterances of several test sets.

        Args:
            sets: test set, utterance and speaker of each utterance; an empty speaker is unknown. Speakers of the same
                name in two test sets are drawn apart.

        Raises:
            UserError: there is no utterance.
        """
        return cls.of([f"{name}/{speaker or utterance}" for name, utterance, speaker in sets])

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

    def rate(self, errors: np.ndarray, words: np.ndarray, name: str = "") -> Sample:
        """The rate ``100 x sum(errors) / sum(words)`` of a system, drawn again and again.

        Where the system was trained with several seeds, these are drawn too, for each replication and whatever the
        other systems' seeds; their deviations are widened by ``sqrt(S / (S - 1))``, as a few draws of S come out too
        narrow by that. With one seed nothing is known of what another would have given.

        Args:
            errors: ``(S, U)`` of S seeds, or ``(U,)`` of one.
            words: ``(U,)`` of the references.
            name: of the system; the seeds of two names are drawn apart.
        """
        errors = np.atleast_2d(errors)
        count = len(errors)
        spoken = np.maximum(self.weights @ words.astype(np.float32), 1.0)
        rates = (self.weights @ errors.T.astype(np.float32)) / spoken[:, None]
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        shares = generator.multinomial(count, np.full(count, 1 / count), size=len(rates)) / count
        if count > 1:
            shares = 1 / count + (shares - 1 / count) * np.sqrt(count / (count - 1))
        value = 100.0 * errors.mean(axis=0).sum() / words.sum()
        return Sample(float(value), 100.0 * (rates.astype(np.float64) * shares).sum(axis=1))


class Estimate(NamedTuple):
    """A rate or a difference of rates in percent, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """A rate in percent, or the difference of two over the same design, with its bootstrap.

    Attributes:
        value: as it was measured.
        drawn: ``(R,)`` of the replications.
    """

    value: float
    drawn: np.ndarray

    def __sub__(self, other: Sample) -> Sample:
        """The paired difference: both were drawn from the same utterances."""
        return Sample(self.value - other.value, self.drawn - other.drawn)

    def spread(self, deviation: float, name: str) -> Sample:
        """The same with normal noise of a standard deviation more, drawn apart for every ``name``."""
        generator = np.random.default_rng([zlib.crc32(name.encode()), 1])
        return Sample(self.value, self.drawn + generator.normal(0.0, deviation, len(self.drawn)))

    @property
    def interval(self) -> Estimate:
        """Value and 95 % interval."""
        low, high = np.percentile(self.drawn, (2.5, 97.5))
        return Estimate(self.value, float(low), float(high))

    @property
    def p_value(self) -> float:
        """Two-sided, of being 0: twice the share of replications on the other side of 0 (one counted on each)."""
        fewer = min(int((self.drawn <= 0).sum()), int((self.drawn >= 0).sum()))
        return min(1.0, 2 * (fewer + 1) / (len(self.drawn) + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979): corrected p-values by name."""
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    corrected: dict[str, float] = {}
    largest = 0.0
    for index, (name, value) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - index) * value))
        corrected[name] = largest
    return corrected
