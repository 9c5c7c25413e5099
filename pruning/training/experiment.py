"""The experiment directory of a training run: its configuration, its done mark, its state, its spent checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import yaml

from pruning.errors import UserError
from pruning.training import configuration
from pruning.training.state import latest_state

DONE = ".done"
CONFIG = "config.yaml"
# settings that change what is told or kept, never the weights; they may change when a run is resumed
_HARMLESS = {"log_interval", "tensorboard", "save_interval", "keep_last_k", "state_interval", "state_interval_seconds",
             "num_workers"}


def is_done(exp_dir: Path) -> bool:
    """Whether a run ended there."""
    return (exp_dir / DONE).is_file()


def state_dir(exp_dir: Path) -> Path:
    """Where the training states are."""
    return exp_dir / "state"


def resumable_state(exp_dir: Path) -> Optional[Path]:
    """The state to go on from, or None."""
    return latest_state(state_dir(exp_dir))


def check_unchanged(exp_dir: Path, config: Mapping[str, Any], processes: int) -> None:
    """Refuse to go on with (or to call done) a run that began with another configuration.

    Raises:
        UserError: a key differs that changes the weights, or the number of processes does; names the key.
    """
    path = exp_dir / CONFIG
    if not path.exists() or not (is_done(exp_dir) or resumable_state(exp_dir)):
        return
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML ({error})", "restore it, or use another --exp-dir") from None
    if not isinstance(before, Mapping):
        raise UserError(f"{path} holds no keys", "restore it, or use another --exp-dir")
    changes = configuration.changed_keys(before, _recorded(config, processes))
    for key, (old, new) in changes.items():
        if key.rsplit(".", 1)[-1] not in _HARMLESS:
            raise UserError(f"{exp_dir} was begun with {key}={old}, not {key}={new}",
                            "give the same configuration, or use another --exp-dir")


def prepare(exp_dir: Path, config: Mapping[str, Any], processes: int) -> None:
    """Make the directory ready: write ``config.yaml``, remove what a killed process left half written."""
    exp_dir.mkdir(parents=True, exist_ok=True)
    for directory in (exp_dir, state_dir(exp_dir)):
        for leftover in directory.glob(".tmp-*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
    configuration.save(_recorded(config, processes), exp_dir / CONFIG)


def rotate_batch_checkpoints(exp_dir: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest ``batch-N`` checkpoints; 0 keeps all."""
    if not keep:
        return
    numbered = [(int(path.stem[6:]), path) for path in exp_dir.glob("batch-*.safetensors") if path.stem[6:].isdigit()]
    for _, path in sorted(numbered)[:-keep]:
        path.unlink(missing_ok=True)


def _recorded(config: Mapping[str, Any], processes: int) -> dict[str, Any]:
    return {**config, "processes": processes}
