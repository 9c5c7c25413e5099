"""Tests with real processes: killed at random times, asked to stop, and several under torchrun."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pruning.experiments import checkpoint, directory
from pruning.training import trainer
from pruning.training.interruption import REQUEUE_STATUS, StopRequest
from tests.training.test_trainer import assert_equal_experiments, rows, weights
from tests.training.toy import CONFIG, ToyBatch, development, make
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "num_epochs=4",
    "average_period=3",
    "log_interval=2",
    "save_interval=5",
    "valid_interval=6",
    "tensorboard=false",
    "num_threads=1",
    "device=cpu",
]


def start(
    exp_dir: Path, *settings: str, options: Sequence[str] = (), launcher: Sequence[str] = ()
) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = ["-m", "tests.training.toy", *options, str(exp_dir), *SETTINGS, *settings]
    command = [sys.executable, *launcher, *program]
    # a new session, so that a failing test can end the launcher's processes with it
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait(process: subprocess.Popen[str]) -> str:
    """Wait for the end of the process; return its output."""
    try:
        return process.communicate(timeout=300)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def finish(process: subprocess.Popen[str]) -> str:
    errors = wait(process)
    assert process.returncode == 0, errors
    return errors


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp_dir = tmp_path_factory.mktemp("whole")
    finish(start(exp_dir))
    return exp_dir


@pytest.mark.processes
def test_killed_at_random_moments_ends_with_the_same_weights(whole_run: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    for _ in range(4):
        # a state after each step, so that some kills hit the writing of states and checkpoints
        process = start(tmp_path, "state_interval=1", options=["--delay", "0.02"])
        assert process.stderr is not None
        for line in process.stderr:
            if "starting" in line or "resuming" in line:
                break
        time.sleep(moments.uniform(0.0, 0.5))
        process.kill()
        wait(process)
    finish(start(tmp_path, "state_interval=1"))
    assert_equal_experiments(whole_run, tmp_path)
    assert not list(tmp_path.rglob(".tmp-*"))
    places = [(row["kind"], row["step"]) for row in rows(tmp_path)]
    assert len(places) == len(set(places))


@pytest.mark.processes
def test_sigterm_finishes_the_step_saves_and_says_so(whole_run: Path, tmp_path: Path) -> None:
    process = start(tmp_path, options=["--delay", "0.5"])
    until(lambda: (tmp_path / "metrics.jsonl").exists() and rows(tmp_path))
    process.send_signal(signal.SIGTERM)
    errors = wait(process)
    assert process.returncode == REQUEUE_STATUS, errors
    assert "run the same command again" in errors and "Traceback" not in errors
    assert directory.resumable_state(tmp_path) is not None and not directory.is_done(tmp_path)
    assert "resuming" in finish(start(tmp_path))
    assert_equal_experiments(whole_run, tmp_path)
    assert "already done" in finish(start(tmp_path))


LAUNCHER = ["-m", "pruning.bin.torchrun", "--nproc_per_node=2", "--standalone"]


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_are_one_with_accumulation(tmp_path: Path) -> None:
    """Gradients are averaged over processes: both have the weights of a single process with all batches."""
    plain = ["--plain", "--dev-batches", "1"]  # so that the second process has no dev batch
    finish(start(tmp_path / "two", "num_epochs=2", options=plain, launcher=LAUNCHER))
    first, second = (torch.load(tmp_path / "two" / f"rank-{rank}.pt") for rank in (0, 1))
    for name in first:
        assert torch.equal(first[name], second[name])
    finish(start(tmp_path / "one", "num_epochs=2", "accumulate=2", options=[*plain, "--batches", "14"]))
    for name, tensor in weights(tmp_path / "one/epoch-2.safetensors").items():
        assert torch.allclose(tensor, weights(tmp_path / "two/epoch-2.safetensors")[name], atol=1e-6)
    assert checkpoint.read_header(tmp_path / "two/epoch-2.safetensors")["step"] == 14
    assert directory.is_done(tmp_path / "two")
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    for row, other in zip(one, two):  # terms are means over the batches of both, in training and on dev
        assert row["error"] == pytest.approx(other["error"], rel=1e-5)


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_stop_together_and_resume(tmp_path: Path) -> None:
    process = start(tmp_path / "stopped", "num_epochs=2", options=["--delay", "0.5"], launcher=LAUNCHER)
    until(lambda: (tmp_path / "stopped/metrics.jsonl").exists() and rows(tmp_path / "stopped"))
    process.send_signal(signal.SIGTERM)
    errors = wait(process)
    assert process.returncode == REQUEUE_STATUS, errors
    assert directory.resumable_state(tmp_path / "stopped") is not None and not directory.is_done(tmp_path / "stopped")
    finish(start(tmp_path / "stopped", "num_epochs=2", launcher=LAUNCHER))
    finish(start(tmp_path / "whole", "num_epochs=2", launcher=LAUNCHER))
    assert_equal_experiments(tmp_path / "whole", tmp_path / "stopped")  # the terms of both processes, too


@pytest.mark.processes
def test_errors_of_a_process_are_one_line(tmp_path: Path) -> None:
    process = start(tmp_path, "optimizer.lr=1", launcher=LAUNCHER)
    errors = wait(process)
    assert process.returncode == 1
    assert "error: unknown key 'optimizer'" in errors and "Traceback" not in errors


def test_asked_to_stop_at_the_end_of_an_epoch_it_leaves_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[StopRequest] = []

    class Recorded(StopRequest):
        def __enter__(self) -> StopRequest:
            requests.append(self)
            return self

    def asking() -> Iterator[ToyBatch]:
        requests[-1].signal = signal.SIGTERM
        return development()

    monkeypatch.setattr(trainer, "StopRequest", Recorded)
    config = replace(CONFIG, valid_interval=0)
    for epoch in (2, 3):
        with pytest.raises(SystemExit) as leaving:
            make(tmp_path / "stopped", config, dev_batches=asking).run()
        assert leaving.value.code == REQUEUE_STATUS
        state = directory.resumable_state(tmp_path / "stopped")
        assert state is not None and state.name == f"epoch-{epoch:04d}-batch-000000"
        if epoch == 2:  # as in older states, without the terms of all processes
            saved = json.loads((state / "state.json").read_text())
            (saved["terms"],) = saved["terms"]
            assert saved["terms"]
            (state / "state.json").write_text(json.dumps(saved))
    make(tmp_path / "stopped", config, dev_batches=asking).run()  # the end of its last epoch is the end of training
    make(tmp_path / "whole", config).run()
    assert_equal_experiments(tmp_path / "whole", tmp_path / "stopped")
