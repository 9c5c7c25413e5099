"""Slurm and grid engine: how an array of jobs is submitted, watched and cancelled.

The configuration has Kaldi's grammar, one statement a line, ``#`` starting a comment:

    command sbatch --requeue          what submits
    option mem=* --mem-per-cpu $0     what an option adds to the command; $0 is its value
    option gpu=0                      the same for one value only, which takes precedence (here: nothing is added)
    default gpu=0                     the value where the option is not given

As with Kaldi's runners, variables of the environment are filled in, and of several defaults the first counts.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Optional

from jobs.array import JobError, Jobs
from jobs.local import signals_held

POLL_SECONDS = float(os.environ.get("RUN_JOBS_POLL", "5"))
LOST_SECONDS = float(os.environ.get("RUN_JOBS_LOST", "120"))  # how late a shared file system may show a finished job


@dataclass(frozen=True)
class Scheduler:
    """One kind of cluster.

    Attributes:
        backend: its name on the command line.
        name: as users call it.
        config: the configuration file that is read when there is one and no other is named.
        default_config: what is used without a file.
        array: the arguments that make a submission an array; what stands in braces is filled in.
        limit: what ``{limit}`` becomes when the number of jobs at once is limited to ``{n}``.
        task: the environment variable that holds a job's number on the node.
        alive: the command that succeeds, printing something, while the array is queued or running.
        cancel: the command that ends the array.
    """

    backend: str
    name: str
    config: str
    default_config: str
    array: tuple[str, ...]
    limit: str
    task: str
    alive: tuple[str, ...]
    cancel: str


SCHEDULERS = {
    "slurm": Scheduler(
        backend="slurm",
        name="Slurm",
        config="conf/slurm.conf",
        default_config="""
            command sbatch --requeue --signal=B:TERM@300
            option mem=* --mem $0
            option num_threads=* --cpus-per-task $0
            option time=* --time $0
            option gpu=* --gres gpu:$0
            option gpu=0
            option num_nodes=* --nodes $0 --ntasks-per-node 1
            option num_nodes=1
        """,
        array=("--parsable", "--output", "{log}", "--open-mode", "append", "--array", "{first}-{last}{limit}"),
        limit="%{n}",
        task="SLURM_ARRAY_TASK_ID",
        alive=("squeue", "--noheader", "--jobs"),
        cancel="scancel",
    ),
    "sge": Scheduler(
        backend="sge",
        name="grid engine",
        config="conf/sge.conf",
        default_config="""
            command qsub -V
            option mem=* -l mem_free=$0,ram_free=$0
            option num_threads=* -pe smp $0
            option num_threads=1
            option time=* -l h_rt=$0
            option gpu=* -l gpu=$0
            option gpu=0
        """,
        array=("-terse", "-cwd", "-S", "/bin/bash", "-j", "y", "-o", "{log}", "-t", "{first}-{last}", "{limit}"),
        limit="-tc {n}",
        task="SGE_TASK_ID",
        alive=("qstat", "-j"),
        cancel="qdel",
    ),
}


@dataclass
class Configuration:
    """A parsed configuration: the submitting command, and what each value of each option adds to it."""

    source: str
    command: list[str] = field(default_factory=list)
    options: dict[str, dict[str, str]] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, source: str) -> Configuration:
        """Read the grammar above.

        Raises:
            JobError: a line is none of its statements, or no command is given.
        """
        result = cls(source)
        for number, line in enumerate(text.splitlines(), 1):
            keyword, _, rest = re.sub(r"\s", " ", line.split("#", 1)[0]).strip().partition(" ")
            name, equals, tail = rest.strip().partition("=")
            value, _, addition = tail.partition(" ")
            if keyword == "command" and _words(rest):
                result.command = [os.path.expandvars(word) for word in _words(rest) or []]
            elif keyword == "option" and name and equals and value and _words(addition) is not None:
                result.options.setdefault(name, {})[value] = addition.strip()
            elif keyword == "default" and name and equals and value and not addition.strip():
                result.defaults.setdefault(name, value)
            elif keyword:
                raise JobError(f"{source}, line {number} is not understood: {line.strip()}")
        if not result.command:
            raise JobError(f"{source} names no command; add a line such as: command sbatch")
        return result

    def arguments(self, given: dict[str, str]) -> list[str]:
        """The submitting command with what the options add.

        Raises:
            JobError: an option, or its value, is not in the configuration.
        """
        words = list(self.command)
        for name, value in {**self.defaults, **given}.items():
            values = self.options.get(name)
            addition = None if values is None else values.get(value, values.get("*"))
            if addition is None:
                raise JobError(
                    f"{self.source} does not say what --{name.replace('_', '-')} {value} means; "
                    f"add a line: option {name}=* ARGUMENTS $0"
                )
            words += [os.path.expandvars(word).replace("$0", value) for word in shlex.split(addition)]
        return words


def _words(text: str) -> Optional[list[str]]:
    """The words of a shell's line; None where a quote is not closed."""
    try:
        return shlex.split(text)
    except ValueError:
        return None


def configure(scheduler: Scheduler, options: dict[str, str]) -> Configuration:
    """The configuration file that was named or lies in its usual place, else the built-in one.

    Raises:
        JobError: the named file does not exist or is malformed.
    """
    named = options.get("config")
    path = Path(named or scheduler.config)
    if path.is_file():
        return Configuration.parse(path.read_text(encoding="utf-8-sig", errors="surrogateescape"), str(path))
    if named:
        raise JobError(f"{named} does not exist; name a configuration of {scheduler.name} with --config")
    return Configuration.parse(scheduler.default_config, f"the built-in configuration of {scheduler.name}")


class Submission:
    """An array handed to a scheduler: its files, and what is known of its jobs."""

    def __init__(self, scheduler: Scheduler, jobs: Jobs) -> None:
        self.scheduler = scheduler
        self.jobs = jobs
        stem = re.sub(r"[^\w.-]", "_", jobs.log_of(jobs.first).name)
        self.directory = Path(jobs.log).parent / "q" / f"{stem}.{os.getpid()}.{int(time.time())}"
        self.identity = ""

    def done(self, number: int) -> Path:
        """Where the job leaves its status."""
        return self.directory / f"done.{number}"

    def submit(self, arguments: Iterable[str]) -> None:
        """Write the job's script and hand it to the scheduler.

        Raises:
            JobError: the scheduler is not installed or refuses.
        """
        arguments = list(arguments)
        for program in (arguments[0], self.scheduler.alive[0], self.scheduler.cancel):
            if shutil.which(program) is None:
                cluster = f"the {self.scheduler.name} cluster"
                raise JobError(f"{program} is not on the PATH; submit from a machine of {cluster}")
        self.directory.mkdir(parents=True)
        for number in range(self.jobs.first, self.jobs.last + 1):
            self.jobs.log_of(number).unlink(missing_ok=True)  # a job that is queued again adds to its log
        (self.directory / "jobs.json").write_text(json.dumps(asdict(self.jobs)), encoding="utf-8")
        script = self.directory / "job.sh"
        script.write_text(self._script(), encoding="utf-8")
        script.chmod(0o755)
        command = [*arguments, *self._array_arguments(), str(script)]
        # in a session of its own, where a Ctrl-C does not reach it: either it submits, or it does not
        result = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
        match = re.search(r"\d+", result.stdout)
        if result.returncode != 0 or match is None:
            reason = " ".join((result.stderr or result.stdout).split()) or f"status {result.returncode}"
            raise JobError(f"{self.scheduler.name} refused the jobs ({reason}); the command was: {shlex.join(command)}")
        self.identity = match[0]

    def _script(self) -> str:
        runner = shlex.quote(str(Path(__file__).resolve().parents[1] / "run_jobs.py"))
        directory = shlex.quote(str(self.directory.resolve()))
        return (
            "#!/usr/bin/env bash\n"
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
            "log": self.directory / "scheduler.log",
        }
        words = []
        for template in self.scheduler.array:
            filled = template.format(**values)
            words += filled.split() if template == "{limit}" else [filled]
        return words

    def alive(self) -> bool:
        """Whether the scheduler still knows jobs of the array; true as well when it cannot be asked just now."""
        command = [*self.scheduler.alive, self.identity]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return True
        if result.returncode == 0:
            return bool(result.stdout.strip())
        return not re.search(r"invalid job id|do not exist|does not exist|unknown job", result.stderr, re.IGNORECASE)

    def wait(self) -> dict[int, int]:
        """Wait until each job has left its status, or the scheduler has dropped it without one (status 1)."""
        waiting = set(range(self.jobs.first, self.jobs.last + 1))
        statuses: dict[int, int] = {}
        gone_since = None
        pause = min(0.2, POLL_SECONDS)
        while waiting:
            finished = {number for number in waiting if self.done(number).exists()}
            for number in finished:
                statuses[number] = int(self.done(number).read_text() or 1)
            waiting -= finished
            if not waiting:
                break
            if finished or self.alive():
                gone_since = None
            elif gone_since is None:
                gone_since = time.monotonic()
            elif time.monotonic() - gone_since > LOST_SECONDS:
                names = ", ".join(str(number) for number in sorted(waiting))
                print(
                    f"error: {self.scheduler.name} job {self.identity} ended without jobs {names} (killed, or out of "
                    f"time or memory); see {self.directory}/scheduler.log",
                    file=sys.stderr,
                )
                return {**statuses, **dict.fromkeys(waiting, 1)}
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)
        return statuses

    def cancel(self) -> None:
        """End all jobs of the array."""
        if self.identity:
            subprocess.run([self.scheduler.cancel, self.identity], capture_output=True, check=False)


def run(scheduler: Scheduler, jobs: Jobs) -> dict[int, int]:
    """Submit the jobs, wait for them, and return the status of each; they are cancelled when this ends early.

    Raises:
        JobError: the configuration or the scheduler refuses.
    """
    given = {name: value for name, value in jobs.options.items() if name not in ("config", "max_jobs_run")}
    arguments = configure(scheduler, jobs.options).arguments(given)
    submission = Submission(scheduler, jobs)
    try:
        with signals_held():  # the identity must be known to cancel
            submission.submit(arguments)
        return submission.wait()
    except BaseException:
        submission.cancel()
        raise
