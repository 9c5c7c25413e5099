"""Runs one job of an array on a node; the job is queued again if its command requests it.

A command that ends with status 75 has saved its state and is to be run again; this is not an error. Training does so
after SIGTERM, which schedulers can send some time before a job's time limit (Slurm: ``sbatch --signal=B:TERM@300``) and
before they preempt it.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jobs.array import Jobs
from jobs.local import Executor, Interrupted, catch_signals, signals_held
from jobs.schedulers import SCHEDULERS
from jobs.submission import RETRY_SECONDS

REQUEUE_STATUS = 75  # EX_TEMPFAIL of sysexits.h; the same as in pruning.training.interruption
RESCHEDULE_STATUS = 99  # a grid engine queues a job with this status again
# a command makes no progress if it requests a rerun this often in a row, each time this soon and without a signal
VAIN_STARTS, VAIN_SECONDS = 10, 60
# messages of scontrol when it cannot reach the controller; the last one is specific to arrays
_AWAY = f"{SCHEDULERS['slurm'].away}|{SCHEDULERS['slurm'].unsure}|Unexpected message received"


def run_one(scheduler: str, path: str, number: int, done: str) -> int:
    """Run one job of the array described in the JSON file ``path``, started by the backend ``scheduler``.

    Its status is also written to the file ``done``, unless the scheduler will run the job again.
    """
    if "SLURM_CPUS_PER_TASK" in os.environ:  # srun within the job does not request them by itself
        os.environ.setdefault("SRUN_CPUS_PER_TASK", os.environ["SLURM_CPUS_PER_TASK"])
    jobs = Jobs(**json.loads(Path(path).read_text(encoding="utf-8")))
    # the scheduler itself kills jobs that end too late; an earlier start of the same job has written to the log
    executor = Executor(grace=math.inf, append=True)
    told, started = False, time.monotonic()
    with ThreadPoolExecutor(1) as pool:  # a thread's own join() stops waiting after a signal
        try:
            with signals_held():
                # schedulers also warn with these: Slurm's --signal if requested, a grid engine's -notify and s_rt
                catch_signals(signal.SIGUSR1, signal.SIGUSR2)
                ended = pool.submit(executor.run, jobs, number)
            status = ended.result()
        except Interrupted as interrupted:
            told = True
            if scheduler == "slurm" and jobs.command[0] == "srun":
                _ask("scancel", "--signal", "TERM", _slurm_identity())  # srun itself would kill its tasks at once
            else:
                executor.stop(interrupted.number)
            status = ended.result()
    _ignore_signals()
    soon = status == REQUEUE_STATUS and not told and time.monotonic() - started < VAIN_SECONDS
    if _in_vain(Path(done).with_name(f"vain.{number}"), soon):
        with open(jobs.log_of(number), "a", encoding="utf-8") as stream:
            stream.write(f"error: the command has requested a rerun {VAIN_STARTS} times in a row, each time within "
                         f"{VAIN_SECONDS} s; see above what it waits for\n")  # fmt: skip
    elif scheduler == "slurm" and _slurm_runs_it_again(status, told, jobs.log_of(number)):
        return status
    elif scheduler == "sge" and status == REQUEUE_STATUS:
        return RESCHEDULE_STATUS
    temporary = Path(f"{done}.tmp")
    temporary.write_text(f"{status}\n")
    temporary.rename(done)
    return status


def _ignore_signals() -> None:
    """Ignore further signals: no job is left, and Slurm signals a requeued job while this process talks to it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _in_vain(count: Path, soon: bool) -> bool:
    """Return whether the job has ended ``soon`` too often in a row; the file ``count`` counts these ends."""
    if not soon:
        count.unlink(missing_ok=True)
        return False
    with open(count, "a", encoding="utf-8") as stream:
        stream.write(".")
    return count.stat().st_size >= VAIN_STARTS


def _slurm_runs_it_again(status: int, told: bool, log: Path) -> bool:
    """Requeue the job if its command requests it; also true if Slurm is ending the job and decides itself.

    If the controller cannot be reached, try again for some minutes; otherwise a job that should go on would fail.
    """
    identity = _slurm_identity()
    answered = True
    for pause in [*RETRY_SECONDS, None]:
        state, why = _slurm_state(identity)
        if (told or not answered) and state in ("COMPLETING", "PENDING") and why != "TimeLimit":
            return True  # preempted or requeued: runs again; cancelled: the waiting process notices
        if status != REQUEUE_STATUS:
            return False
        requeue = _ask("scontrol", "requeue", identity)
        if requeue.returncode == 0:
            return True
        answered = re.search(_AWAY, requeue.stderr) is None
        if answered or pause is None:
            break
        time.sleep(pause)
    with open(log, "a", encoding="utf-8") as stream:
        reason = " ".join(requeue.stderr.split())
        stream.write(f"error: Slurm did not requeue this job ({reason}); run the same command again\n")
    return False


def _slurm_identity() -> str:
    """Return the array and task number of the job; SLURM_JOB_ID of one task may be that of the whole array."""
    return "_".join(os.environ.get(name, "") for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))


def _slurm_state(identity: str) -> tuple[str, str]:
    """Return state and reason of a job; empty if Slurm cannot be asked."""
    words = _ask("squeue", "--noheader", "--jobs", identity, "--format", "%T %r").stdout.split(maxsplit=1)
    return (words[0], words[1].strip()) if len(words) == 2 else ("", "")


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
