"""Experiment directory of a training run: configuration, lock, done mark, removal of old checkpoints."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import yaml

from pruning import configuration, old_forms, processor
from pruning.errors import UserError
from pruning.experiments.state import latest_state
from pruning.files import PathLike, read_json, write_json

DONE = ".done"
EXTRACTION = "extraction.json"
"""File of an extraction with the ``seconds`` that it took, repair included."""
CONFIG = "config.yaml"
RUN = "run.json"
LOCK = ".lock"
_THREADS = "trainer.num_threads"
# settings that affect only what is logged or kept, not the weights; they may differ when a run is resumed
_HARMLESS = {
    "log_interval",
    "tensorboard",
    "save_interval",
    "keep_last_k",
    "state_interval",
    "state_interval_seconds",
    "num_workers",
    "max_evaluated_duration",
    "on_empty",
}


def is_done(exp_dir: Path) -> bool:
    """Return whether the run of an experiment directory is done."""
    return (exp_dir / DONE).is_file()


def steps_of(exp_dir: PathLike) -> int:
    """Return the number of steps that a finished training took.

    Raises:
        UserError: it is not finished.
    """
    done = Path(exp_dir) / DONE
    if not done.is_file():
        raise UserError(f"{exp_dir} is not a finished training, so its steps are not known", "finish it first")
    return int(read_json(done)["step"])


def state_dir(exp_dir: Path) -> Path:
    """Return the directory of the training states."""
    return exp_dir / "state"


def resumable_state(exp_dir: Path) -> Optional[Path]:
    """Return the training state to resume from, or None."""
    return latest_state(state_dir(exp_dir))


@contextmanager
def locked(exp_dir: Path) -> Iterator[None]:
    """Keep other processes from training in ``exp_dir``; the lock is released when the process ends in any way.

    Raises:
        UserError: another process holds the lock.
    """
    exp_dir.mkdir(parents=True, exist_ok=True)
    with open(exp_dir / LOCK, "a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise UserError(
                f"{exp_dir} is in use by {stream.read().strip() or 'another process'}",
                "wait for it or stop it, or use another --exp-dir",
            ) from None
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield


def check_unchanged(
    exp_dir: Path, config: Mapping[str, Any], run: Mapping[str, Any], defaults: Optional[Mapping[str, Any]] = None
) -> None:
    """Refuse to resume (or to accept as done) a run that was started with another configuration or other inputs.

    Settings that only change rounding, the number of threads and how MKL computes (`processor.KEY`), are compared only
    if the run is not done. `processor.KEY` is compared only if both runs have it: experiments of earlier versions, runs
    on a GPU and versions of torch whose MKL does not read it have none.

    Args:
        exp_dir: experiment directory.
        config: configuration of the run.
        run: what else the weights depend on: number of processes, fingerprints of the inputs.
        defaults: default values of the configuration, used for keys that did not exist when the run was started.

    Raises:
        UserError: a key that affects the weights differs; the message names the key.
    """
    if not (is_done(exp_dir) or resumable_state(exp_dir)):
        return
    began = [(_read_config(exp_dir / CONFIG), config)]
    if (exp_dir / RUN).exists():
        written = read_json(exp_dir / RUN, "restore it, or use another --exp-dir")
        if not isinstance(written, Mapping):
            raise UserError(f"{exp_dir / RUN} contains no keys", "restore it, or use another --exp-dir")
        began.append((written, run))
    for before, now in began:
        for key, (old, new) in configuration.changed_keys(before, now, defaults if now is config else None).items():
            of_mkl = now is run and key == processor.KEY
            if of_mkl and not (key in before and key in now):
                continue
            if (of_mkl or key == _THREADS) and is_done(exp_dir):
                continue
            if key.rsplit(".", 1)[-1] in _HARMLESS or (now is config and old_forms.without_effect(key, config)):
                continue
            remedy = "give the same configuration and inputs, or use another --exp-dir"
            if of_mkl:
                remedy = processor.remedy(old)
            elif key == _THREADS:
                remedy = f"give {key}={'null' if old is None else old}, or use another --exp-dir"
            raise UserError(f"{exp_dir} was started with {key}={old}, not {key}={new}", remedy)


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "restore it, or use another --exp-dir") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML ({error})", "restore it, or use another --exp-dir") from None
    if not isinstance(config, Mapping):
        raise UserError(f"{path} contains no keys", "restore it, or use another --exp-dir")
    return old_forms.configuration(config)


def prepare(exp_dir: Path, config: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Prepare the directory: write ``config.yaml`` and ``run.json``, remove temporary files of a killed process.

    ``config.yaml`` is complete and can be the ``--config`` of another run.
    """
    exp_dir.mkdir(parents=True, exist_ok=True)
    for directory in (exp_dir, state_dir(exp_dir)):
        for leftover in directory.glob(".tmp-*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
    configuration.save(config, exp_dir / CONFIG)
    write_json(exp_dir / RUN, run)


def rotate_batch_checkpoints(exp_dir: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest ``batch-N`` checkpoints; 0: keep all."""
    if not keep:
        return
    numbered = [(int(path.stem[6:]), path) for path in exp_dir.glob("batch-*.safetensors") if path.stem[6:].isdigit()]
    for _, path in sorted(numbered)[:-keep]:
        path.unlink(missing_ok=True)
