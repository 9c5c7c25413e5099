"""Training states on disk: safetensors and JSON, read without executing code, and always complete.

Each state is a separate directory, ``state/epoch-0003-batch-000120``, which is written by rename; the previous state is
removed only after that. If a process is killed at any time, a complete state remains.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from torch import Tensor

from pruning.errors import UserError
from pruning.experiments.checkpoint import read_tensors, write_tensors
from pruning.files import atomic_path, read_json, write_json

TENSORS = "tensors.safetensors"
NUMBERS = "state.json"
VERSION = 1
_NUMBERS = ("epoch", "batch")


@dataclass(frozen=True)
class TrainingState:
    """Everything a run needs to resume.

    Attributes:
        epoch: epoch to resume in, from 1.
        batch: number of batches of that epoch that are done.
        tensors: tensors named ``task.*``, ``optimiser.*``, ``average.*``.
        numbers: everything else, as JSON values.
    """

    epoch: int
    batch: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with ``PREFIX.``, without this prefix."""
        start = len(prefix) + 1
        return {name[start:]: tensor for name, tensor in self.tensors.items() if name.startswith(f"{prefix}.")}


def save_state(directory: Path, state: TrainingState) -> Path:
    """Write a state into its own directory under ``directory`` by rename, then remove earlier states.

    Raises:
        OSError: an error of the file system, e.g. a full disk; the earlier state then still exists.
    """
    target = directory / f"epoch-{state.epoch:04d}-batch-{state.batch:06d}"
    if not target.exists():  # the same position has the same state
        with atomic_path(target) as temporary:
            temporary.mkdir(parents=True)
            write_tensors(temporary / TENSORS, state.tensors)
            write_json(
                temporary / NUMBERS, {"version": VERSION, "epoch": state.epoch, "batch": state.batch, **state.numbers}
            )
            _sync(temporary / TENSORS)
    for other in directory.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def latest_state(directory: Path) -> Optional[Path]:
    """Return the newest complete state, or None. Names sort by position; temporary names never match."""
    states = sorted(path for path in directory.glob("epoch-*-batch-*") if (path / NUMBERS).is_file())
    return states[-1] if states else None


def load_state(path: Path) -> TrainingState:
    """Read a state.

    Raises:
        UserError: the state is damaged, or was written by another version.
    """
    remedy = f"remove {path} to resume from an earlier state or from the start"
    numbers = read_json(path / NUMBERS, remedy)
    if not isinstance(numbers, dict) or numbers.get("version") != VERSION:
        raise UserError(f"{path / NUMBERS} is not a training state of version {VERSION}", remedy)
    lacking = next((key for key in _NUMBERS if key not in numbers), None)
    if lacking is not None:
        raise UserError(f"{path / NUMBERS} has no {lacking}", remedy)
    tensors = read_tensors(path / TENSORS, remedy)
    return TrainingState(numbers["epoch"], numbers["batch"], tensors, numbers)


def _sync(path: Path) -> None:
    with open(path, "rb") as stream:  # otherwise the rename of the directory may reach the disk before the data
        os.fsync(stream.fileno())
