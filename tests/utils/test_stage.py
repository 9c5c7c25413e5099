"""Stages of a recipe: a line at the start, the end of the log and its error on failure, no processes left."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.waiting import alive, text, until

UTILS = Path(__file__).resolve().parents[2] / "utils"


def recipe(tmp_path: Path, body: str, stage: object = 0, stop_stage: object = 9) -> subprocess.Popen[str]:
    script = f"set -euo pipefail\nstage={stage} stop_stage={stop_stage}\n. {UTILS}/stage.sh\ncmd={UTILS}/run.sh\n{body}"
    return subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(tmp_path: Path, body: str, stage: object = 0, stop_stage: object = 9) -> tuple[int, str, str]:
    process = recipe(tmp_path, body, stage, stop_stage)
    output, error = process.communicate(timeout=60)
    return process.returncode, output, error


def on_a_terminal(tmp_path: Path, body: str) -> tuple[int, str]:
    """Status and what a terminal got."""
    script = (
        f"set -euo pipefail\nstage=0 stop_stage=9 progress_interval=0.1\n. {UTILS}/stage.sh\ncmd={UTILS}/run.sh\n{body}"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the last process closed its end
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(60), shown.decode()


PROGRESS = "2026-11-29 12:00:00,000 INFO train epoch 1, step {}/3, 0:00:01 left: loss 0.5"


@pytest.mark.parametrize("ending", ["true", "false"])
def test_a_terminal_shows_the_progress_of_a_stage(tmp_path: Path, ending: str) -> None:
    """The newest step under the stage's line; the line is gone when the stage ends, and so is what showed it."""
    lines = "; ".join(f"echo '{PROGRESS.format(step)}'; sleep 0.6" for step in (1, 2, 3))
    (tmp_path / "work.sh").write_text(f"{lines}; {ending}")
    body = 'in_stage 4\nrun_logged "the work" log/a.log $cmd -- bash work.sh\necho after; jobs -p'
    status, shown = on_a_terminal(tmp_path, body)
    assert (status == 0) == (ending == "true")
    assert "stage 4: the work; log: log/a.log" in shown
    assert "\r\033[K  train epoch 1, step 2/3, 0:00:01 left: loss 0.5" in shown
    last = shown.replace("\r\n", "\n").split("\r\033[K")[-1]
    ended = re.fullmatch(r"\S+ \S+ stage 4: the work: ended after 0:00:0[2-9]\nafter\n", last)
    assert ended if ending == "true" else last.startswith("--- the end of log/a.log")


def test_a_file_gets_no_progress(tmp_path: Path) -> None:
    (tmp_path / "work.sh").write_text(f"echo '{PROGRESS.format(1)}'; sleep 0.5")
    body = 'progress_interval=0.1; in_stage 4\nrun_logged "the work" log/a.log $cmd -- bash work.sh\necho after'
    status, output, error = run(tmp_path, body)
    assert (status, error) == (0, "") and len(output.splitlines()) == 3 and "step" not in output


def test_only_the_stages_asked_for_run(tmp_path: Path) -> None:
    body = "for n in 0 1 2 3 4; do if in_stage $n; then echo $n; fi; done"
    assert run(tmp_path, body, 1, 3) == (0, "1\n2\n3\n", "")
    status, _, error = run(tmp_path, body, "one")
    assert status == 1 and error == "error: --stage and --stop-stage must be numbers, got 'one' and '9'\n"
    status, output, error = run(tmp_path, body, 4, 3)
    assert (status, output) == (
        1,
        "",
    ) and error == "error: --stage 4 is after --stop-stage 3: there is nothing to run\n"


def test_a_stage_says_what_it_starts_and_where_its_log_is(tmp_path: Path) -> None:
    status, output, error = run(tmp_path, 'in_stage 3\nrun_logged "the work" log/a.log $cmd -- echo done\necho after')
    assert (status, error) == (0, "")
    began, ended, after = output.splitlines()
    assert began.endswith("stage 3: the work; log: log/a.log") and after == "after"
    assert re.search(r"stage 3: the work: ended after 0:00:0\d$", ended)
    assert "\ndone\n" in (tmp_path / "log/a.log").read_text()


def test_missing_input_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    status, output, error = run(tmp_path, "in_stage 5\nrequire exp/a 4\necho not reached")
    assert (status, output) == (1, "")
    assert error == "error: stage 5 needs exp/a, which does not exist; run stage 4 first\n"


def test_a_failure_shows_the_failed_logs_and_ends_with_their_error(tmp_path: Path) -> None:
    work = 'seq 100; echo "error: x.flac is broken; replace it" >&2; exit $(( JOB == 2 ))'
    body = f"in_stage 2\nrun_logged features 'my log/f.JOB.log' $cmd JOB=1:3 -- bash -c '{work}'\necho not reached"
    status, output, error = run(tmp_path, body)
    assert status == 1 and "not reached" not in output
    last = error.splitlines()[-1]
    assert last == "error: stage 2, features: x.flac is broken; replace it (log: my log/f.2.log)"
    assert "\n100\n" in error and "\n50\n" not in error
    assert "f.1.log" not in error and "f.3.log" not in error


@pytest.mark.parametrize("program", ["", "prune.py: ", "python3.13 -m pruning.bin.prune: "])
def test_a_rejected_option_is_what_failed(tmp_path: Path, program: str) -> None:
    """Python's parser of options puts the name of the program before its errors, the launcher of Slurm its own."""
    wrong = "argument --method: invalid choice: 'tailor'"
    body = f'echo "usage: prune.py [-h]"; echo "{program}error: {wrong}"; echo "srun: error: node1: exit 2"; exit 2'
    (tmp_path / "work.sh").write_text(body)
    status, _, error = run(tmp_path, "in_stage 5\nrun_logged pruning p.log $cmd -- bash work.sh")
    assert status == 1 and error.splitlines()[-1] == f"error: stage 5, pruning: {wrong} (log: p.log)"


def test_a_failure_without_an_error_line_still_ends_in_one(tmp_path: Path) -> None:
    status, _, error = run(tmp_path, 'in_stage 2\nrun_logged "work" w.log $cmd -- false')
    assert status == 1 and error.splitlines()[-1].startswith("error: stage 2, work: ")
    status, _, error = run(tmp_path, 'in_stage 2\nrun_logged "work" w.JOB.log no-such-runner --')
    assert status == 1 and error.splitlines()[-1].startswith("error: stage 2, work: ")


def test_logs_of_a_run_before_are_not_what_failed(tmp_path: Path) -> None:
    """An earlier run had more jobs, or this one is rejected before it starts anything."""
    work = "bash -c 'echo error: $0 >&2; exit $(( JOB % 2 ))' \"$error\""
    call = f"run_logged work 'my log/w.JOB.log' $cmd JOB=1:$n -- {work}"
    assert run(tmp_path, f"in_stage 2; n=3 error='the old one'\n{call.replace('% 2', '> 0')}")[0] == 1
    status, _, error = run(tmp_path, f"in_stage 2; n=2 error='the new one'\n{call}")
    assert status == 1
    assert error.splitlines()[-1] == "error: stage 2, work: the new one (log: my log/w.1.log)"
    assert "the old one" not in error and "w.3.log" not in error
    body = f"in_stage 2; n=2 error=x; cmd='{UTILS}/slurm.sh --config no.conf'\n{call}"
    status, _, error = run(tmp_path, body)
    lines = error.splitlines()
    assert status == 1 and len(lines) == 2 and "no.conf does not exist" in lines[0]
    assert lines[1] == "error: stage 2, work: no job succeeded; see above (log: my log/w.JOB.log)"


WORK = "in_stage 1\nrun_logged work w.log $cmd -- bash -c 'echo $$ > self; sleep 100'"


def other_recipe(tmp_path: Path, body: str) -> str:
    """Return the body of a recipe that runs another one with ``body``."""
    script = f"set -euo pipefail\nstage=0 stop_stage=9\n. {UTILS}/stage.sh\ncmd={UTILS}/run.sh\n{body}"
    (tmp_path / "other.sh").write_text(script)
    return "in_stage 1\nrun_recipe bash other.sh"


@pytest.mark.parametrize(  # jobs of another recipe outlive a SIGKILL
    ("number", "status", "other"),
    [
        (signal.SIGTERM, 143, False),
        (signal.SIGINT, 130, False),
        (signal.SIGKILL, -9, False),
        (signal.SIGTERM, 143, True),
        (signal.SIGINT, 130, True),
    ],
)
def test_the_jobs_end_with_the_recipe(tmp_path: Path, number: signal.Signals, status: int, other: bool) -> None:
    process = recipe(tmp_path, other_recipe(tmp_path, WORK) if other else WORK)
    job = int(until(lambda: text(tmp_path / "self")))
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    until(lambda: not alive(job))


def test_another_recipe_that_fails_ends_this_one(tmp_path: Path) -> None:
    status, output, error = run(tmp_path, other_recipe(tmp_path, "fail 'it is Monday'") + "\necho not reached")
    assert (status, output) == (1, "")
    assert error == "error: it is Monday\nerror: stage 1 needs what bash makes, which failed; see above\n"


@pytest.mark.parametrize(
    "body",
    [
        "run_logged work log/JOBS/w.JOB.log $cmd JOB=1:2 -- true JOB",
        "run_logged work log/w.JOB.log $cmd JOB=1:2 -- true --exp-dir /x/JOBS/exp JOB",
        "run_logged work log/w.JOB.log $cmd JOB=1:2 -- true --exp-dir=myJOB",
        "queued true\nrun_queued work /x/JOBS/log/w.JOB.log $cmd",
    ],
)
def test_paths_that_hold_the_variable_are_refused(tmp_path: Path, body: str) -> None:
    """The runner would replace the variable in them by the number of the job."""
    if "queued" in body:
        body = body.replace("/x", str(tmp_path))
    status, output, error = run(tmp_path, f"in_stage 1\n{body}\necho not reached")
    assert status == 1 and "not reached" not in output and not list(tmp_path.glob("log/*[0-9].log"))
    assert error.splitlines()[-1].endswith("contains JOB, which stands for the number of a job; use a path without it")


def test_the_variable_stands_where_it_is_meant(tmp_path: Path) -> None:
    """The usual form in Kaldi."""
    words = "data/split2/JOB/text --split=JOB scp:JOB.scp 'echo $(( JOB + 1 ))' 'a JOBS b'"
    status, _, error = run(tmp_path, f"in_stage 1\nrun_logged work log/w.JOB.log $cmd JOB=1:2 -- echo {words}")
    assert (status, error) == (0, "")
    assert "data/split2/2/text --split=2 scp:2.scp" in (tmp_path / "log/w.2.log").read_text()


def test_a_path_with_the_variable_is_fine_where_there_is_one_job(tmp_path: Path) -> None:
    assert run(tmp_path, "in_stage 1\nrun_logged work log/JOBS.log $cmd -- true JOBS")[0] == 0
    assert (tmp_path / "log/JOBS.log").exists()


def test_commands_that_are_queued_are_jobs_of_one_array(tmp_path: Path) -> None:
    words = "'two  words' 'a$HOME' $'tab\\there' '' '|' 'it'\\''s' JOB"
    body = f"queued printf '<%s>' {words}\nqueued bash -c 'echo $$ > second; sleep 0.2'\n"
    status, output, error = run(tmp_path, f"in_stage 9\n{body}run_queued work log/w-now.JOB.log $cmd --max-jobs-run 1\n"
                                          "run_queued 'nothing' log/n.JOB.log $cmd\nqueued true\n"
                                          "run_queued more log/more.JOB.log $cmd")  # fmt: skip
    assert (status, error) == (0, "") and "nothing" not in output
    assert output.splitlines()[0].endswith("stage 9: work; log: log/w-now.JOB.log")
    first = (tmp_path / "log/w-now.1.log").read_text()
    assert "<two  words><a$HOME><tab\there><><|><it's><JOB>" in first and "\n# printf " in first
    assert (tmp_path / "second").read_text().strip() and not (tmp_path / "log/w-now.3.log").exists()
    assert (tmp_path / "log/more.1.log").exists() and not (tmp_path / "log/more.2.log").exists()
    status, _, error = run(tmp_path, "in_stage 9\nqueued true\nqueued no-such-program\nrun_queued w log/w.JOB.log $cmd")
    assert status == 1 and error.splitlines()[-1].endswith("(log: log/w.2.log)")
