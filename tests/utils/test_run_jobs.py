"""The job runner on this machine: Kaldi's interface, and no process outlives it."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.array import OPERATORS, JobError, Jobs, parse
from tests.waiting import alive, text, until

UTILS = Path(__file__).resolve().parents[2] / "utils"
RUN = str(UTILS / "run.sh")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RUN, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_job_number_is_replaced_in_the_log_and_every_argument(tmp_path: Path) -> None:
    result = run("JOB=2:4", "log/JOB/a.JOB.log", "echo", "xJOBy", "JOB", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    for number in (2, 3, 4):
        assert f"\nx{number}y {number}\n" in (tmp_path / f"log/{number}/a.{number}.log").read_text()
    assert not (tmp_path / "log/1").exists()


def test_a_log_says_what_ran_when_and_how_it_ended(tmp_path: Path) -> None:
    assert (
        run("--num-threads", "3", "a.log", "bash", "-c", "echo out; echo err >&2; exit 7", cwd=tmp_path).returncode == 1
    )
    lines = (tmp_path / "a.log").read_text().splitlines()
    assert lines[0] == "# bash -c 'echo out; echo err >&2; exit 7'"
    assert lines[1].startswith("# Started at ") and lines[2:5] == ["#", "out", "err"]
    assert re.fullmatch(r"# Accounting: time=\d+ threads=3", lines[5])
    assert re.fullmatch(r"# Ended \(code 7\) at .*", lines[6])


def test_options_stand_before_and_after_the_range() -> None:
    jobs = parse(shlex.split("--mem 8G JOB=1:3 --num-threads 2 --max-jobs-run 2 x.JOB.log prog --mem JOB"))
    assert jobs.options == {"mem": "8G", "num_threads": "2", "max_jobs_run": "2"}
    assert (jobs.first, jobs.last, jobs.log, jobs.command) == (1, 3, "x.JOB.log", ["prog", "--mem", "JOB"])


def test_another_word_may_stand_for_the_number(tmp_path: Path) -> None:
    assert run("LMWT=7:8", "a.LMWT.log", "echo", "JOB", "LMWT", cwd=tmp_path).returncode == 0
    assert "\nJOB 8\n" in (tmp_path / "a.8.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["JOB=1:2", "a.log", "true"], "put JOB in its name"),
        (["JOB=0:2", "a.JOB.log", "true"], "numbers start at 1"),
        (["JOB=3:2", "a.JOB.log", "true"], "not a range"),
        (["JOB=1:2", "JOB=1:3", "a.JOB.log", "true"], "more than one range"),
        (["--max-jobs-run", "0", "a.log", "true"], "positive number"),
        (["--num-threads", "two", "a.log", "true"], "positive number"),
        (["-l", "mem=1", "a.log", "true"], "--name value"),
        (["a.log"], "no log or no command"),
        (["--mem"], "no value"),
        (["--mem", "--gpu", "1", "a.log", "true"], "--mem has no value"),
        (["JOB=1:", "a.JOB.log", "true"], "JOB=1: is not a range"),
        (["JOB=1:x", "a.JOB.log", "true"], "not a range"),
        (["JOB=1:2:3", "a.JOB.log", "true"], "not a range"),
        (["JOB=1-3", "a.JOB.log", "true"], "not a range"),
        (["JOB=", "a.JOB.log", "true"], "not a range"),
        (["", "true"], "empty"),
        (["a.log", ""], "empty"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and complaint in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_failed_jobs_are_named(tmp_path: Path) -> None:
    result = run("JOB=1:4", "a.JOB.log", "bash", "-c", "exit $(( JOB % 2 ))", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "error: 2 of 4 jobs failed; see a.1.log a.3.log\n"
    assert "# Ended (code 0)" in (tmp_path / "a.4.log").read_text()


def test_a_missing_program_is_a_failed_job(tmp_path: Path) -> None:
    assert run("a.log", "no-such-program", cwd=tmp_path).returncode == 1
    assert "# Ended (code 127)" in (tmp_path / "a.log").read_text()


def test_what_the_shell_itself_does_is_a_command_too(tmp_path: Path) -> None:
    """Kaldi's runners pass the words to bash: builtins, and assignments before a command, work there."""
    assert run("a.log", "exit", "3", cwd=tmp_path).returncode == 1
    assert "# Ended (code 3)" in (tmp_path / "a.log").read_text()
    assert run("JOB=1:1", "b.JOB.log", "A=JOB $x", "B=", "printenv", "A", cwd=tmp_path).returncode == 0
    assert "\n1 $x\n" in (tmp_path / "b.1.log").read_text()
    (tmp_path / "set.sh").write_text("echo sourced\n")
    assert run("c.log", "source", "./set.sh", cwd=tmp_path).returncode == 0
    assert "\nsourced\n" in (tmp_path / "c.log").read_text()


def test_arguments_may_be_of_any_bytes(tmp_path: Path) -> None:
    word = b"na\xefve.wav"
    result = subprocess.run([RUN.encode(), b"a.log", b"echo", word], cwd=tmp_path, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"\n" + word + b"\n" in (tmp_path / "a.log").read_bytes()


def test_there_may_be_very_many_arguments(tmp_path: Path) -> None:
    assert run("a.log", "echo", *["x" * 100] * 2000, cwd=tmp_path).returncode == 0


def test_a_killed_job_has_the_signal_in_its_status(tmp_path: Path) -> None:
    assert run("a.log", "bash", "-c", "kill -KILL $$", cwd=tmp_path).returncode == 1
    assert "# Ended (code 137)" in (tmp_path / "a.log").read_text()


def test_operators_keep_their_meaning_and_a_failing_pipe_fails(tmp_path: Path) -> None:
    assert (
        run("JOB=1:1", "a.JOB.log", "echo", "JOB two", "|", "tr", "a-z", "A-Z", ">", "out.JOB", cwd=tmp_path).returncode
        == 0
    )
    assert (tmp_path / "out.1").read_text() == "1 TWO\n"
    assert run("b.log", "false", "|", "cat", cwd=tmp_path).returncode == 1


PRINTABLE = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF, exclude_categories=["Cs"]), max_size=12)


@given(st.lists(PRINTABLE.filter(lambda word: word not in OPERATORS), max_size=4))
def test_arguments_reach_the_command_as_they_are(words: list[str]) -> None:
    line = Jobs("a.log", ["printf", "%s\\0", *words, "end"]).shell_line(1)
    output = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert output.decode().split("\0")[:-1] == [*words, "end"]


# jobs that wait until two have begun, and mark when they begin and end; short appended writes are atomic
TWO_BEGIN = "printf + >> marks; for look in {1..2000}; do ! grep -q -e '+.*+' marks || break; sleep 0.02; done; "


def test_no_more_jobs_at_once_than_asked(tmp_path: Path) -> None:
    script = TWO_BEGIN + "sleep 0.1; printf - >> marks"
    assert run("--max-jobs-run", "2", "JOB=1:5", "a.JOB.log", "bash", "-c", script, cwd=tmp_path).returncode == 0
    marks = (tmp_path / "marks").read_text()
    at_once = list(itertools.accumulate({"+": 1, "-": -1}[mark] for mark in marks))
    assert len(marks) == 10 and max(at_once) == 2, marks


def test_jobs_that_want_gpus_share_them_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nfor n in 0 1 2 3 4; do echo GPU $n: some name; done\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = ("mine=running.$CUDA_VISIBLE_DEVICES; mkdir $mine || exit 1; " + TWO_BEGIN +
              "sleep 0.1; rmdir $mine; echo gpus $CUDA_VISIBLE_DEVICES")  # fmt: skip
    assert run("--gpu", "2", "JOB=1:5", "a.JOB.log", "bash", "-c", script, cwd=tmp_path).returncode == 0
    logs = [(tmp_path / f"a.{number}.log").read_text().splitlines() for number in range(1, 6)]
    assert {log[3] for log in logs} == {"gpus 0,1", "gpus 2,3"}, "and never two jobs in one share"
    for options in (["--gpu", "9", "JOB=1:2"], ["--gpu", "0", "JOB=1:2"], ["--gpu", "2"]):
        line = "echo gpus ${CUDA_VISIBLE_DEVICES-all}"
        assert run(*options, "b.JOB.log", "bash", "-c", line, cwd=tmp_path).returncode == 0
    assert all("gpus all" in path.read_text() for path in tmp_path.glob("b.*.log"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert run("--gpu", "1", "JOB=1:2", "c.JOB.log", "printenv", "CUDA_VISIBLE_DEVICES", cwd=tmp_path).returncode == 0
    assert {(tmp_path / f"c.{number}.log").read_text().splitlines()[3] for number in (1, 2)} == {"3", "5"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_jobs_and_all_they_started(tmp_path: Path, number: signal.Signals) -> None:
    script = "sleep 100 & echo $! > child.JOB; echo $$ > self.JOB; wait"
    process = subprocess.Popen([RUN, "--max-jobs-run", "2", "JOB=1:3", "a.JOB.log", "bash", "-c", script], cwd=tmp_path)
    files = [tmp_path / f"{who}.{job}" for job in (1, 2) for who in ("child", "self")]
    pids = [int(until(partial(text, path))) for path in files]
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    until(lambda: not any(alive(pid) for pid in pids))
    assert not (tmp_path / "self.3").exists()


def test_a_job_that_is_told_to_end_may_finish_its_work(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time, pathlib\n"
        "def end(*_):\n    time.sleep(0.5); pathlib.Path('saved').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end); pathlib.Path('ready').touch(); time.sleep(100)\n"
    )
    process = subprocess.Popen([RUN, "a.log", sys.executable, "-c", program], cwd=tmp_path)
    until((tmp_path / "ready").exists)
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()
    assert "# Ended (code 75)" in (tmp_path / "a.log").read_text()


def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; echo $$ > self; while true; do sleep 0.1; done"
    environment = {**os.environ, "RUN_JOBS_GRACE": "0.5"}
    process = subprocess.Popen([RUN, "a.log", "bash", "-c", script], cwd=tmp_path, env=environment)
    pid = int(until(lambda: text(tmp_path / "self")))
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    until(lambda: not alive(pid))


def test_jobs_end_with_a_killed_recipe_where_that_is_asked_for(tmp_path: Path) -> None:
    recipe = f"{RUN} a.log bash -c 'echo $$ > self; sleep 100' & wait"
    environment = {**os.environ, "RUN_JOBS_END_WITH_PARENT": "true"}
    process = subprocess.Popen(["bash", "-c", recipe], cwd=tmp_path, env=environment)
    pid = int(until(lambda: text(tmp_path / "self")))
    process.kill()
    process.wait()
    until(lambda: not alive(pid))


def test_malformed_counts_are_refused_where_they_are_read() -> None:
    with pytest.raises(JobError, match="--max-jobs-run"):
        Jobs("a.log", ["true"], options={"max_jobs_run": "-1"}).whole_number("max_jobs_run", 1)
