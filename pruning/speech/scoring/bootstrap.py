"""Intervals of rates, by one bootstrap for all tables: over speakers, utterances and seeds; Holm's method."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pruning.errors import UserError

REPLICATIONS = 10_000
_ROWS = 500  # replications that are drawn at once
_SCALES = 2  # seed of the draws that all systems share


@dataclass(frozen=True)
class Design:
    """A resampling of the utterances on which systems are compared: within each test set speakers, then utterances.

    Errors of one speaker's utterances are correlated. Resampling only utterances would call differences significant
    that ten other speakers would reverse.

    Sets are strata: each replication has as many speakers of a set as the set has, because a repeated test would have
    the same sets. Of a set with one speaker, only the utterances are drawn.

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
        return cls.of([(name, speaker or utterance) for name, utterance, speaker in sets])

    @classmethod
    def of(cls, speakers: Sequence[tuple[str, str]], replications: int = REPLICATIONS, seed: int = 0) -> Design:
        """Return the design for utterances of the given ``speakers``: a test set and a name for each utterance.

        Raises:
            UserError: there are no utterances.
        """
        if not speakers:
            raise UserError("no utterances to compare on", "decode a test set first")
        members: dict[str, dict[str, list[int]]] = {}  # test set -> speaker -> utterances
        for index, (name, speaker) in enumerate(speakers):
            members.setdefault(name, {}).setdefault(speaker, []).append(index)
        generator = np.random.default_rng(seed)
        weights = np.zeros((replications, len(speakers)), dtype=np.float32)
        for name in sorted(members):
            of_set = [members[name][speaker] for speaker in sorted(members[name])]
            drawn = _drawn(generator, len(of_set), replications)  # (R, S)
            for index, own in enumerate(of_set):  # a speaker drawn twice contributes twice as many utterances
                if len(own) == 1:
                    weights[:, own[0]] = drawn[:, index]
                    continue
                draws = drawn[:, index].astype(np.int64) * len(own)
                weights[:, own] = generator.multinomial(draws, np.full(len(own), 1 / len(own)))
        return cls(weights)

    def rate(self, errors: np.ndarray, words: np.ndarray) -> Sample:
        """Return the rate ``100 x sum(errors) / sum(words)`` of a system with its replications.

        Of a system that was trained with several seeds, this is the mean over its seeds. The variation between seeds is
        not in the replications, see `Sample.spread`.

        Args:
            errors: number of errors, ``(S, U)`` for S seeds, or ``(U,)`` for one.
            words: number of words in each reference, ``(U,)``.
        """
        mean = np.atleast_2d(errors).mean(axis=0)
        spoken = np.maximum(self.weights @ words.astype(np.float32), 1.0)
        drawn = (self.weights @ mean.astype(np.float32)) / spoken
        return Sample(float(100.0 * mean.sum() / words.sum()), 100.0 * drawn.astype(np.float64))


def _drawn(generator: np.random.Generator, speakers: int, replications: int) -> np.ndarray:
    """Return how often each of S speakers is drawn in each replication, ``(R, S)`` in 16 bits, block by block."""
    drawn = np.empty((replications, speakers), dtype=np.uint16)
    for block in np.array_split(drawn, math.ceil(replications / _ROWS)):
        counts = generator.multinomial(speakers, np.full(speakers, 1 / speakers), size=len(block))
        block[:] = np.minimum(counts, np.iinfo(np.uint16).max)
    return drawn


class Estimate(NamedTuple):
    """A rate or a difference of rates in percent, with its 95 % interval."""

    value: float
    low: float
    high: float

    def words(self, sign: bool = False) -> str:
        """Return ``9.39 (8.16 to 10.70)``, with ``sign`` ``+0.92 (0.35 to 1.51)``."""
        return f"{self.value:{'+' if sign else ''}.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Sample:
    """A rate in percent, or a difference of two rates on the same design, with its bootstrap replications.

    Attributes:
        value: measured value.
        drawn: ``(R,)`` value of each replication.
    """

    value: float
    drawn: np.ndarray

    def __sub__(self, other: Sample) -> Sample:
        """Return the paired difference: both were resampled with the same utterances."""
        return Sample(self.value - other.value, self.drawn - other.drawn)

    def spread(self, deviation: float, freedom: int, name: str) -> Sample:
        """Add noise to the replications for what varies between trainings, such as the seed.

        The noise has the distribution of Student's t: few trainings tell the deviation only roughly. How wrong it may
        be is drawn once for all systems, so that a difference of two has a t distribution as well; the noise itself is
        independent for each ``name``.

        Args:
            deviation: estimated standard deviation of the value.
            freedom: degrees of freedom of the estimate.
            name: name of the system.
        """
        count = len(self.drawn)
        scale = np.sqrt(freedom / np.random.default_rng(_SCALES).chisquare(freedom, count))
        noise = np.random.default_rng([zlib.crc32(name.encode()), 1]).normal(0.0, deviation, count)
        return Sample(self.value, self.drawn + scale * noise)

    @property
    def interval(self) -> Estimate:
        """Value and 95 % interval."""
        low, high = np.percentile(self.drawn, (2.5, 97.5))
        return Estimate(self.value, float(low), float(high))

    @property
    def p_value(self) -> float:
        """Two-sided p-value of being 0: twice the share of replications on the other side of 0 (one added to each)."""
        fewer = min(int((self.drawn <= 0).sum()), int((self.drawn >= 0).sum()))
        return min(1.0, 2 * (fewer + 1) / (len(self.drawn) + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected by Holm's step-down method (Scandinavian Journal of Statistics 6, 1979), by name."""
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    corrected: dict[str, float] = {}
    largest = 0.0
    for index, (name, value) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - index) * value))
        corrected[name] = largest
    return corrected
