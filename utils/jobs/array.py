"""An array of similar jobs, read from a command line in the style of Kaldi's runners."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

OPERATORS = {"|", "||", "&&", ";", ">", ">>", "<", "2>", "2>>", "2>&1", "&>"}


class JobError(Exception):
    """The request cannot be run; the message is one line."""


@dataclass(frozen=True)
class Jobs:
    """An array of similar jobs.

    Attributes:
        log: path of the log; contains ``variable`` if there are several jobs.
        command: the command and its arguments, with ``variable`` in place of the job's number.
        first, last: number of the first and of the last job.
        variable: text that is replaced by the number, usually ``JOB``; None without a range.
        options: options by name as given, with underscores instead of dashes.
    """

    log: str
    command: list[str]
    first: int = 1
    last: int = 1
    variable: Optional[str] = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    @property
    def threads(self) -> int:
        return self.whole_number("num_threads", 1)

    def whole_number(self, name: str, default: int) -> int:
        """Return the option ``name`` as a positive number.

        Raises:
            JobError: it is not a positive number.
        """
        value = self.options.get(name, str(default))
        if not re.fullmatch(r"[1-9]\d*", value):
            raise JobError(f"--{name.replace('_', '-')} must be a positive number, got '{value}'")
        return int(value)

    def fill_in(self, text: str, number: int) -> str:
        return text.replace(self.variable, str(number)) if self.variable else text

    def log_of(self, number: int) -> Path:
        return Path(self.fill_in(self.log, number))

    def words(self, number: int) -> list[str]:
        """Return the command of one job."""
        return [self.fill_in(word, number) for word in self.command]

    def shell_line(self, number: int) -> str:
        """Return the command of one job, quoted for the shell."""
        words = self.words(number)
        quoted = [word if word in OPERATORS else shlex.quote(word) for word in words]
        for index, word in enumerate(words):  # variable assignments before the command stay assignments
            if not (match := re.match(r"[A-Za-z_]\w*=", word)):
                break
            quoted[index] = match[0] + shlex.quote(word[match.end() :])
        return " ".join(quoted)


def parse(arguments: list[str]) -> Jobs:
    """Parse options, range, log and command.

    Raises:
        JobError: something is missing or malformed.
    """
    options: dict[str, str] = {}
    variable, first, last = None, 1, 1
    rest = list(arguments)
    while rest:
        if rest[0].startswith("--") and len(rest[0]) > 2:
            if len(rest) < 2:
                raise JobError(f"{rest[0]} has no value")
            if re.fullmatch(r"--[A-Za-z][\w-]*", rest[1]):
                raise JobError(f"{rest[0]} has no value; {rest[1]} follows it")
            options[rest[0][2:].replace("-", "_")] = rest[1]
            del rest[:2]
        elif match := re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", rest[0]):
            if variable is not None:
                raise JobError(f"more than one range of jobs: {rest[0]}")
            variable, first, last = match[1], int(match[2]), int(match[3] or match[2])
            if not 1 <= first <= last:
                raise JobError(f"{rest[0]} is not a range of jobs; numbers start at 1, as in {variable}=1:4")
            del rest[0]
        elif re.fullmatch(r"[A-Za-z_]\w*=([-\d:.,]*|.*:.*)", rest[0]):
            # e.g. JOB=1:$nj with an empty nj; not the name of a log
            raise JobError(f"{rest[0]} is not a range of jobs; write it as JOB=1:4")
        elif rest[0].startswith("-"):
            raise JobError(f"unexpected argument {rest[0]}; write options as --name value")
        else:
            break
    if len(rest) < 2:
        raise JobError("no log or no command given; usage: [OPTION VALUE]... [JOB=1:N] LOG COMMAND [ARGUMENT]...")
    log, *command = rest
    if not log or not command[0]:
        raise JobError("the name of the log or of the command is empty")
    if variable is not None and first != last and variable not in log:
        raise JobError(f"the jobs {first} to {last} would all write to {log}; put {variable} in its name")
    jobs = Jobs(log, command, first, last, variable, options)
    for name in ("max_jobs_run", "num_threads"):
        jobs.whole_number(name, 1)  # check numbers before anything is started
    return jobs
