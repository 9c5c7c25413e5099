"""Sweeps: methods x targets x seeds from one teacher, as dependent runs of the ordinary commands."""

from __future__ import annotations

import functools
import hashlib
import json
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
        method, target, seed: name of the line, name of the target, and seed.
        config: configuration of the line.
        needs: name of the run that must finish first.
    """

    method: str
    target: str
    seed: int
    config: MethodConfig = field(compare=False)
    needs: Optional[str] = None

    @property
    def name(self) -> str:
        """Name of the run, and its directory below that of the sweep."""
        return f"{self.target}/{self.method}/seed{self.seed}"


def load(path: PathLike, thorough: bool = True) -> SweepConfig:
    """Read a sweep file and check its lines, targets and dependencies (see `definition.load`).

    Raises:
        UserError: with the file, and the line of the file if known.
    """
    config = definition.load(path, thorough)
    levels(expand(config))
    return config


def expand(config: SweepConfig) -> list[Run]:
    """Return all runs of a sweep in the order of its file."""
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
    """Sort runs into waves; a run depends only on runs of earlier waves.

    Waves are ordered by seed, so that an interrupted sweep has as much as possible of the first seed.

    Raises:
        UserError: a run depends on one that is not in the sweep, or two runs depend on each other.
    """
    waves: list[list[Run]] = []
    done: set[str] = set()
    names = {run.name for run in found}
    for run in found:
        if run.needs is not None and run.needs not in names:
            raise UserError(f"{run.name} needs {run.needs}, which is not in the sweep", "give both the same seeds")
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
    """Return the fingerprint of a file, cached by its modification time (``st_mtime_ns``)."""
    return file_fingerprint(path)


def _fingerprints(config: SweepConfig, target: str) -> list[str]:
    """Return fingerprints of all files that a run reads: configurations, data, tokens, teacher, latency table.

    Of configurations only the values count, not comments and order.
    """
    loaded = configuration.load(config.kind.pruning, config.prune, config.targets.get(target, []))
    constraint = loaded.constraint
    settings = [json.dumps(configuration.read(name), sort_keys=True)
                for name in (config.prune, config.finetune, config.scratch) if name is not None]  # fmt: skip
    names = [constraint.latency_table,
             *(path for part in PARTS for path in config.data(part)), str(config.table.path),
             str(checkpoint.file_of(config.teacher)), config.vocabulary]  # fmt: skip
    return [*settings, *(_content(name, Path(name).stat().st_mtime_ns) for name in names if name is not None)]


def final_dir(exp_dir: PathLike, run: Optional[Run]) -> Path:
    """Return the experiment directory of a run's final network; None stands for the measured teacher."""
    if run is None:
        return Path(exp_dir) / TEACHER
    return Path(exp_dir) / run.name / ("finetuned" if run.config.finetune else "extracted")


def commands(config: SweepConfig, run: Optional[Run], exp_dir: PathLike) -> Iterator[list[str]]:
    """Yield the commands that make a run. Each resumes by itself and does nothing if it is done.

    Args:
        config: configuration of the sweep.
        run: the run; None for the teacher, which is only measured.
        exp_dir: directory of the sweep.
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
    """Return a fingerprint of all that determines a run: its commands, its configurations and what it depends on."""
    words = [word for line in commands(config, run, exp_dir) for word in line[2:]]
    parts = [*words, *_fingerprints(config, "" if run is None else run.target)]
    if run is not None and run.needs is not None:
        parts += [fingerprint(config, other, exp_dir) for other in expand(config) if other.name == run.needs]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
