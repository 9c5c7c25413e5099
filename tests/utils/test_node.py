"""Jobs on a node that are queued again, and others. Slurm is simulated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import pytest

from tests.waiting import until

UTILS = Path(__file__).resolve().parents[2] / "utils"
RUN_JOBS = [sys.executable, str(UTILS / "run_jobs.py")]
SQUEUE = '#!/bin/sh\necho "$@" >> asked\ncat state\n'
SCONTROL = """#!/bin/sh
echo "$@" >> asked
[ ! -e refuses ] || { echo 'Operation is disabled' >&2; exit 1; }
[ ! -e away ] || { rm away; echo 'Unexpected message received for job 47_3' >&2; exit 1; }
"""


class Node:
    """Run the job part of ``slurm.sh`` as Slurm starts it on a node; its Slurm commands are in ``asked``."""

    def __init__(self, directory: Path, state: str) -> None:
        self.directory = directory
        (directory / "bin").mkdir()
        for name, text in {"squeue": SQUEUE, "scontrol": SCONTROL, "scancel": SCONTROL}.items():
            (directory / "bin" / name).write_text(text)
            (directory / "bin" / name).chmod(0o755)
        (directory / "state").write_text(state)

    def start(self, scheduler: str, *command: str, program: Sequence[str] = RUN_JOBS) -> subprocess.Popen[bytes]:
        jobs = {"log": "a.JOB.log", "command": command, "first": 3, "last": 3, "variable": "JOB"}
        (self.directory / "jobs.json").write_text(json.dumps(jobs))
        environment = {**os.environ, "PATH": f"{self.directory}/bin:{os.environ['PATH']}",
                       "SLURM_ARRAY_JOB_ID": "47", "SLURM_ARRAY_TASK_ID": "3", "RUN_JOBS_RETRY": "0.1 0.1"}  # fmt: skip
        arguments = [*program, "--run-one", scheduler, "jobs.json", "3", "done.3"]
        return subprocess.Popen(arguments, cwd=self.directory, env=environment)

    def run(self, scheduler: str, *command: str, told: Optional[signal.Signals] = None) -> int:
        process = self.start(scheduler, *command)
        if told is not None:
            until((self.directory / "ready").exists)
            process.send_signal(told)
        return process.wait(timeout=60)

    @property
    def asked(self) -> str:
        path = self.directory / "asked"
        return path.read_text() if path.exists() else ""

    @property
    def status(self) -> Optional[str]:
        """Return the status that the job left for the waiting process."""
        path = self.directory / "done.3"
        return path.read_text().strip() if path.exists() else None


SAVES = ("bash", "-c", "trap 'exit 75' TERM; touch ready; while true; do sleep 0.1; done")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_that_saved_its_state_is_queued_again(tmp_path: Path, number: signal.Signals) -> None:
    node = Node(tmp_path, "RUNNING None")
    assert node.run("slurm", *SAVES, told=number) == 75
    assert node.status is None and "requeue 47_3\n" in node.asked
    assert node.run("slurm", "echo", "gone on") == 0
    log = (tmp_path / "a.3.log").read_text()
    assert "(code 75)" in log and "\ngone on\n" in log and node.status == "0", "the second start appends to the log"


def test_so_is_one_at_its_time_limit_and_one_that_asks_unprompted(tmp_path: Path) -> None:
    node = Node(tmp_path, "COMPLETING TimeLimit")
    assert node.run("slurm", *SAVES, told=signal.SIGTERM) == 75
    assert node.status is None and "requeue 47_3\n" in node.asked
    (tmp_path / "state").write_text("RUNNING None")
    assert node.run("slurm", "bash", "-c", "exit 75") == 75
    assert node.status is None and node.asked.count("requeue 47_3\n") == 2


@pytest.mark.parametrize("state", ["COMPLETING None", "PENDING BeginTime"])
def test_where_slurm_ends_a_job_slurm_decides(tmp_path: Path, state: str) -> None:
    """Cancelled or preempted: the waiting process sees whether the job still exists."""
    node = Node(tmp_path, state)
    assert node.run("slurm", *SAVES, told=signal.SIGTERM) == 75
    assert node.status is None and "requeue" not in node.asked


def test_a_failure_is_one_however_the_job_was_told_to_end(tmp_path: Path) -> None:
    node = Node(tmp_path, "RUNNING None")
    assert node.run("slurm", "bash", "-c", "touch ready; sleep 100", told=signal.SIGTERM) == 143
    assert node.status == "143" and "requeue" not in node.asked


@pytest.mark.parametrize(("scheduler", "status"), [("slurm", 75), ("sge", 99)])
def test_a_command_that_gets_nowhere_is_not_run_for_ever(tmp_path: Path, scheduler: str, status: int) -> None:
    node = Node(tmp_path, "RUNNING None")
    again = ("bash", "-c", "exit 75")
    for _ in range(9):
        assert node.run(scheduler, *again) == status and node.status is None
    assert node.run(scheduler, *SAVES, told=signal.SIGTERM) == status and node.status is None, (
        "after a signal the count starts again"
    )
    for _ in range(9):
        assert node.run(scheduler, *again) == status and node.status is None
    assert node.run(scheduler, *again) == 75 and node.status == "75"
    assert "error: the command has requested a rerun 10 times" in (tmp_path / "a.3.log").read_text()


TOLD_AT_ONCE = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from jobs import node
import run_jobs

class Told(ThreadPoolExecutor):
    def submit(self, *work):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().submit(*work)

node.ThreadPoolExecutor = Told
sys.exit(run_jobs.main(sys.argv[1:]))
"""


def test_one_that_is_told_while_it_starts_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path, "RUNNING None")
    monkeypatch.setenv("PYTHONPATH", str(UTILS))
    process = node.start("slurm", "bash", "-c", "sleep 100", program=[sys.executable, "-c", TOLD_AT_ONCE])
    assert process.wait(timeout=60) == 143 and node.status == "143"


def test_a_slurm_that_does_not_requeue_is_told_in_the_log(tmp_path: Path) -> None:
    node = Node(tmp_path, "RUNNING None")
    (tmp_path / "refuses").touch()
    assert node.run("slurm", "bash", "-c", "exit 75") == 75
    assert node.status == "75"
    last = (tmp_path / "a.3.log").read_text().splitlines()[-1]
    assert last == "error: Slurm did not requeue this job (Operation is disabled); run the same command again"


def test_a_controller_that_is_away_is_asked_again(tmp_path: Path) -> None:
    """For example, it may be restarted while a job saves its state at its time limit."""
    node = Node(tmp_path, "RUNNING None")
    (tmp_path / "away").touch()
    assert node.run("slurm", *SAVES, told=signal.SIGTERM) == 75
    assert node.status is None and node.asked.count("requeue 47_3\n") == 2
    assert "error: " not in (tmp_path / "a.3.log").read_text()


def test_a_grid_engine_is_asked_by_a_status_of_its_own(tmp_path: Path) -> None:
    node = Node(tmp_path, "")
    assert node.run("sge", *SAVES, told=signal.SIGUSR2) == 99
    assert node.status is None and not node.asked
    assert node.run("sge", "bash", "-c", "exit 3") == 3 and node.status == "3"


def test_tasks_of_srun_are_told_by_slurm(tmp_path: Path) -> None:
    node = Node(tmp_path, "RUNNING None")
    srun = "#!/bin/sh\ntouch ready\nuntil grep -q 'TERM 47_3' asked; do sleep 0.1; done\nexit 75\n"
    (tmp_path / "bin" / "srun").write_text(srun)
    (tmp_path / "bin" / "srun").chmod(0o755)
    (tmp_path / "asked").touch()
    assert node.run("slurm", "srun", "true", told=signal.SIGTERM) == 75
    assert "--signal TERM 47_3\n" in node.asked and "requeue 47_3\n" in node.asked
