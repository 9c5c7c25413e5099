"""Run a sweep: the methods x targets x seeds of a YAML file, through the job runner, into small result files.

Finished runs are not repeated, on another machine either if the results directory is there, unless others need what
they left in the experiments; a run that fails does not stop the others. python -m pruning.bin.compare makes the table
from the results directory alone.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.files import read_json, write_json
from pruning.limits import COUNT
from pruning.sweeps.lines import TEACHER

if TYPE_CHECKING:
    from pruning.sweeps import sweep
    from pruning.sweeps.definition import SweepConfig

logger = logging.getLogger(__name__)


def make(config: SweepConfig, run: Optional[sweep.Run], exp_dir: Path, results: Path) -> None:
    """Execute one run (None: measure the teacher) and gather its result.

    Raises:
        UserError: one of its commands failed.
    """
    from pruning.sweeps import comparison, sweep

    made_by = sweep.fingerprint(config, run)
    if run is None:
        _copy_teacher(config, sweep.final_dir(exp_dir, None))
    for line in sweep.commands(config, run, exp_dir):
        logger.info("%s", shlex.join(line))
        status = subprocess.run(line, check=False).returncode
        if status:
            what = f"{run.name if run is not None else TEACHER}: {line[2]} failed with status {status}"
            raise UserError(what, "read its output above, correct the cause and run the sweep again")
    comparison.gather(config, run, exp_dir, results, made_by)


def _copy_teacher(config: SweepConfig, place: Path) -> None:
    """Copy the teacher into an experiment of the sweep, so that measuring it writes nothing next to the original."""
    from pruning.experiments import checkpoint
    from pruning.models import facts

    model, header = config.load_teacher()
    checkpoint.save_model(checkpoint.best_path(place), model, header)
    facts.write_facts(place, model)


class _Runner:
    """Executes the runs of a wave, through the job runner or one after the other.

    Args:
        options: options of the command.
        own: command that executes one run, without ``--wave`` and ``--job``.
    """

    def __init__(self, options: argparse.Namespace, own: Sequence[str]) -> None:
        self._log, self._own = options.exp_dir / "log", own
        self._runner = shlex.split(options.runner) if options.runner else None

    def __call__(self, index: int, names: Sequence[str]) -> None:
        """Execute the runs ``names`` of wave ``index``; a failed run shows by its missing result.

        Files are named after the runs, because two sweeps with different ``--only`` may go on side by side.
        """
        wave = self._log / f"wave-{index}-{hashlib.sha256(repr(names).encode()).hexdigest()[:8]}.json"
        write_json(wave, {"runs": list(names)})
        one = [*self._own, "--wave", str(wave), "--job"]
        if self._runner is not None:
            strange = [word for word in (str(self._log), *one) if "JOB" in word]
            if strange:
                what = f"{strange[0]} contains JOB, which --runner replaces by the number of a job"
                raise UserError(what, "use a path without JOB")
            log = wave.with_suffix(".JOB.log")
            subprocess.run([*self._runner, f"JOB=1:{len(names)}", str(log), *one, "JOB"], check=False)
            return
        for job in range(1, len(names) + 1):
            subprocess.run([*one, str(job)], check=False)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument(
        "--config", type=Path, required=True, help="YAML file of the sweep; for its keys see pruning.sweeps.definition"
    )
    parser.add_argument("--exp-dir", type=Path, required=True, help="directory for the experiments of the sweep")
    parser.add_argument("--results", type=Path, help="directory for the small result files; default: EXP_DIR/results")
    parser.add_argument(
        "--runner", help="command line of the job runner; default: runs one after the other on this machine"
    )
    parser.add_argument("--dry-run", action="store_true", help="only check everything and print the runs")
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", default=[],
        help="execute only runs whose names match, and those that they depend on, e.g. 'half/*/seed1'; give it several "
        "times for several patterns; default: all runs",
    )  # fmt: skip
    parser.add_argument("--wave", type=Path, help="list of runs, of which only --job is executed (for the job runner)")
    parser.add_argument("--job", type=COUNT.parse, help="number of the run in --wave, from 1")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="replace a key of the file; with test_cuts=[...] and other --results, networks that exist are measured "
        "on other test sets",
    )
    options = parser.parse_intermixed_args(argv)

    from pruning.sweeps import comparison, sweep

    thorough = options.wave is None  # a wave was checked already
    config = sweep.load(options.config, thorough, options.overrides)
    results = options.results or options.exp_dir / comparison.RESULTS
    by_name: dict[str, Optional[sweep.Run]] = {TEACHER: None}
    every = sweep.expand(config)
    by_name.update({run.name: run for run in every})
    if options.wave is not None:
        make(config, by_name[read_json(options.wave)["runs"][options.job - 1]], options.exp_dir, results)
        return

    wanted = sweep.chosen(every, options.only or ["*"])
    waves = [[run.name for run in wave] for wave in sweep.levels(wanted)]
    waves[0].insert(0, TEACHER)
    prints = {name: sweep.fingerprint(config, run) for name, run in by_name.items()}

    def left(names: Sequence[str]) -> list[str]:
        return [name for name in names if not comparison.is_done(results, by_name[name], prints[name])]

    def stands(run: Optional[sweep.Run]) -> bool:
        """Return whether the run that this one depends on is done, and what it left is here."""
        return run is None or run.needs is None or not (left([run.needs]) or lost(run.needs))

    def lost(name: str) -> bool:
        """Return whether the network that others depend on is gone, as on another machine; its result may be kept."""
        return not sweep.pruned_exists(options.exp_dir, name)

    def to_make(names: Sequence[str]) -> list[str]:
        """Return the runs that are not done, and those that such ones depend on and that left nothing here."""
        undone_runs = (by_name[name] for name in left([run.name for run in wanted]))
        needed = {run.needs for run in undone_runs if run is not None and run.needs}
        undone = left(names)
        return [name for name in names if name in undone or (name in needed and lost(name))]

    if options.dry_run:
        for index, wave in enumerate(waves, start=1):
            undone = to_make(wave)
            print("\n".join(f"wave {index}: {name}{'' if name in undone else ' (done)'}" for name in wave))
        return
    comparison.write_utterances(config, results, prints)
    own = [sys.executable, "-m", "pruning.bin.sweep", "--config", str(options.config), "--exp-dir",
           str(options.exp_dir), "--results", str(results), *options.overrides]  # fmt: skip
    runner = _Runner(options, own)
    for index, wave in enumerate(waves, start=1):
        names = [name for name in to_make(wave) if stands(by_name[name])]
        logger.info("wave %d of %d: %d of %d runs to execute", index, len(waves), len(names), len(wave))
        if names:
            runner(index, names)
    failed = [name for wave in waves for name in left(wave)]
    if failed:
        what = f"{len(failed)} of {len(wanted) + 1} runs failed or depend on a failed run: {', '.join(failed)}"
        raise UserError(what, f"see {options.exp_dir / 'log'}, then run the same command again")


if __name__ == "__main__":
    command.run(main)
