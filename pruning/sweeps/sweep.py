"""Sweeps: methods x targets x seeds from one teacher, as dependent runs of the ordinary commands."""

from __future__ import annotations

import fnmatch
import functools
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from pruning import configuration
from pruning.errors import UserError
from pruning.experiments import checkpoint, directory
from pruning.files import PathLike, read_json
from pruning.kinds.measuring import python
from pruning.provenance import file_fingerprint
from pruning.sweeps import definition
from pruning.sweeps.definition import PARTS, SweepConfig, uniform_target
from pruning.sweeps.lines import TEACHER, TOTAL, MethodConfig

_FOLDER = re.compile(rb'("(?:source|storage_path)": ")[^"]*/')
"""Folder of an audio or feature file in a manifest of lhotse."""


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


def load(path: PathLike, thorough: bool = True, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read a sweep file, with its ``overrides``, and check its lines, targets and dependencies (see `definition.load`).

    Raises:
        UserError: with the file, and the line of the file if known.
    """
    config = definition.load(path, thorough, overrides)
    levels(expand(config))
    if config.budget is not None:
        _check_budgets(config, path)
    return config


def _check_budgets(config: SweepConfig, path: PathLike) -> None:
    """Refuse lines without steps of their own, and points of a curve at the same place."""
    points: dict[tuple[str, float], str] = {}
    for name, method in config.methods.items():
        steps = steps_of(config, method)
        if method.finetune and (steps.trained or 0) < 1:
            line = definition.line_of(path, ("methods", name))
            source = method.structure_from or name
            raise UserError(f"{path} line {line}: the pruning of {source} takes all the steps of {name}",
                            "give it a larger times, or that line a smaller prune_share")  # fmt: skip
        whole = (len(method.chain) + 1) * ((steps.pruned or 0) + (steps.trained or 0))
        other = points.setdefault((method.curve or name, whole), name)
        if other != name:
            line = definition.line_of(path, ("methods", name, "curve"))
            what = f"{path} line {line}: {other} and {name} are points of one curve and have {whole} steps each"
            raise UserError(what, "leave one out, or give it another times")


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


def chosen(found: Sequence[Run], patterns: Sequence[str]) -> list[Run]:
    """Return the runs whose names match one of the shell ``patterns``, and those that they depend on, in order.

    Raises:
        UserError: a pattern matches no run.
    """
    names: set[str] = set()
    for pattern in patterns:
        matching = fnmatch.filter([run.name for run in found], pattern)
        if not matching:
            raise UserError(f"no run matches {pattern}", "see --dry-run for the names, e.g. 'half/*/seed1'")
        names.update(matching)
    needed = {run.needs for run in found if run.name in names}
    while not needed <= {None, *names}:
        names |= {name for name in needed if name is not None}
        needed = {run.needs for run in found if run.name in names}
    return [run for run in found if run.name in names]


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
    """Return the fingerprint of a file, cached by its modification time (``st_mtime_ns``).

    Of a compressed file the content counts, because its bytes also tell when it was compressed; of a manifest in it
    not the folders of audio and features, which may be elsewhere on another machine.
    """
    if not path.endswith(".gz"):
        return file_fingerprint(path)
    digest = hashlib.sha256()
    try:
        with gzip.open(path) as stream:
            for line in stream:
                digest.update(_FOLDER.sub(rb"\1", line))
        return digest.hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a complete gzip file ({error})", "make it again") from None


def _teacher_fingerprint(config: SweepConfig, method: Optional[MethodConfig]) -> str:
    """Return the fingerprint of the teacher; of its dimensions alone for networks that take no weights of it."""
    path = checkpoint.file_of(config.teacher)
    if method is not None and method.uniform and not (method.inherit or method.distil):
        return json.dumps(checkpoint.read_header(path)["model"], sort_keys=True)
    return _content(str(path), path.stat().st_mtime_ns)


def _fingerprints(config: SweepConfig, target: str, method: Optional[MethodConfig]) -> list[str]:
    """Return fingerprints of all files that a run reads: configurations, data, tokens, teacher, latency table.

    Of configurations only the values count, not comments and order.
    """
    loaded = configuration.load(config.kind.pruning, config.prune, config.targets.get(target, []))
    constraint = loaded.constraint
    settings = [json.dumps(configuration.read(name), sort_keys=True)
                for name in (config.prune, config.finetune, config.scratch) if name is not None]  # fmt: skip
    names = [constraint.latency_table,
             *(path for part in PARTS for path in config.data(part)), str(config.table.path),
             config.vocabulary]  # fmt: skip
    contents = [_content(name, Path(name).stat().st_mtime_ns) for name in names if name is not None]
    return [*settings, *contents, _teacher_fingerprint(config, method)]


def pruned_exists(exp_dir: PathLike, name: str) -> bool:
    """Return whether the pruned network of a run, which others may depend on, is here."""
    return (Path(exp_dir) / name / "pruned" / directory.DONE).is_file()


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
    method = run.config
    if method.uniform:
        yield from _from_scratch(config, run, exp_dir)
    elif method.dense:
        yield python("finetune", *_trained(config, run), "--init", config.teacher, "--teacher", config.teacher,
                     "--exp-dir", str(final_dir(exp_dir, run)), *_data(config))  # fmt: skip
    else:
        yield from _cuts(config, run, exp_dir)


def _data(config: SweepConfig) -> list[str]:
    return ["--lang-dir", config.lang_dir, *config.data_options("train", "dev")]


def _trained(config: SweepConfig, run: Run) -> list[str]:
    """Return the configuration of training from scratch or of fine-tuning."""
    method = run.config
    base = config.scratch if method.uniform else config.finetune
    steps = steps_of(config, method).trained
    settings = [*config.settings, *method.finetune_settings, f"trainer.seed={run.seed}"]
    return ["--config", str(base), *settings, *_max_steps(steps)]


def _max_steps(steps: Optional[int]) -> list[str]:
    return [] if steps is None else [f"trainer.max_steps={steps}"]


def _from_scratch(config: SweepConfig, run: Run, exp_dir: PathLike) -> Iterator[list[str]]:
    method, dimensions = run.config, str(Path(exp_dir) / run.name / "dimensions.json")
    cost, target = uniform_target(config, run.target)
    yield python("uniform", "--dense", config.teacher, "--cost", cost, "--share", str(round(1 - target, 6)),
                 "--narrow", str(method.uniform), "--output", dimensions)  # fmt: skip
    shared = ["--inherit", config.teacher] * method.inherit + ["--teacher", config.teacher] * method.distil
    yield python("train", *_trained(config, run), "--exp-dir", str(final_dir(exp_dir, run)), "--model", dimensions,
                 *shared, *_data(config))  # fmt: skip


def _cuts(config: SweepConfig, run: Run, exp_dir: PathLike) -> Iterator[list[str]]:
    """Yield the commands that prune, extract and fine-tune, for each cut of a chain."""
    method, steps = run.config, steps_of(config, run.config)
    init: list[str] = []
    whole = config.teacher  # the network that the cut begins from, whose dimensions the pruned one has
    for place, target in zip(_places(run, exp_dir), (*([cut] for cut in method.chain), [])):
        pruned = place / "pruned"
        if method.structure_from and run.needs:
            pruned = Path(exp_dir) / run.needs / "pruned"
        if method.method is not None:
            counts = [f"counts_from={Path(exp_dir) / run.needs / 'pruned'}"] if run.needs is not None else []
            settings = [*config.settings, *config.targets[run.target], *method.settings, *target]
            yield python("prune", "--method", method.method, "--config", config.prune, *settings, *counts,
                         f"trainer.seed={run.seed}", *_max_steps(steps.pruned), "--teacher", config.teacher, *init,
                         "--exp-dir", str(pruned), *_data(config))  # fmt: skip
        extracted = str(place / "extracted")
        yield python("extract", "--pruned", str(pruned), "--exp-dir", extracted, *_extraction(config, run, whole))
        if method.finetune:
            yield python("finetune", *_trained(config, run), "--init", extracted, "--teacher", config.teacher,
                         "--exp-dir", str(place / "finetuned"), *_data(config))  # fmt: skip
        whole = str(place / "finetuned")
        init = ["--init", whole]


def _places(run: Run, exp_dir: PathLike) -> list[Path]:
    """Return the directory of each cut; that of the last one is the run's."""
    place = Path(exp_dir) / run.name
    return [*(place / f"cut{number}" for number in range(1, len(run.config.chain) + 1)), place]


@dataclass(frozen=True)
class Steps:
    """Steps of one cut of a line: of pruning, and of fine-tuning or training. None: those of the configuration."""

    pruned: Optional[int] = None
    trained: Optional[int] = None


def steps_of(config: SweepConfig, method: MethodConfig) -> Steps:
    """Return the steps that the budget of a sweep gives to a line; without fine-tuning, all of them are of pruning.

    Raises:
        UserError: the steps of the teacher are needed and not known.
    """
    if config.budget is None:
        return Steps()
    whole = round(method.times * config.budget.steps)
    if method.budget == TOTAL:
        whole += teacher_steps(config)
    whole //= len(method.chain) + 1
    if method.fresh or method.dense:
        return Steps(trained=whole)
    if method.structure_from is not None:  # the steps of its pruning are those of the other line
        taken = steps_of(config, config.methods[method.structure_from]).pruned or 0
        return Steps(trained=whole - taken if method.finetune else 0)
    share = method.prune_share or (config.budget.prune_share if method.finetune else 1.0)
    pruned = round(whole * share)
    return Steps(pruned, whole - pruned if method.finetune else 0)


def teacher_steps(config: SweepConfig) -> int:
    """Return the number of steps that the teacher was trained for.

    Raises:
        UserError: it is not known.
    """
    assert config.budget is not None
    if config.budget.teacher_steps is not None:
        return config.budget.teacher_steps
    try:
        return directory.steps_of(config.teacher)
    except UserError as error:
        raise UserError(error.what, "set budget.teacher_steps") from None


def trainings(run: Run, exp_dir: PathLike) -> list[Path]:
    """Return the experiment directories in which the network of a run was trained, pruning included.

    A network with fresh weights takes its structure from another run, but none of its training.
    """
    method = run.config
    names = ["pruned"] * (method.method is not None) + ["finetuned"] * method.finetune
    found = [place / name for place in _places(run, exp_dir) for name in names]
    if method.structure_from and run.needs and not method.reinitialise:
        found.insert(0, Path(exp_dir) / run.needs / "pruned")
    return found


def trained(run: Run, exp_dir: PathLike) -> dict[str, float]:
    """Return the ``steps`` and the ``seconds`` of a run's training; ``seconds`` only if all of it recorded them.

    The seconds of extractions, which may repair weights, are included if they are known.
    """
    done = [read_json(place / directory.DONE) for place in trainings(run, exp_dir)]
    found = {"steps": float(sum(one["step"] for one in done))}
    if all("seconds" in one for one in done):
        extractions = [place / "extracted" / directory.EXTRACTION for place in _places(run, exp_dir)]
        done += [read_json(path) for path in extractions if path.is_file()]
        found["seconds"] = round(sum(one["seconds"] for one in done), 1)
    return found


def _extraction(config: SweepConfig, run: Run, whole: str) -> list[str]:
    """Return the options of the extraction of a cut that began from the network ``whole``."""
    method = run.config
    options = [*config.data_options("train"), "--lang-dir", config.lang_dir]
    if method.reinitialise:
        options += ["--reinitialise", str(run.seed)]
    if method.repair:
        options += ["--repair", str(method.repair), "--teacher", whole]
    return options


def fingerprint(config: SweepConfig, run: Optional[Run]) -> str:
    """Return a fingerprint of all that determines a run: its commands, its configurations and what it depends on.

    Where files are does not count, only their contents: experiments, data and results may move to another machine.
    """
    places = _places_of(config)
    lines = commands(config, run, "EXP")
    parts = [places.get(word, word) for line in lines for word in line[2:]]
    parts += _fingerprints(config, "", None) if run is None else _fingerprints(config, run.target, run.config)
    if run is not None and run.needs is not None:
        parts += [fingerprint(config, other) for other in expand(config) if other.name == run.needs]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _places_of(config: SweepConfig) -> dict[str, str]:
    """Return what stands for the path of each file in fingerprints; test sets are named after their files."""
    roles = {config.teacher: "teacher", config.lang_dir: "lang_dir", config.prune: "prune", config.finetune: "finetune"}
    roles |= {path: role for path, role in ((config.scratch, "scratch"), (config.vocabulary, "vocabulary")) if path}
    return roles | {path: Path(path).name for part in PARTS for path in config.data(part)}
