"""The training state on disk: safetensors and JSON, readable without executing code, never half there.

Each state is a directory of its own, ``state/epoch-0003-batch-000120``, which appears by rename; the one before is
removed only after that. Whenever a process is killed, a whole state is there.
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
    """Everything a run needs to go on.

    Attributes:
        epoch: the epoch to go on with, from 1.
        batch: batches of that epoch that are done.
        tensors: ``task.*``, ``optimiser.*``, ``average.*``.
        numbers: everything else, as JSON holds it.
    """

    epoch: int
    batch: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under ``PREFIX.``, without it."""
        start = len(prefix) + 1
        return {name[start:]: tensor for name, tensor in self.tensors.items() if name.startswith(f"{prefix}.")}


def save_state(directory: Path, state: TrainingState) -> Path:
    """Write a state into its own directory under ``directory`` by rename, then remove the earlier ones.

    Raises:
        OSError: from the file system (a full disk, say); the earlier state is still there then.
    """
    target = directory / f"epoch-{state.epoch:04d}-batch-{state.batch:06d}"
    if not target.exists():  # the same position holds the same state
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
    """The newest whole state, or None. Names sort by position; a temporary name is never a state."""
    states = sorted(path for path in directory.glob("epoch-*-batch-*") if (path / NUMBERS).is_file())
    return states[-1] if states else None


def load_state(path: Path) -> TrainingState:
    """Read a state.

    Raises:
        UserError: it is damaged or of another version.
    """
    remedy = f"remove {path} to go on from the state before or from the start"
    numbers = read_json(path / NUMBERS, remedy)
    if not isinstance(numbers, dict) or numbers.get("version") != VERSION:
        raise UserError(f"{path / NUMBERS} is not a training state of version {VERSION}", remedy)
    lacking = next((key for key in _NUMBERS if key not in numbers), None)
    if lacking is not None:
        raise UserError(f"{path / NUMBERS} has no {lacking}", remedy)
    tensors = read_tensors(path / TENSORS, remedy)
    return TrainingState(numbers["epoch"], numbers["batch"], tensors, numbers)


def _sync(path: Path) -> None:
    with open(path, "rb") as stream:  # the rename of the directory may reach the disk before the data does
        os.fsync(stream.fileno())
