"""A real Slurm, private to the tests: arrays, jobs that are queued again and resume, several nodes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pruning.experiments import directory
from tests.training.test_interruption import SETTINGS
from tests.training.test_interruption import finish as finish_here
from tests.training.test_interruption import start as start_here
from tests.training.test_trainer import assert_equal_experiments, rows, weights
from tests.waiting import text, until

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
command sbatch
option partition=* --partition $0
option time=* --time $0
option gpu=0
option gpu=* --gres gpu:$0
option num_nodes=* --nodes $0 --ntasks-per-node 1
option signal=* --signal $0
"""
TOY = [sys.executable, "-m", "tests.training.toy"]
pytestmark = pytest.mark.waits
SLOWLY = ["--delay", "0.5", "--hurry", "hurry"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yield the environment of a private cluster of two nodes."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed; on Debian: apt-get install slurm-wlm munge")
    directory = tmp_path_factory.mktemp("slurm")
    script = str(ROOT / "tests" / "utils" / "private_slurm.sh")
    started = subprocess.run([script, "start", str(directory), "2"], capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    yield {**os.environ, "SLURM_CONF": str(directory / "slurm.conf"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
           "RUN_JOBS_POLL": "0.5", "RUN_JOBS_LOST": "5"}  # fmt: skip
    subprocess.run([script, "stop", str(directory)], check=True)


class Runner:
    """Run commands through slurm.sh in the directory of a test."""

    def __init__(self, environment: dict[str, str], directory: Path) -> None:
        self.environment, self.directory = environment, directory
        self.started: list[subprocess.Popen[str]] = []
        (directory / "slurm.conf").write_text(CONFIG)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [str(ROOT / "utils" / "slurm.sh"), "--config", "slurm.conf", *arguments]
        self.started.append(
            subprocess.Popen(command, cwd=self.directory, env=self.environment, stderr=subprocess.PIPE, text=True)
        )
        return self.started[-1]

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def job(self) -> str:
        """Wait for the only running job and return its number."""
        asked = ("squeue", "--noheader", "--states", "running", "--format", "%A")
        return until(lambda: self.ask(*asked).strip(), seconds=120)


@pytest.fixture
def runner(cluster: dict[str, str], tmp_path: Path) -> Iterator[Runner]:
    found = Runner(cluster, tmp_path)
    yield found
    for process in found.started:  # left by a failed test
        if process.poll() is None:
            process.terminate()
            process.communicate()
    subprocess.run(["scancel", "--user", str(os.getuid())], env=cluster, check=False)


def finish(process: subprocess.Popen[str]) -> str:
    try:
        error = process.communicate(timeout=300)[1]
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    assert process.returncode == 0, error
    return error


@pytest.fixture(scope="module")
def whole_run(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp_dir = tmp_path_factory.mktemp("whole")
    finish_here(start_here(exp_dir))
    return exp_dir


def until_it_trains(runner: Runner) -> None:
    exp_dir = runner.directory / "exp"
    until(lambda: (exp_dir / "metrics.jsonl").exists() and rows(exp_dir), seconds=120)


def until_it_can_resume(runner: Runner) -> None:
    until(lambda: directory.resumable_state(runner.directory / "exp"), seconds=120)


def log(runner: Runner) -> str:
    return text(runner.directory / "train.log")


def hurry_once(runner: Runner, mark: str, count: int = 1) -> None:
    """Slow the training down until its log contains ``mark`` ``count`` times, so that it is not done before."""
    until(lambda: log(runner).count(mark) >= count, seconds=240)
    (runner.directory / "hurry").touch()


@pytest.mark.processes
def test_an_array_and_a_failure_in_it(runner: Runner) -> None:
    options = ["--max-jobs-run", "3", "--gpu", "1"]
    finish(runner.start(*options, "JOB=1:5", "log/a.JOB.log", "bash", "-c", "echo JOB of $SLURM_ARRAY_TASK_MAX"))
    for number in range(1, 6):
        text = (runner.directory / f"log/a.{number}.log").read_text()
        assert f"\n{number} of 5\n" in text and "# Ended (code 0)" in text
    failing = runner.start("JOB=1:3", "log/b.JOB.log", "bash", "-c", "exit $(( JOB == 2 ))")
    assert failing.communicate(timeout=120)[1] == "error: 1 of 3 jobs failed; see log/b.2.log\n"
    refused = runner.start("--gpu", "9", "c.log", "true")
    error = refused.communicate(timeout=120)[1]
    assert error.startswith("error: Slurm refused the jobs (") and error.count("\n") == 1 and refused.returncode == 1


@pytest.mark.processes
@pytest.mark.parametrize("accepted", [True, False])
def test_a_submission_that_was_not_answered_becomes_one_array(runner: Runner, accepted: bool) -> None:
    submit = shutil.which("sbatch") if accepted else "true"
    unanswered = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    (runner.directory / "bin").mkdir()
    wrapper = runner.directory / "bin" / "sbatch"
    wrapper.write_text(f'#!/bin/bash\nrm -f {wrapper}\n{submit} "$@" > /dev/null\necho {unanswered} >&2\nexit 1\n')
    wrapper.chmod(0o755)
    runner.environment = {**runner.environment, "PATH": f"{wrapper.parent}:{runner.environment['PATH']}",
                          "RUN_JOBS_RETRY": "1 1 1"}  # fmt: skip
    error = finish(runner.start("JOB=1:2", "a.JOB.log", "bash", "-c", "echo JOB >> ran"))
    assert error.count("\n") == 1 and "Slurm was not reached (sbatch: error: Batch job" in error
    assert sorted((runner.directory / "ran").read_text().split()) == ["1", "2"]


@pytest.mark.processes
def test_kaldis_slurm_pl_runs_a_stage_with_the_recipes_configuration(runner: Runner) -> None:
    kaldi = os.environ.get("KALDI_UTILS")
    if not kaldi:
        pytest.skip("KALDI_UTILS is not set; set it to the utils/ of a Kaldi recipe")
    (runner.directory / "path.sh").touch()  # slurm.pl requires one
    conf = ROOT / "egs/TEMPLATE/conf/slurm.conf"
    script = (f"set -euo pipefail; stage=0 stop_stage=9; . {ROOT}/utils/stage.sh; in_stage 1\n"
              f"run_logged array log/a.JOB.log {kaldi}/slurm.pl --mem 4G --config {conf} --gpu 1 JOB=1:2 -- "
              "printf '<%s>' JOB 'two words' 'a{b,c}$HOME'")  # fmt: skip
    subprocess.run(["bash", "-c", script], cwd=runner.directory, env=runner.environment, check=True)
    for number in (1, 2):
        text = (runner.directory / f"log/a.{number}.log").read_text()
        assert f"<{number}><two words><a{{b,c}}$HOME># Accounting" in text.replace("\n", "")


@pytest.mark.processes
def test_of_an_array_only_the_job_that_asks_for_it_is_queued_again(runner: Runner) -> None:
    script = "[ ${SLURM_RESTART_COUNT:-0} -gt 0 ] || exit $(( JOB == 2 ? 75 : 0 ))"
    finish(runner.start("JOB=1:2", "a.JOB.log", "bash", "-c", script))
    starts = [(runner.directory / f"a.{number}.log").read_text().count("# Started at") for number in (1, 2)]
    assert starts == [1, 2]


@pytest.mark.processes
def test_a_signal_before_the_time_limit_and_it_ends_as_if_undisturbed(runner: Runner, whole_run: Path) -> None:
    """Use Slurm's real clock: limits are in minutes, and the signal may come a minute earlier than requested.

    The signal comes between 15 and 75 s after the start; the training would take 112 s.
    """
    settings = ["--delay", "4", "--hurry", "hurry", str(runner.directory / "exp"), *SETTINGS]
    process = runner.start("--time", "2", "--signal", "B:TERM@45", "train.log", *TOY, *settings)
    hurry_once(runner, "# Ended (code 75)")
    finish(process)
    assert log(runner).count("# Ended (code 75)") >= 1 and log(runner).count("# Ended (code 0)") == 1
    assert_equal_experiments(whole_run, runner.directory / "exp")


@pytest.mark.processes
@pytest.mark.parametrize("disturbance", ["requeued", "killed with its node", "preempted"])
def test_what_slurm_takes_from_its_node_goes_on(runner: Runner, whole_run: Path, disturbance: str) -> None:
    settings = [*SLOWLY, str(runner.directory / "exp"), *SETTINGS, "state_interval=1"]
    process = runner.start("--partition", "spare", "train.log", *TOY, *settings)
    until_it_can_resume(runner)
    job = runner.job()
    if disturbance == "requeued":
        runner.ask("scontrol", "requeue", job)
    elif disturbance == "preempted":  # preempted by a job that takes all nodes
        other = ["sbatch", "--partition", "main", "--nodes", "2", "--cpus-per-task", "2"]
        runner.ask(*other, "--output", "/dev/null", "--wrap", "true")
    else:
        node = runner.ask("squeue", "--noheader", "--jobs", job, "--format", "%N").strip()
        lose_node(runner, job, node)
    hurry_once(runner, "# Started at", 2)
    finish(process)
    assert log(runner).count("# Started at") == 2, "both starts write to one log"
    assert_equal_experiments(whole_run, runner.directory / "exp")


def lose_node(runner: Runner, job: str, node: str) -> None:
    """Send SIGKILL to all processes of a job on a node that is down, as after a power loss; then bring it up again."""
    runner.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    marks = {f"SLURM_JOB_ID={job}".encode(), f"SLURMD_NODENAME={node}".encode()}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marks <= set(path.read_bytes().split(b"\0")):
                os.kill(int(path.parent.name), signal.SIGKILL)
        except OSError:
            continue
    resume = ["scontrol", "update", f"NodeName={node}", "State=RESUME"]
    subprocess.run(resume, env=runner.environment, capture_output=True, check=False)  # it may have come back by itself


@pytest.mark.processes
def test_a_cancelled_job_is_a_failure_and_not_queued_again(runner: Runner) -> None:
    process = runner.start("train.log", *TOY, *SLOWLY, str(runner.directory / "exp"), *SETTINGS)
    until_it_trains(runner)
    runner.ask("scancel", runner.job())
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 1 and "ended without jobs 1" in error
    assert "# Ended (code 75)" in log(runner) and directory.resumable_state(runner.directory / "exp") is not None
    assert not runner.ask("squeue", "--noheader").strip()


@pytest.mark.processes
def test_torchrun_is_asked_to_stop_and_goes_on(runner: Runner, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "pruning.bin.torchrun", "--standalone", "--nproc_per_node", "2"]
    settings = [*SLOWLY, str(runner.directory / "exp"), *SETTINGS, "num_epochs=2"]
    process = runner.start("--gpu", "2", "train.log", *launcher, *TOY[1:], *settings)
    until_it_trains(runner)
    runner.ask("scancel", "--batch", "--signal", "TERM", runner.job())
    hurry_once(runner, "# Ended (code 75)")
    finish(process)
    assert "# Ended (code 75)" in log(runner) and "resuming" in log(runner)
    assert_as_here(runner, tmp_path / "here")


@pytest.mark.processes
@pytest.mark.parametrize("disturbance", ["asked to stop", "one killed", "a node lost"])
def test_two_nodes_are_one_training(runner: Runner, tmp_path: Path, disturbance: str) -> None:
    launcher = ["srun", "--wait", "60", sys.executable, "-m", "pruning.bin.torchrun", "--slurm", "--nproc_per_node",
                "1", "--max_restarts", "3"]  # fmt: skip
    settings = [*SLOWLY, str(runner.directory / "exp"), *SETTINGS, "num_epochs=2", "state_interval=2"]
    process = runner.start("--num-nodes", "2", "train.log", *launcher, *TOY[1:], *settings)
    until_it_can_resume(runner)
    if disturbance == "one killed":
        subprocess.run(["pkill", "--newest", "-KILL", "-f", f"{TOY[2]}.*{runner.directory}"], check=True)
    elif disturbance == "a node lost":
        lose_node(runner, runner.job(), "node2")
    else:
        runner.ask("scancel", "--batch", "--signal", "TERM", runner.job())
    hurry_once(runner, "resuming")
    finish(process)
    assert log(runner).count("# Started at") == (1 if disturbance == "one killed" else 2)
    assert_as_here(runner, tmp_path / "here")


def assert_as_here(runner: Runner, exp_dir: Path) -> None:
    """Check that the weights equal those of two undisturbed processes on this machine."""
    finish_here(start_here(exp_dir, "num_epochs=2", launcher=["-m", "pruning.bin.torchrun", "--standalone",
                                                              "--nproc_per_node=2"]))  # fmt: skip
    for name, tensor in weights(exp_dir / "epoch-2.safetensors").items():
        assert torch.equal(tensor, weights(runner.directory / "exp" / "epoch-2.safetensors")[name]), name
