"""Sweeps: methods x targets x seeds from one teacher, as runs of the ordinary commands that depend on one another."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from pruning import configuration
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import PathLike
from pruning.kinds.measuring import python
from pruning.provenance import file_fingerprint
from pruning.sweeps import definition
from pruning.sweeps.definition import PARTS, SweepConfig, uniform_target
from pruning.sweeps.lines import TEACHER, MethodConfig


@dataclass(frozen=True)
class Run:
    """One network of a sweep: a line at a target with a seed.

    Attributes:
        method, target, seed: which.
        config: of the line.
        needs: the name of the run that must be there first.
    """

    method: str
    target: str
    seed: int
    config: MethodConfig = field(compare=False)
    needs: Optional[str] = None

    @property
    def name(self) -> str:
        """Its directory, under the sweep's."""
        return f"{self.target}/{self.method}/seed{self.seed}"


def load(path: PathLike, thorough: bool = True) -> SweepConfig:
    """Read a sweep file; its lines, targets and dependencies are checked (see `definition.load`).

    Raises:
        UserError: naming the file, and the line where there is one.
    """
    config = definition.load(path, thorough)
    levels(expand(config))
    return config


def expand(config: SweepConfig) -> list[Run]:
    """All runs of a sweep, in the order of its file."""
    found = []
    for name, method in config.methods.items():
        for target in method.targets or config.targets:
            for seed in dict.fromkeys((*(method.seeds or config.seeds), *method.more_seeds.get(target, ()))):
                needs = None
                if method.stands_on is not None:
                    needs = Run(method.stands_on, target, seed, config.methods[method.stands_on]).name
                found.append(Run(name, target, seed, method, needs))
    return found


def levels(found: Sequence[Run]) -> list[list[Run]]:
    """Runs in waves: those of a wave need none but runs of the waves before.

    Seed comes after seed, so that a sweep that is cut off has as much as can be of the first one.

    Raises:
        UserError: a run needs one that the sweep does not have, or two need each other.
    """
    waves: list[list[Run]] = []
    done: set[str] = set()
    names = {run.name for run in found}
    for run in found:
        if run.needs is not None and run.needs not in names:
            raise UserError(f"{run.name} needs {run.needs}, which the sweep does not have", "give both the same seeds")
    for seed in dict.fromkeys(run.seed for run in found):
        left = [run for run in found if run.seed == seed]
        while left:
            wave = [run for run in left if run.needs is None or run.needs in done]
            if not wave:
                raise UserError(f"{left[0].name} and {left[0].needs} need each other", "correct the sweep")
            waves.append(wave)
            done |= {run.name for run in wave}
            left = [run for run in left if run.name not in done]
    return waves


@functools.lru_cache
def _content(path: str, modified: int) -> str:
    """Of a file as it was at a time (``st_mtime_ns``): a sweep asks for the same ones again and again."""
    return file_fingerprint(path)


def _fingerprints(config: SweepConfig, target: str) -> list[str]:
    """Stand for the content of all files that a run reads: configurations, data, tokens, teacher, table of latency."""
    loaded = configuration.load(config.kind.pruning, config.prune, config.targets.get(target, []))
    constraint = loaded.constraint
    names = [config.prune, config.finetune, config.scratch, constraint.latency_table,
             *(path for part in PARTS for path in config.data(part)), str(config.table.path),
             str(checkpoint.file_of(config.teacher)), config.vocabulary]  # fmt: skip
    return [_content(name, Path(name).stat().st_mtime_ns) for name in names if name is not None]


def final_dir(exp_dir: PathLike, run: Optional[Run]) -> Path:
    """The experiment of a run's final network; None: of the teacher, as the sweep measures it."""
    if run is None:
        return Path(exp_dir) / TEACHER
    return Path(exp_dir) / run.name / ("finetuned" if run.config.finetune else "extracted")


def commands(config: SweepConfig, run: Optional[Run], exp_dir: PathLike) -> Iterator[list[str]]:
    """The commands that make a run, each of which resumes by itself and does nothing when it is done.

    Args:
        config: of the sweep.
        run: which; None: the teacher, which is measured only.
        exp_dir: of the sweep.
    """
    if run is not None:
        yield from _training(config, run, exp_dir)
    yield from config.measuring.commands(config.test_data, final_dir(exp_dir, run))


def _training(config: SweepConfig, run: Run, exp_dir: PathLike) -> Iterator[list[str]]:
    place, method = Path(exp_dir) / run.name, run.config
    data = ["--lang-dir", config.lang_dir, *config.data_options("train", "dev")]
    seed = f"trainer.seed={run.seed}"
    settings = [*config.settings, *config.targets[run.target], *method.settings]
    trained = [*config.settings, *method.finetune_settings, seed]
    final = final_dir(exp_dir, run)
    extracted = str(place / "extracted")
    if method.uniform:
        cost, target = uniform_target(config, run.target)
        yield python("uniform", "--dense", config.teacher, "--cost", cost, "--share", str(round(1 - target, 6)),
                      "--narrow", method.uniform, "--output", str(place / "dimensions.json"))  # fmt: skip
        assert config.scratch is not None
        yield python("train", "--config", config.scratch, *trained, "--exp-dir", str(final),
                      "--model", str(place / "dimensions.json"), *data)  # fmt: skip
    elif method.dense:
        yield python("finetune", "--config", config.finetune, *trained, "--init", config.teacher,
                      "--teacher", config.teacher, "--exp-dir", str(final), *data)  # fmt: skip
    else:
        pruned = Path(exp_dir) / run.needs / "pruned" if method.structure_from and run.needs else place / "pruned"
        if method.method is not None:
            counts = [f"counts_from={Path(exp_dir) / run.needs / 'pruned'}"] if run.needs is not None else []
            yield python("prune", "--method", method.method, "--config", config.prune, *settings, *counts, seed,
                          "--teacher", config.teacher, "--exp-dir", str(pruned), *data)  # fmt: skip
        yield python("extract", "--pruned", str(pruned), "--exp-dir", extracted, *_extraction(config, run))
        if method.finetune:
            yield python("finetune", "--config", config.finetune, *trained, "--init", extracted,
                          "--teacher", config.teacher, "--exp-dir", str(final), *data)  # fmt: skip


def _extraction(config: SweepConfig, run: Run) -> list[str]:
    method = run.config
    options = [*config.data_options("train"), "--lang-dir", config.lang_dir]
    if method.reinitialise:
        options += ["--reinitialise", str(run.seed)]
    if method.repair:
        options += ["--repair", str(method.repair), "--teacher", config.teacher]
    return options


def fingerprint(config: SweepConfig, run: Optional[Run], exp_dir: PathLike) -> str:
    """Stands for all that decides a run: its commands, the configurations, and what it stands on."""
    words = [word for line in commands(config, run, exp_dir) for word in line[2:]]
    parts = [*words, *_fingerprints(config, "" if run is None else run.target)]
    if run is not None and run.needs is not None:
        parts += [fingerprint(config, other, exp_dir) for other in expand(config) if other.name == run.needs]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
