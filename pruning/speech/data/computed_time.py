"""A limit on batches in seconds of what the network computes, where that is more than the audio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lhotse.dataset.sampling.base import SamplingConstraint


class ComputedTime(SamplingConstraint):
    """Limits the number of cuts times the longest of them, like lhotse's own limit on the duration of audio.

    Args:
        limit: seconds of a batch.
        seconds: seconds that the network computes for a cut.
    """

    def __init__(self, limit: float, seconds: Callable[[Any], float]) -> None:
        self._limit, self._seconds = limit, seconds
        self._count, self._longest = 0, 0.0

    def add(self, example: Any) -> None:
        """Count a cut of the batch."""
        self._count += 1
        self._longest = max(self._longest, self._seconds(example))

    def exceeded(self) -> bool:
        """Return whether the batch is beyond the limit."""
        return self._count * self._longest > self._limit

    def close_to_exceeding(self) -> bool:
        """Return whether one more cut of the longest length would be beyond the limit."""
        return (self._count + 1) * self._longest > self._limit

    def reset(self) -> None:
        """Begin the next batch."""
        self._count, self._longest = 0, 0.0

    def measure_length(self, example: Any) -> float:
        """Return the length by which cuts are put into buckets."""
        return self._seconds(example)
