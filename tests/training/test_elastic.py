"""Training with several launchers, as on several nodes: lost processes are replaced, a stop request reaches all.

Two launchers on one machine stand for one launcher on each node of a cluster.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from pruning.errors import UserError
from pruning.experiments import directory
from pruning.training import elastic
from pruning.training.interruption import BAD_INPUT_STATUS, REQUEUE_STATUS
from tests.training.test_interruption import finish, start, wait
from tests.training.test_trainer import weights
from tests.waiting import until

SETTINGS = ("num_epochs=2", "state_interval=2")
Launchers = list["subprocess.Popen[str]"]


class Nodes:
    """Starts launchers, one per simulated node, and ends all of them."""

    def __init__(self) -> None:
        self.launchers: Launchers = []

    def start(self, exp_dir: Path, *settings: str, delay: float = 0.0) -> Launchers:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "pruning.bin.torchrun", "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d",
                    f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=test", "--max_restarts=2"]  # fmt: skip
        options = ["--delay", str(delay), "--hurry", f"{exp_dir}.hurry"]
        new = [start(exp_dir, *SETTINGS, *settings, options=options, launcher=launcher) for _ in range(2)]
        self.launchers += new
        return new

    def end(self) -> None:
        for launcher in self.launchers:
            if launcher.poll() is None:
                os.killpg(launcher.pid, signal.SIGKILL)
                launcher.communicate()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    yield found
    found.end()


def until_it_trains(exp_dir: Path, launchers: Launchers) -> None:
    """Wait until the training has saved a state, which comes after the first metrics."""
    until(lambda: directory.resumable_state(exp_dir) or any(launcher.poll() is not None for launcher in launchers))
    assert all(launcher.poll() is None for launcher in launchers)


def assert_same_weights(one: Path, other: Path) -> None:
    for name, tensor in weights(one / "epoch-2.safetensors").items():
        assert torch.equal(tensor, weights(other / "epoch-2.safetensors")[name]), name


@pytest.mark.processes
@pytest.mark.long
def test_a_killed_process_is_replaced_and_the_weights_are_those_of_an_undisturbed_run(
    nodes: Nodes, tmp_path: Path
) -> None:
    launchers = nodes.start(tmp_path / "killed", delay=0.5)
    until_it_trains(tmp_path / "killed", launchers)
    (worker,) = psutil.Process(launchers[1].pid).children()
    worker.kill()
    (tmp_path / "killed.hurry").touch()
    told = [finish(launcher) for launcher in launchers]
    assert all(text.count("resuming") == 1 for text in told)
    finish(start(tmp_path / "whole", *SETTINGS, launcher=["-m", "pruning.bin.torchrun", "--nproc_per_node=2",
                                                          "--standalone"]))  # fmt: skip
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.processes
def test_all_stop_when_one_launcher_is_asked_to_and_no_process_is_restarted(nodes: Nodes, tmp_path: Path) -> None:
    launchers = nodes.start(tmp_path / "exp", delay=0.5)
    until_it_trains(tmp_path / "exp", launchers)
    launchers[1].terminate()
    told = [wait(launcher) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [REQUEUE_STATUS] * 2, told
    assert all("resuming" not in text and "is saved; run the same command again" in text for text in told)
    assert directory.resumable_state(tmp_path / "exp") is not None


@pytest.mark.processes
@pytest.mark.slow
def test_two_trainings_on_one_machine_leave_each_other_alone(tmp_path: Path) -> None:
    """The training that starts first ends first."""
    launcher = ["-m", "pruning.bin.torchrun", "--nproc_per_node=1", "--standalone"]
    first = start(tmp_path / "first", "num_epochs=1", launcher=launcher)
    hurry = tmp_path / "hurry"
    options = ["--delay", "60", "--hurry", str(hurry)]
    second = start(tmp_path / "second", "num_epochs=2", options=options, launcher=launcher)
    finish(first)
    assert second.poll() is None
    hurry.touch()
    finish(second)


def test_what_is_wrong_is_said_once_however_many_restarts_are_allowed(tmp_path: Path) -> None:
    launcher = ["-m", "pruning.bin.torchrun", "--nproc_per_node=1", "--standalone", "--max_restarts=3"]
    process = start(tmp_path, "optimizer.lr=1", launcher=launcher)
    errors = wait(process)
    assert process.returncode == 1
    assert errors.count("error: unknown key 'optimizer'") == 1 and "Traceback" not in errors


@pytest.mark.parametrize(
    ("statuses", "final"),
    [([-signal.SIGKILL], False), ([1], False), ([-signal.SIGKILL, 1], False), ([], False),
     ([REQUEUE_STATUS, 1], True), ([BAD_INPUT_STATUS], True)],
)  # fmt: skip
def test_what_is_restarted(statuses: list[int], final: bool) -> None:
    assert elastic.final(statuses) == final


def test_nodes_of_a_slurm_job_meet_at_the_first() -> None:
    environment = {"SLURM_JOB_ID": "4711", "SLURM_NNODES": "2", "SLURM_NODEID": "1",
                   "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.5"}  # fmt: skip
    options = elastic.slurm_options(environment)
    assert options[options.index("--nnodes") + 1] == "2"
    assert options[options.index("--rdzv_endpoint") + 1] == "10.0.0.5:24711"
    assert options[options.index("--rdzv_conf") + 1] == "is_host=false"
    first = elastic.slurm_options({**environment, "SLURM_NODEID": "0"})
    assert first[first.index("--rdzv_conf") + 1] == "is_host=true"
    again = elastic.slurm_options({**environment, "SLURM_RESTART_COUNT": "1"})
    assert again[again.index("--rdzv_id") + 1] != options[options.index("--rdzv_id") + 1]
    assert elastic.options(["--nproc_per_node", "2", "-m", "x", "--standalone"])[0] == "--nproc_per_node"
    del environment["SLURM_NODEID"]
    with pytest.raises(UserError, match="--slurm is given, but SLURM_NODEID is not set"):
        elastic.slurm_options(environment)


def test_a_launcher_without_processes_ends_and_one_with_some_hands_the_signal_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.distributed.elastic.multiprocessing import api

    monkeypatch.setattr(api, "_terminate_process_handler", api._terminate_process_handler)  # restored after the test
    end = elastic.PassedOn()
    end.install()
    with pytest.raises(api.SignalException):
        api._terminate_process_handler(signal.SIGTERM, None)
    worker = subprocess.Popen(["sleep", "100"])
    try:
        api._terminate_process_handler(signal.SIGTERM, None)
        assert end.asked and worker.wait(timeout=20) == -signal.SIGTERM
        with pytest.raises(api.SignalException):
            api._terminate_process_handler(signal.SIGINT, None)
    finally:
        worker.kill()
