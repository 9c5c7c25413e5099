"""Submit an array of jobs to a scheduler, wait for it and cancel it."""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Optional

from jobs.array import JobError, Jobs
from jobs.local import signals_held
from jobs.schedulers import Scheduler, configure

# pauses before submitting again if the scheduler was not reached
RETRY_SECONDS = [float(word) for word in os.environ.get("RUN_JOBS_RETRY", "10 30 60 120").split()]
POLL_SECONDS = float(os.environ.get("RUN_JOBS_POLL", "5"))
LOST_SECONDS = float(os.environ.get("RUN_JOBS_LOST", "120"))  # how late a shared file system may show a finished job


class Unreachable(JobError):
    """The scheduler was not reached; whether it has the jobs is checked before they are submitted again."""


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


class Submission:
    """An array handed to a scheduler: its files and the state of its jobs."""

    def __init__(self, scheduler: Scheduler, jobs: Jobs) -> None:
        self.scheduler = scheduler
        self.jobs = jobs
        log = Path(jobs.log)
        # the name of the log without the jobs' number; names in a grid engine must start with a letter
        name = re.sub(rf"\W?{jobs.variable}", "", log.stem) if jobs.variable else log.stem
        self.name = re.sub(r"^(?=\d)|^$", "job-", re.sub(r"[^\w.-]", "_", name, flags=re.ASCII))
        self.directory = log.parent / "q" / f"{self.name[:100]}.{os.getpid()}.{int(time.time())}"
        self.identity = ""
        self._unsure = False  # whether the scheduler may have the jobs although it did not answer
        self._told: set[str] = set()
        self._asked = time.monotonic()  # when the scheduler last answered

    def prepare(self, program: str) -> None:
        """Write the script of the jobs.

        Raises:
            JobError: the scheduler, or the submitting command ``program``, is not installed.
        """
        for name in (program, self.scheduler.alive[0], self.scheduler.cancel):
            if shutil.which(name) is None:
                cluster = f"the {self.scheduler.name} cluster"
                raise JobError(f"{name} is not on the PATH; submit from a machine of {cluster}")
        self.directory.mkdir(parents=True)
        for number in range(self.jobs.first, self.jobs.last + 1):
            self.jobs.log_of(number).unlink(missing_ok=True)  # a job that is queued again appends to its log
        (self.directory / "jobs.json").write_text(json.dumps(asdict(self.jobs)), encoding="utf-8")
        script = self.directory / "job.sh"
        script.write_bytes(os.fsencode(self._script()))
        script.chmod(0o755)

    def submit(self, arguments: list[str]) -> None:
        """Hand the script to the scheduler, unless the scheduler already has it.

        Raises:
            Unreachable: the scheduler was not reached.
            JobError: the scheduler refused the jobs.
        """
        if self._unsure and self._found():
            return
        command = [*arguments, *self._array_arguments(), str(self.directory / "job.sh")]
        # in its own session, where Ctrl-C does not reach it: it either submits completely or not at all
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False,
                                start_new_session=True, env=_outside_of_a_job(os.environ))  # fmt: skip
        identity = _identity(result.stdout)
        if result.returncode != 0 or identity is None:
            reason = " ".join((result.stderr or result.stdout).split()) or f"status {result.returncode}"
            said = f"({reason}); the command was: {shlex.join(command)}"
            self._unsure = re.search(self.scheduler.unsure, reason) is not None
            if self._unsure or re.search(self.scheduler.away, reason):
                raise Unreachable(f"{self.scheduler.name} was not reached {said}")
            raise JobError(f"{self.scheduler.name} refused the jobs {said}")
        self.identity = identity

    def _found(self) -> bool:
        """Return whether the scheduler has the jobs of a submission that it did not answer.

        Raises:
            Unreachable: it still does not answer.
        """
        command = [*self.scheduler.found, getpass.getuser()]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False,
                                start_new_session=True)  # fmt: skip
        if result.returncode != 0:
            reason = " ".join(result.stderr.split())
            raise Unreachable(f"{self.scheduler.name} may have the jobs, but {shlex.join(command)} fails ({reason})")
        for line in result.stdout.splitlines():
            identity, _, script = line.strip().partition(" ")
            if script.endswith(str(self.directory / "job.sh")):
                self.identity = identity
                return True
        return False

    def _script(self) -> str:
        runner = shlex.quote(str(Path(__file__).resolve().parents[1] / "run_jobs.py"))
        directory = shlex.quote(str(self.directory.resolve()))
        return (
            "#!/usr/bin/env bash\n"
            f"{self.scheduler.naming} {self.name}\n"
            f"cd {shlex.quote(os.getcwd())} || exit 1\n"
            "if [ -f path.sh ]; then . ./path.sh || exit 1; fi\n"
            f'exec python3 {runner} --run-one {self.scheduler.backend} {directory}/jobs.json "${self.scheduler.task}" '
            f'{directory}/done."${self.scheduler.task}"\n'
        )

    def _array_arguments(self) -> list[str]:
        limit = self.jobs.options.get("max_jobs_run")
        values = {
            "first": self.jobs.first,
            "last": self.jobs.last,
            "limit": self.scheduler.limit.format(n=limit) if limit else "",
            "log": str(self.directory / "scheduler.log").replace("%", self.scheduler.percent),
        }
        words = []
        for template in self.scheduler.array:
            filled = template.format(**values)
            words += filled.split() if template == "{limit}" else [filled]
        return words

    def alive(self) -> bool:
        """Return whether the scheduler still has jobs of the array; also true if it cannot be asked at the moment."""
        command = [*self.scheduler.alive, self.identity]
        try:
            result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            result = subprocess.CompletedProcess(command, 1, "", str(error))
        known = "invalid job id|do not exist|does not exist|unknown job"
        if result.returncode != 0 and not re.search(known, result.stderr, re.IGNORECASE):
            if time.monotonic() - self._asked > LOST_SECONDS:
                reason = " ".join((result.stderr or result.stdout).split()) or f"status {result.returncode}"
                self._tell_once(f"{shlex.join(command)} fails ({reason}); still waiting for {self.directory}/done.*")
            return True
        self._asked = time.monotonic()
        for reason in sorted(set(re.findall(self.scheduler.stuck, result.stdout))):
            self._tell_once(f"{self.scheduler.name} job {self.identity} will not run by itself ({reason}); release "
                                f"it, or end this command and change the request")  # fmt: skip
        return result.returncode == 0 and bool(result.stdout.strip())

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            warn(text)

    def _ended(self) -> dict[int, int]:
        """Return the statuses written so far; a shared file system may show some of them later."""
        statuses = {}
        with suppress(OSError):
            for name in os.listdir(self.directory):  # also makes a network file system refresh
                if match := re.fullmatch(r"done\.(\d+)", name):
                    statuses[int(match[1])] = int((self.directory / name).read_text() or 1)
        return statuses

    def wait(self) -> dict[int, int]:
        """Wait until each job has written its status, or the scheduler has dropped it without one (status 1)."""
        waiting = set(range(self.jobs.first, self.jobs.last + 1))
        statuses: dict[int, int] = {}
        gone_since = None
        pause = min(0.2, POLL_SECONDS)
        while waiting:
            finished = set(ended := self._ended()) & waiting
            statuses.update((number, ended[number]) for number in finished)
            waiting -= finished
            if not waiting:
                break
            if finished or self.alive():
                gone_since = None
            elif gone_since is None:
                gone_since = time.monotonic()
            elif time.monotonic() - gone_since > LOST_SECONDS:
                names = ", ".join(str(number) for number in sorted(waiting))
                self._show_log()
                print(
                    f"error: {self.scheduler.name} job {self.identity} ended without jobs {names} (cancelled, killed, "
                    f"or out of time or memory); see {self.directory}/scheduler.log",
                    file=sys.stderr,
                )
                return {**statuses, **dict.fromkeys(waiting, 1)}
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)
        return statuses

    def _show_log(self) -> None:
        """Print the end of the output of the scheduler and path.sh: a job that failed before its command has no log."""
        with suppress(OSError):
            lines = (self.directory / "scheduler.log").read_text(errors="replace").splitlines()[-10:]
            print("\n".join(lines), file=sys.stderr)

    def cancel(self) -> None:
        """End all jobs of the array; if it was never submitted, remove its files."""
        if self._unsure and not self.identity:
            with suppress(Unreachable):
                self._found()
            if not self.identity:
                warn(f"{self.scheduler.name} may have jobs of {self.directory}/job.sh; check whether they run")
        if not (self.identity or self._unsure):
            shutil.rmtree(self.directory, ignore_errors=True)
        if self.identity:
            command = [self.scheduler.cancel, self.identity]
            result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if result.returncode != 0:
                reason = " ".join(result.stderr.split())
                warn(f"{shlex.join(command)} failed ({reason}); check whether its jobs still run")


def _identity(output: str) -> Optional[str]:
    """Return the job's number from the output of the submitting command, which may contain other words of the site."""
    for pattern in (r"^(\d+)(?:[;.]\S*)?$", r"(?:Submitted batch job|Your job(?:-array)?) (\d+)", r"(\d+)"):
        if match := re.search(pattern, output, re.MULTILINE):
            return match[1]
    return None


def _outside_of_a_job(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without Slurm's variables of an enclosing job, which srun in the new jobs would use."""
    inside = "SLURM_JOB_ID" in environment
    return {
        name: value
        for name, value in environment.items()
        if not inside or name.startswith("SLURM_CONF") or not name.startswith(("SLURM_", "SLURMD_", "SRUN_"))
    }


def run(scheduler: Scheduler, jobs: Jobs) -> dict[int, int]:
    """Submit the jobs, wait for them, and return the status of each; cancel them if this ends early.

    Raises:
        JobError: the configuration does not allow the jobs, or the scheduler refuses them.
    """
    given = {name: value for name, value in jobs.options.items() if name not in ("config", "max_jobs_run")}
    arguments = configure(scheduler, jobs.options).arguments(given)
    submission = Submission(scheduler, jobs)
    try:
        submission.prepare(arguments[0])
        for pause in [*RETRY_SECONDS, None]:
            try:
                with signals_held():  # the identity must be known to cancel
                    submission.submit(arguments)
                break
            except Unreachable as error:
                if pause is None:
                    raise
                warn(f"{error}; trying again after {pause:g} s")
                time.sleep(pause)
        return submission.wait()
    except BaseException:
        submission.cancel()
        raise
