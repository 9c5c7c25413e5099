#!/usr/bin/env python3
"""Run a command, or an array of similar commands, with a log each: locally, through Slurm, or through a grid engine.

    run.sh [OPTION VALUE]... [JOB=1:N] [OPTION VALUE]... LOG COMMAND [ARGUMENT]...

has the interface of Kaldi's run.pl, slurm.pl and queue.pl, which may be used instead. JOB is replaced by the number of
the job in the name of the log and in every argument. Options (before or after JOB=1:N):

    --mem 8G  --num-threads 4  --gpu 1  --time 4:00:00   resources of one job; requested as the configuration says
    --max-jobs-run 10    maximum number of jobs at once (locally: by default the number of processors / threads, or of
                         GPUs / --gpu: each job of a range then has its own GPUs)
    --config FILE        configuration of the scheduler (default: conf/slurm.conf or conf/sge.conf, or a built-in one)

A scheduler's job whose command ends with status 75 (as training does after SIGTERM) is queued again, and waited for.

An argument that is exactly a shell operator (| > >> < 2> 2>&1 && || ;) keeps its meaning; all others reach the command
unchanged. The exit status is 0 if every job ended with 0; otherwise the failed logs are named.
"""

from __future__ import annotations

import os
import sys

from jobs import local, node, submission
from jobs.array import JobError, Jobs, parse
from jobs.schedulers import SCHEDULERS


def report(jobs: Jobs, statuses: dict[int, int]) -> int:
    """Print the logs of the failed jobs and return 1; return 0 if there are none."""
    failed = [number for number, status in statuses.items() if status != 0]
    if failed:
        logs = " ".join(str(jobs.log_of(number)) for number in failed)
        print(f"error: {len(failed)} of {jobs.count} jobs failed; see {logs}", file=sys.stderr)
    return min(len(failed), 1)


def main(arguments: list[str]) -> int:
    """Run the jobs of the command line, ``BACKEND [OPTION VALUE]... LOG COMMAND...``, and return the exit status."""
    if arguments[:1] == ["--run-one"]:
        return node.run_one(arguments[1], arguments[2], int(arguments[3]), arguments[4])
    if set(arguments[:2]) & {"-h", "--help"}:
        print(__doc__)
        return 0
    try:
        backend, *rest = arguments or [""]
        if backend != "local" and backend not in SCHEDULERS:
            raise JobError(f"unknown backend '{backend}'; the first word must be local, slurm or sge")
        jobs = parse(rest)
        local.catch_signals()
        if os.environ.get("RUN_JOBS_END_WITH_PARENT") == "true":
            local.end_with_parent()
        statuses = local.run_here(jobs) if backend == "local" else submission.run(SCHEDULERS[backend], jobs)
        return report(jobs, statuses)
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'a log'}: {error.strerror}; no jobs are left running", file=sys.stderr)
        return 1
    except local.Interrupted as interrupted:
        print(f"{interrupted}: the jobs were ended; the same command goes on from where they were", file=sys.stderr)
        return 128 + interrupted.number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
