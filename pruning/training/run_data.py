"""What a training run reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional


@dataclass(frozen=True)
class RunData:
    """What a run reads.

    Attributes:
        train_batches: see `pruning.training.trainer.Trainer`.
        dev_batches: the same.
        files: option -> files whose content decides the run.
        steps_per_epoch: batches of an epoch per process, where known.
    """

    train_batches: Callable[[int, int], Iterable[Any]]
    dev_batches: Callable[[], Iterable[Any]]
    files: Mapping[str, Sequence[Path]]
    steps_per_epoch: Optional[int] = None
