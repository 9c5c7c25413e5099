"""Slurm and grid engine, simulated by small programs that take the same arguments and start jobs as processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.array import JobError
from jobs.schedulers import SCHEDULERS, Configuration, configure
from tests.waiting import text, until

UTILS = Path(__file__).resolve().parents[2] / "utils"

# submit: records its arguments, starts each task of the array in the background, prints the job's number
SUBMIT = """#!{python}
import os, re, subprocess, sys
arguments = sys.argv[1:]
open("submitted", "a").write(repr(arguments) + chr(10))
if os.environ.get("FAKE_REFUSES"):
    sys.exit("error: Invalid partition name")
if len(open("submitted").readlines()) <= int(os.environ.get("FAKE_AWAY", "0")):
    sys.exit("error: Unable to contact slurm controller (or qmaster)")
span = arguments[arguments.index("{array}") + 1]
first, last = map(int, re.match(r"(\\d+)-(\\d+)", span).groups())
log = open(arguments[arguments.index("{output}") + 1], "a")
lost = os.environ.get("FAKE_LOSES", "").split()
pids = []
for number in range(first, last + 1):
    if str(number) not in lost:
        environment = dict(os.environ, {task}=str(number))
        process = subprocess.Popen(
            ["bash", arguments[-1]], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        pids.append(process.pid)
open("queue", "w").write(" ".join(map(str, pids)))
open("script", "w").write(arguments[-1])
if os.environ.get("FAKE_UNANSWERED"):
    sys.exit("error: Batch job submission failed: Socket timed out on send/recv operation")
print(os.environ.get("FAKE_SAYS", "") + "{answer}")
"""
# list: prints the array while one of its processes runs; a grid engine fails for an unknown job
LIST = """#!{python}
import os, pathlib, sys
def runs(pid):
    try:
        return pathlib.Path(f"/proc/{{pid}}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
open("asked", "a").write(".")
if os.environ.get("FAKE_DEAF"):
    sys.exit("error: cannot be reached")
if "%F %o" in sys.argv:
    print("17 /some/where/job.sh")
    sys.exit(print("4711", open("script").read()) if os.path.exists("script") else 0)
if any(map(runs, open("queue").read().split())):
    print(os.environ.get("FAKE_STATE", "4711 running"))
else:
    sys.exit({gone!r} or 0)
"""
CANCEL = """#!{python}
import os, signal, sys
open("cancelled", "w").write(" ".join(sys.argv[1:]))
if os.environ.get("FAKE_DEAF"):
    sys.exit("error: cannot be reached")
for pid in open("queue").read().split():
    try:
        os.kill(int(pid), signal.SIGTERM)
    except ProcessLookupError:
        pass
"""
PLAYERS = {
    "slurm.sh": {
        "sbatch": SUBMIT.format(
            python=sys.executable, array="--array", output="--output", task="SLURM_ARRAY_TASK_ID", answer="4711;cluster"
        ),
        "squeue": LIST.format(python=sys.executable, gone="slurm_load_jobs error: Invalid job id specified"),
        "scancel": CANCEL.format(python=sys.executable),
    },
    "queue.sh": {
        "qsub": SUBMIT.format(python=sys.executable, array="-t", output="-o", task="SGE_TASK_ID", answer="4711.1-3:1"),
        "qstat": LIST.format(python=sys.executable, gone="Following jobs do not exist: 4711"),
        "qdel": CANCEL.format(python=sys.executable),
    },
}


class Cluster:
    """A directory to submit from, and the programs of one scheduler on the PATH."""

    def __init__(self, runner: str, directory: Path) -> None:
        self.runner = runner
        self.directory = directory
        programs = directory / "bin"
        programs.mkdir()
        for name, program in PLAYERS[runner].items():
            (programs / name).write_text(program)
            (programs / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "RUN_JOBS_POLL": "0.05",
            "RUN_JOBS_LOST": "0.3",
            "RUN_JOBS_RETRY": "0.1 0.1",
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(UTILS / self.runner), *arguments],
            cwd=self.directory,
            env={**self.environment, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, **environment)
        error = process.communicate(timeout=60)[1]
        return process.returncode, error

    def lines(self, name: str) -> list[str]:
        return text(self.directory / name).splitlines()

    def submitted(self) -> list[str]:
        return eval(self.lines("submitted")[-1]) if self.lines("submitted") else []


@pytest.fixture(params=sorted(PLAYERS))
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster:
    return Cluster(request.param, tmp_path)


def test_an_array_runs_with_the_same_logs_as_here(cluster: Cluster) -> None:
    assert cluster.run("JOB=2:4", "log/a.JOB.log", "echo", "number JOB", "|", "tr", "n", "N") == (0, "")
    for number in (2, 3, 4):
        lines = (cluster.directory / f"log/a.{number}.log").read_text().splitlines()
        assert lines[0] == f"# echo 'number {number}' | tr n N" and lines[3] == f"Number {number}"
        assert lines[-1].startswith("# Ended (code 0)")
    assert not list((cluster.directory / "log" / "q").iterdir())


def test_a_single_job_needs_no_range(cluster: Cluster) -> None:
    assert cluster.run("a.log", "echo", "JOB") == (0, "")
    assert "\nJOB\n" in (cluster.directory / "a.log").read_text()


def test_path_sh_is_sourced_on_the_node_where_the_jobs_were_submitted(cluster: Cluster) -> None:
    (cluster.directory / "path.sh").write_text("export FROM_PATH_SH=yes\n")
    assert cluster.run("a.log", "bash", "-c", "echo $FROM_PATH_SH; pwd") == (0, "")
    assert f"\nyes\n{cluster.directory}\n" in (cluster.directory / "a.log").read_text()


def test_what_path_sh_had_to_say_is_shown(cluster: Cluster) -> None:
    (cluster.directory / "path.sh").write_text("echo 'no module named cuda/13' >&2\nfalse\n")
    status, error = cluster.run("a.log", "true")
    assert status == 1 and "\nerror: " in f"\n{error}" and "no module named cuda/13\n" in error


def test_failed_jobs_are_named(cluster: Cluster) -> None:
    status, error = cluster.run("JOB=1:3", "a.JOB.log", "bash", "-c", "exit $(( JOB == 2 ))")
    assert (status, error) == (1, "error: 1 of 3 jobs failed; see a.2.log\n")


def test_a_job_that_the_scheduler_ended_is_a_failed_one(cluster: Cluster) -> None:
    status, error = cluster.run("JOB=1:3", "a.JOB.log", "true", FAKE_LOSES="1 3")
    assert status == 1
    assert "ended without jobs 1, 3" in error and "error: 2 of 3 jobs failed; see a.1.log a.3.log" in error


def test_options_become_arguments_of_the_scheduler(cluster: Cluster) -> None:
    config = cluster.directory / "my.conf"
    submit = next(iter(PLAYERS[cluster.runner]))
    config.write_text(
        f"command {submit} --account 'a b'  # who pays\n"
        "option mem=* --mem-per-cpu $0\n"
        "option gpu=0\n"
        "option gpu=* --partition gpu --gres gpu:$0\n"
        "option num_threads=* -n $0\n"
        "default gpu=0\n"
        "default num_threads=2\n"
    )
    arguments = ["--config", "my.conf", "--mem", "8G", "--max-jobs-run", "3", "JOB=1:5", "a.JOB.log", "true"]
    assert cluster.run(*arguments) == (0, "")
    words = cluster.submitted()
    assert words[:2] == ["--account", "a b"]
    assert words[words.index("--mem-per-cpu") + 1] == "8G" and words[words.index("-n") + 1] == "2"
    assert "--partition" not in words
    assert "1-5%3" in words if cluster.runner == "slurm.sh" else words[words.index("-tc") + 1] == "3"
    assert cluster.run("--gpu", "2", *arguments) == (0, "")
    assert "gpu:2" in cluster.submitted() and "gpu" in cluster.submitted()


def test_the_recipes_own_configurations_are_understood(cluster: Cluster) -> None:
    conf = UTILS.parent / "egs/librispeech/conf" / ("slurm.conf" if cluster.runner == "slurm.sh" else "sge.conf")
    options = ["--mem", "4G", "--num-threads", "4", "--gpu", "1", "--time", "4:00:00", "--max-jobs-run", "2"]
    assert cluster.run("--config", str(conf), *options, "JOB=1:2", "a.JOB.log", "true") == (0, "")
    assert cluster.run(*options, "JOB=1:2", "a.JOB.log", "true") == (0, "")  # and the built-in one


@pytest.mark.parametrize("name", ["slurm.conf", "sge.conf"])
def test_kaldis_own_runners_understand_the_recipes_configurations(name: str) -> None:
    """They ignore a default below the options, and need a line for gpu=0."""
    lines = (UTILS.parent / "egs/TEMPLATE/conf" / name).read_text().splitlines()
    kinds = [line.split()[0] for line in lines if not line.startswith("#")]
    assert kinds == sorted(kinds, key=["command", "default", "option"].index)
    assert "option gpu=0" in lines


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--colour", "red"], "does not define --colour red"),
        (["--config", "absent.conf"], "absent.conf does not exist"),
    ],
)
def test_what_the_configuration_lacks_is_refused_before_submission(
    cluster: Cluster, arguments: list[str], complaint: str
) -> None:
    status, error = cluster.run(*arguments, "a.log", "true")
    assert status == 1 and complaint in error and error.count("\n") == 1
    assert not cluster.submitted()


def test_a_refusal_of_the_scheduler_is_told(cluster: Cluster) -> None:
    status, error = cluster.run("a.log", "true", FAKE_REFUSES="yes")
    assert status == 1 and "refused the jobs (error: Invalid partition name)" in error and error.count("\n") == 1
    assert not list((cluster.directory / "q").iterdir())


def test_a_scheduler_that_is_away_is_asked_again(cluster: Cluster) -> None:
    status, error = cluster.run("a.log", "true", FAKE_AWAY="2")
    assert status == 0 and error.count("was not reached (error: Unable") == 2 and error.count("warning: ") == 2
    (cluster.directory / "submitted").unlink()
    status, error = cluster.run("a.log", "true", FAKE_AWAY="3")
    assert status == 1 and error.splitlines()[-1].startswith("error: ") and "was not reached" in error
    assert not (cluster.directory / "cancelled").exists()


def test_a_submission_that_was_not_answered_is_looked_for(tmp_path: Path) -> None:
    """Jobs are submitted again only if the scheduler does not have them."""
    cluster = Cluster("slurm.sh", tmp_path)
    status, error = cluster.run("JOB=1:2", "a.JOB.log", "echo", "JOB", FAKE_UNANSWERED="yes")
    assert status == 0 and error.count("warning: ") == 1 and "was not reached (error: Batch job" in error
    assert len(cluster.lines("submitted")) == 1 and (tmp_path / "a.2.log").exists()
    sbatch = (tmp_path / "bin" / "sbatch").read_text()
    (tmp_path / "script").unlink()
    lost = 'if len(open("submitted").readlines()) == 2:\n    sys.exit("error: Socket timed out")\nspan ='
    (tmp_path / "bin" / "sbatch").write_text(sbatch.replace("span =", lost))
    status, error = cluster.run("a.log", "true")
    assert status == 0 and error.count("warning: ") == 1 and len(cluster.lines("submitted")) == 3


def test_one_that_may_have_the_jobs_and_cannot_be_asked_is_told(tmp_path: Path) -> None:
    cluster = Cluster("slurm.sh", tmp_path)
    status, error = cluster.run("a.log", "true", FAKE_UNANSWERED="yes", FAKE_DEAF="yes")
    lines = error.splitlines()
    assert status == 1 and len(cluster.lines("submitted")) == 1
    assert lines[-1].startswith("error: Slurm may have the jobs")
    assert lines[-2].startswith("warning: Slurm may have jobs of ") and lines[-2].endswith("check whether they run")


ASKED_OFTEN = "until [ -e asked ] && [ $(wc -c < asked) -ge 20 ]; do sleep 0.02; done"  # over a second's worth of polls
UNTIL_TOLD = "touch started; until [ -e told ]; do sleep 0.02; done"


def test_one_that_cannot_be_asked_is_waited_for_and_that_told(cluster: Cluster) -> None:
    status, error = cluster.run("a.log", "bash", "-c", ASKED_OFTEN, FAKE_DEAF="yes")
    assert status == 0 and "fails (error: cannot be reached); still waiting for " in error and error.count("\n") == 1
    process = cluster.start("a.log", "bash", "-c", UNTIL_TOLD, FAKE_DEAF="yes", RUN_JOBS_LOST="100")
    until((cluster.directory / "started").exists)
    process.terminate()
    error = process.communicate(timeout=60)[1]
    (cluster.directory / "told").touch()
    assert "4711 failed (error: cannot be reached); check whether its jobs still run" in error


def test_what_holds_jobs_up_is_told_once(cluster: Cluster) -> None:
    state = "PENDING JobHeldAdmin" if cluster.runner == "slurm.sh" else "error reason  1: can't chdir"
    status, error = cluster.run("a.log", "bash", "-c", ASKED_OFTEN, FAKE_STATE=state)
    assert status == 0 and error.count("\n") == 1 and "job 4711 will not run by itself (" in error
    assert state.split(" ", 1)[-1].split("  ")[-1] in error


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("PartitionConfig", True),  # --num-nodes 2 with only one node
        ("QOSMaxWallDurationPerJobLimit", True),
        ("MaxMemPerLimit", True),
        ("Resources", False),
        ("Priority", False),
        ("QOSMaxJobsPerUserLimit", False),
        ("AssocGrpGRES", False),
    ],
)
def test_what_no_waiting_helps_is_told_apart(tmp_path: Path, reason: str, told: bool) -> None:
    cluster, state = Cluster("slurm.sh", tmp_path), f"PENDING {reason}"
    status, error = cluster.run("a.log", "bash", "-c", ASKED_OFTEN, FAKE_STATE=state)
    assert status == 0 and (f"will not run by itself ({reason}); " in error) is told


def test_a_site_may_say_more_on_submission(cluster: Cluster) -> None:
    process = cluster.start("a.log", "bash", "-c", "touch started; sleep 100", FAKE_SAYS="Welcome to cluster 9\n")
    until((cluster.directory / "started").exists)
    process.terminate()
    process.communicate(timeout=60)
    assert (cluster.directory / "cancelled").read_text() == "4711"


def test_jobs_are_named_by_their_logs_and_know_nothing_of_a_job_around_them(cluster: Cluster) -> None:
    look = "grep -h -e '^#SBATCH' -e '^#[$]' log/q/*/job.sh; echo mem=$SLURM_MEM_PER_NODE conf=$SLURM_CONF"
    outer = {"SLURM_JOB_ID": "3", "SLURM_MEM_PER_NODE": "1024", "SLURM_CONF": "here"}
    mark = "#SBATCH --job-name" if cluster.runner == "slurm.sh" else "#$ -N"
    for log, name in {"2 feats-x.JOB.log": "job-2_feats-x", "JOB.log": "job-", "a b.JOB": "a_b"}.items():
        assert cluster.run("JOB=1:2", f"log/{log}", "bash", "-c", look, **outer) == (0, "")
        text = (cluster.directory / "log" / log.replace("JOB", "2")).read_text()
        assert f"\n{mark} {name}\nmem= conf=here\n" in text


def test_a_machine_without_the_scheduler_is_told(cluster: Cluster) -> None:
    programs = cluster.directory / "bin"
    for name in ("bash", "dirname", "env"):  # the machine itself may have the scheduler
        (programs / name).symlink_to(shutil.which(name) or name)
    (programs / "python3").symlink_to(sys.executable)  # the one on the PATH may be a script that needs the whole PATH
    for name in reversed(PLAYERS[cluster.runner]):
        (programs / name).unlink()
        status, error = cluster.run("a.log", "true", PATH=str(programs))
        assert status == 1 and f"{name} is not on the PATH; submit from" in error and error.count("\n") == 1
    assert not cluster.submitted()


def test_a_signal_cancels_the_jobs(cluster: Cluster) -> None:
    process = cluster.start("JOB=1:2", "a.JOB.log", "bash", "-c", "touch started.JOB; sleep 100")
    until(lambda: len(list(cluster.directory.glob("started.*"))) == 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert (cluster.directory / "cancelled").read_text() == "4711"
    log = cluster.directory / "a.1.log"
    until(lambda: "# Ended" in text(log))
    assert "# Ended (code 143)" in text(log)


def test_jobs_of_a_killed_recipe_are_cancelled(cluster: Cluster) -> None:
    recipe = f"{UTILS / cluster.runner} a.log bash -c 'touch started; sleep 100' & wait"
    environment = {**cluster.environment, "RUN_JOBS_END_WITH_PARENT": "true"}
    process = subprocess.Popen(["bash", "-c", recipe], cwd=cluster.directory, env=environment)
    until((cluster.directory / "started").exists)
    process.kill()
    process.wait()
    until((cluster.directory / "cancelled").exists)


@pytest.mark.parametrize(
    "text",
    [
        "command",
        "option mem 4",
        "option mem=",
        "default gpu",
        "default gpu=0 1",
        "options mem=*",
        "option mem=* $0",
        "command sbatch --comment it's",
        "command sbatch\noption mem=* --mem '$0",
    ],
)
def test_a_malformed_configuration_names_its_line(text: str) -> None:
    with pytest.raises(JobError, match="x.conf"):  # the last one is well-formed but has no command
        Configuration.parse(f"# comment\n{text}\n", "x.conf")


def test_a_value_of_its_own_takes_precedence_and_the_given_over_the_default() -> None:
    config = Configuration.parse("command c\noption a=* --any $0\noption a=1 --one\ndefault a=7", "x.conf")
    assert config.arguments({}) == ["c", "--any", "7"]
    assert config.arguments({"a": "1"}) == ["c", "--one"]
    assert config.arguments({"a": "2 3"}) == ["c", "--any", "2 3"]


def test_a_site_may_write_its_configuration_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tabs, line ends and byte order mark of another system, another encoding, variables, the first of two defaults."""
    monkeypatch.setenv("ACCOUNT", "speech")
    text = "command\tsbatch --account $ACCOUNT # na\xefve\noption\tmem=*\t--mem=$0,$ACCOUNT\noption gpu=*\t-G $0\n"
    text += "default gpu=1\ndefault gpu=2\n"
    path = tmp_path / "x.conf"
    for encoding, end in (("utf-8-sig", "\r\n"), ("latin-1", "\n")):
        path.write_bytes(text.replace("\n", end).encode(encoding))
        words = configure(SCHEDULERS["slurm"], {"config": str(path)}).arguments({"mem": "$0G"})
        assert words == ["sbatch", "--account", "speech", "-G", "1", "--mem=$0G,speech"]


def test_both_kinds_of_cluster_have_a_configuration_that_parses() -> None:
    for scheduler in SCHEDULERS.values():
        assert Configuration.parse(scheduler.default_config, "built-in").command
