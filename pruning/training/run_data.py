"""Data of a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional


@dataclass(frozen=True)
class RunData:
    """Data of a training run.

    Attributes:
        train_batches: function that returns training batches, see `pruning.training.trainer.Trainer`.
        dev_batches: function that returns dev batches, see `pruning.training.trainer.Trainer`.
        files: option -> files on whose content the run depends.
        steps_per_epoch: number of batches of an epoch per process; None if unknown.
    """

    train_batches: Callable[[int, int], Iterable[Any]]
    dev_batches: Callable[[], Iterable[Any]]
    files: Mapping[str, Sequence[Path]]
    steps_per_epoch: Optional[int] = None
