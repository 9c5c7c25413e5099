"""Commands and configuration files of the schedulers Slurm and grid engine.

The configuration uses Kaldi's grammar, one statement a line; ``#`` starts a comment:

    command sbatch --requeue          the submitting command
    option mem=* --mem-per-cpu $0     what an option adds to the command; $0 is its value
    option gpu=0                      the same for one value only, which takes precedence (here: nothing is added)
    default gpu=0                     the value of an option that is not given

As with Kaldi's runners, environment variables are expanded, and the first of several defaults counts.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from jobs.array import JobError


@dataclass(frozen=True)
class Scheduler:
    """One kind of scheduler.

    Attributes:
        backend: name on the command line.
        name: usual name.
        config: configuration file that is read if it exists and no other is named.
        default_config: configuration that is used without a file.
        array: arguments that submit an array; words in braces are filled in.
        limit: text for ``{limit}`` if at most ``{n}`` jobs may run at once.
        percent: how to write a per cent sign in the name of a log.
        naming: line of a script that names its job, if the submitting command does not.
        task: environment variable with a job's number on the node.
        alive: command that succeeds and prints something while the array is queued or running.
        stuck: pattern in the output of ``alive`` for jobs that will not run without intervention.
        away: pattern in the output of the submitting command if it did not reach the scheduler.
        unsure: pattern in this output if the scheduler may have the jobs nevertheless; never matches if it has none.
        found: command that lists the user's jobs, an array's number and its script per line; empty without ``unsure``.
        cancel: command that ends the array.
    """

    backend: str
    name: str
    config: str
    default_config: str
    array: tuple[str, ...]
    limit: str
    percent: str
    naming: str
    task: str
    alive: tuple[str, ...]
    stuck: str
    away: str
    unsure: str
    found: tuple[str, ...]
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
        percent="%%",
        naming="#SBATCH --job-name",
        task="SLURM_ARRAY_TASK_ID",
        alive=("squeue", "--noheader", "--format", "%T %r", "--jobs"),
        # PartitionConfig: more nodes, processors or memory than the partition has; PerJob: above a site's limit per job
        stuck=r"\w*[Hh]eld\w*|JobHoldMaxRequeue|BadConstraints|Partition(?:Config|TimeLimit|NodeLimit)|MaxMemPerLimit"
        r"|\w+PerJob(?:Limit)?|Invalid(?:Account|QOS)|(?:Account|QOS)NotAllowed|DependencyNeverSatisfied",
        away=r"Unable to contact slurm controller",
        unsure=r"Socket timed out|Zero Bytes were transmitted|Transport endpoint is not connected|Connection reset",
        found=("squeue", "--noheader", "--states", "all", "--format", "%F %o", "--user"),
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
        percent="%",
        naming="#$ -N",
        task="SGE_TASK_ID",
        alive=("qstat", "-j"),
        stuck=r"error reason.*",
        away=r"gdi request|qmaster",
        unsure="(?!)",
        found=(),
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
        """Parse the grammar above.

        Raises:
            JobError: a line is not a valid statement, or there is no command.
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
                raise JobError(f"cannot parse {source}, line {number}: {line.strip()}")
        if not result.command:
            raise JobError(f"{source} names no command; add a line such as: command sbatch")
        return result

    def arguments(self, given: dict[str, str]) -> list[str]:
        """Return the submitting command with the arguments that the options add.

        Raises:
            JobError: the configuration does not define an option or its value.
        """
        words = list(self.command)
        for name, value in {**self.defaults, **given}.items():
            values = self.options.get(name)
            addition = None if values is None else values.get(value, values.get("*"))
            if addition is None:
                raise JobError(
                    f"{self.source} does not define --{name.replace('_', '-')} {value}; "
                    f"add a line: option {name}=* ARGUMENTS $0"
                )
            words += [os.path.expandvars(word).replace("$0", value) for word in shlex.split(addition)]
        return words


def _words(text: str) -> Optional[list[str]]:
    """Return the words of a shell command; None if a quote is not closed."""
    try:
        return shlex.split(text)
    except ValueError:
        return None


def configure(scheduler: Scheduler, options: dict[str, str]) -> Configuration:
    """Read the configuration file that is named or in the usual place; otherwise use the built-in configuration.

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
