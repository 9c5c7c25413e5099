"""The experiment directory of a run: one process at a time, and only the run that it was started with."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import UserError
from pruning.experiments import directory
from tests.training.toy import Crash, crashing, make
from tests.waiting import until

BEGAN: dict[str, Any] = {"processes": 1, "inputs": {"train_cuts": ["a.jsonl.gz 01ab"], "teacher": ["best 23cd"]}}


def begun(exp_dir: Path) -> Path:
    directory.prepare(exp_dir, {"seed": 1}, BEGAN)
    (exp_dir / directory.DONE).touch()
    return exp_dir


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({**BEGAN, "processes": 2}, "processes=1, not processes=2"),
        ({**BEGAN, "inputs": {**BEGAN["inputs"], "train_cuts": ["a.jsonl.gz 99ff"]}}, "inputs.train_cuts="),
        ({**BEGAN, "inputs": {"train_cuts": ["a.jsonl.gz 01ab"]}}, "inputs.teacher="),
    ],
)
def test_other_inputs_are_refused(tmp_path: Path, now: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        directory.check_unchanged(begun(tmp_path), {"seed": 1}, now)


def test_the_same_is_accepted_and_what_has_not_begun_is_not_compared(tmp_path: Path) -> None:
    directory.check_unchanged(begun(tmp_path), {"seed": 1}, BEGAN)
    (tmp_path / directory.DONE).unlink()
    directory.check_unchanged(tmp_path, {"seed": 2}, {})


def test_a_key_of_a_later_version_has_its_default(tmp_path: Path) -> None:
    begun(tmp_path)
    defaults = {"data": {"max_length": 256}}
    directory.check_unchanged(tmp_path, {"seed": 1, **defaults}, BEGAN, defaults)
    with pytest.raises(UserError, match="data.max_length=256, not data.max_length=128"):
        directory.check_unchanged(tmp_path, {"seed": 1, "data": {"max_length": 128}}, BEGAN, defaults)
    with pytest.raises(UserError, match="seed=1, not seed=2"):
        directory.check_unchanged(tmp_path, {"seed": 2}, BEGAN, {"seed": 2})


def test_the_number_of_threads_matters_while_something_is_left_to_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, now = {"trainer": {"num_threads": None}}, {"trainer": {"num_threads": 1}}
    directory.prepare(tmp_path, before, BEGAN)
    monkeypatch.setattr(directory, "resumable_state", lambda exp_dir: exp_dir / "state" / "step-1")
    with pytest.raises(UserError, match=r"trainer.num_threads=None, not trainer.num_threads=1.*num_threads=null, or"):
        directory.check_unchanged(tmp_path, now, BEGAN)
    (tmp_path / directory.DONE).touch()
    directory.check_unchanged(tmp_path, now, BEGAN)


def test_what_is_there_must_hold_keys(tmp_path: Path) -> None:
    (tmp_path / directory.DONE).touch()
    (tmp_path / directory.CONFIG).write_bytes(b"\xe9: 1")
    with pytest.raises(UserError, match="config.yaml is not valid YAML"):
        directory.check_unchanged(tmp_path, {}, {})
    (tmp_path / directory.CONFIG).write_text("a: 1")
    (tmp_path / directory.RUN).write_text("[1]")
    with pytest.raises(UserError, match="run.json contains no keys"):
        directory.check_unchanged(tmp_path, {"a": 1}, {})


def test_its_configuration_must_be_there(tmp_path: Path) -> None:
    (begun(tmp_path) / directory.CONFIG).unlink()
    with pytest.raises(UserError, match="config.yaml does not exist"):
        directory.check_unchanged(tmp_path, {"seed": 1}, BEGAN)


def test_two_processes_do_not_train_in_one_directory(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from pruning.experiments import directory
with directory.locked(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"is in use by process {holder.pid} on .*another --exp-dir"):
            make(tmp_path).run()
    finally:
        holder.kill()
        holder.wait()
    until(partial(free, tmp_path))  # the kernel releases the lock of a killed process


def free(exp_dir: Path) -> bool:
    try:
        with directory.locked(exp_dir):
            return True
    except UserError:
        return False


def test_the_lock_is_free_after_a_crash(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        make(tmp_path, train_batches=crashing(3)).run()
    make(tmp_path).run()
    assert directory.is_done(tmp_path)
