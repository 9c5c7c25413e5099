"""Results of a sweep: a small file for each run, and the comparison made from them."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np

from pruning import old_forms
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.measurement import SCHEMA, Measurement, Utterances, check_schema
from pruning.files import PathLike, read_json, write_json
from pruning.kinds import kind as kinds
from pruning.kinds.measuring import MEASURES, Measure
from pruning.models.facts import read_facts
from pruning.speech.scoring.bootstrap import Design, Estimate, Sample, holm
from pruning.sweeps.definition import SweepConfig
from pruning.sweeps.lines import TEACHER
from pruning.sweeps.sweep import Run, expand, final_dir, trained

logger = logging.getLogger(__name__)

UTTERANCES, RESULTS, LEGEND = "utterances.json", "results", "sweep.json"
SPOKEN = ("words", "tokens")
"""Columns that are the same for every run; only the teacher's result contains them."""
_REMEDY = "give the results directory of a sweep"
_KEPT = ("encoder_parameters", "blocks_parameters", "parameters", "nonzero_parameters", "macs_10s", "macs_30s",
         "macs_per_token", "decoder_macs_10s", "output_macs_10s", "tokens_10s")  # fmt: skip


def result_path(results: PathLike, run: Optional[Run]) -> Path:
    """Return the path of a run's result; None stands for the teacher."""
    return Path(results) / f"{TEACHER if run is None else run.name}.json"


def is_done(results: PathLike, run: Optional[Run], made_by: str) -> bool:
    """Return whether the result of a run exists and was made by the same commands and configurations."""
    path = result_path(results, run)
    return path.is_file() and read_json(path).get("made_by") == made_by


def gather(config: SweepConfig, run: Optional[Run], exp_dir: PathLike, results: PathLike, made_by: str) -> None:
    """Write the measurements of a run to a JSON file: sizes, dev loss, and the columns of each test set.

    Args:
        config: configuration of the sweep.
        run: the run; None for the teacher.
        exp_dir: directory of the sweep.
        results: directory of the result files, which may be kept in a repository.
        made_by: fingerprint of the commands and configurations of the run.

    Raises:
        UserError: a test set was not decoded or measured.
    """
    place = final_dir(exp_dir, run)
    facts = read_facts(place)
    measured = config.measuring.gather(config.test_data, place)
    sets = {one.set: one.compact(leave_out=() if run is None else SPOKEN) for one in measured}
    named = {"method": run.method, "target": run.target, "seed": run.seed} if run is not None else {"method": TEACHER}
    axes = (config.measuring.measure.size[0], config.measuring.measure.computation[0])
    network, dense = ({key: known[key] for key in (*_KEPT, *axes) if key in known} for known in (facts, facts["dense"]))
    value = {"schema": SCHEMA, **named, "network": network, "dense": dense, "made_by": made_by, "sets": sets}
    dev = checkpoint.read_header(checkpoint.best_path(place)).get("dev")
    if dev is not None:
        value["dev"] = dev["task"]
    if run is not None:
        value["training"] = trained(run, exp_dir)
    write_json(result_path(results, run), value)


def write_utterances(config: SweepConfig, results: PathLike, made_by: Mapping[str, str]) -> None:
    """Write the speaker of each test utterance, the lines of the sweep, and the list of its results.

    Args:
        config: configuration of the sweep.
        results: directory of the result files.
        made_by: name of a run (or the teacher) -> fingerprint that its result must have.
    """
    sets = {name: found.to_dict() for name, found in config.measuring.utterances(config.test_data).items()}
    write_json(Path(results) / UTTERANCES, {"schema": SCHEMA, "sets": sets})
    write_json(Path(results) / LEGEND, legend_of(config, made_by))


def legend_of(config: SweepConfig, made_by: Mapping[str, str]) -> dict[str, Any]:
    """Return what a results directory says of the lines of its sweep, as JSON values; see `write_utterances`."""
    return {"schema": SCHEMA, "reference": config.reference, "decoding": config.decoding,
            "measure": config.measuring.name, "kind": config.kind.name,
            "methods": {name: line.words for name, line in config.methods.items()},
            "shown": {name: line.shown for name, line in config.methods.items() if line.shown},
            "curves": {name: line.curve for name, line in config.methods.items() if line.curve},
            "fresh": [name for name, line in config.methods.items() if line.fresh],
            "dense": [name for name, line in config.methods.items() if line.dense],
            "claims": {name: dataclasses.asdict(claim) for name, claim in config.claims.items()},
            "targets": {name: list(settings) for name, settings in config.targets.items()},
            "runs": [[run.target, run.method, run.seed] for run in expand(config)],
            "results": dict(made_by)}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A method at a target: its runs over seeds. Errors are those of `pruning.experiments.measurement.COUNTS`.

    Attributes:
        method, target: name of the method and of the target; the target of the teacher is empty.
        seeds: seeds of the runs.
        network, dense: sizes of the network of the first run, and of the teacher.
        errors: ``(seeds, U)``, the utterances of all test sets in a fixed order.
        words: ``(U,)``, what errors are counted in.
        sets: ``(U,)``, the test set of each utterance.
        nll_per_token: mean over runs and sets, without utterances that have no likelihood; None: not measured.
        dev: dev loss by which checkpoints are chosen, a mean over the seeds; None: not known.
        steps, seconds: of training, pruning and extraction included, without those of the teacher; means over the
            seeds; None: not known.
    """

    method: str
    target: str
    seeds: tuple[int, ...]
    network: Mapping[str, float]
    dense: Mapping[str, float]
    errors: np.ndarray
    words: np.ndarray
    sets: np.ndarray
    nll_per_token: Optional[float] = None
    dev: Optional[float] = None
    steps: Optional[float] = None
    seconds: Optional[float] = None

    @property
    def name(self) -> str:
        """Name of the line, like those of runs: teacher, or target/method."""
        return f"{self.target}/{self.method}" if self.target else TEACHER

    @property
    def rates(self) -> np.ndarray:
        """Pooled word error rate of each run in percent."""
        return 100.0 * self.errors.sum(axis=1) / self.words.sum()

    def set_rate(self, name: str) -> float:
        """Return the word error rate over all runs on one set, in percent."""
        of_set = self.sets == name
        return float(100.0 * self.errors[:, of_set].sum() / (len(self.seeds) * self.words[of_set].sum()))


@dataclass(frozen=True)
class Comparison:
    """All lines of a sweep over the same utterances.

    Attributes:
        lines: lines in the order of targets and methods in the sweep file, the teacher first.
        design: how utterances are resampled.
        reference: the method that others are compared with.
        legend: method -> description.
        claims: claim -> ``{"better": method, "than": [methods], "margin": how much more it may err}``.
        planned: (target, method) -> seeds that the sweep defines.
        commits: commits at which the results were measured.
        measure: meaning of the rates.
        curves: method -> name of the curve over several budgets that it is a point of, if not its own.
        fresh: methods whose encoder starts with random weights.
        dense: methods that train the teacher on, without pruning.
        names: method -> its name in tables and plots, if it has another.
    """

    lines: list[Line]
    design: Design
    reference: str
    legend: Mapping[str, str]
    claims: Mapping[str, Mapping[str, Any]]
    planned: Mapping[tuple[str, str], list[int]]
    commits: tuple[str, ...]
    measure: Measure = MEASURES["wer"]
    curves: Mapping[str, str] = field(default_factory=dict)
    fresh: frozenset[str] = frozenset()
    dense: frozenset[str] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)

    def shown(self, method: str) -> str:
        """Return the name of a method or curve in tables and plots."""
        return self.names.get(method, method)

    @property
    def targets(self) -> list[str]:
        """Names of the targets in order."""
        return list(dict.fromkeys(line.target for line in self.lines if line.target))

    def line(self, method: str, target: str) -> Optional[Line]:
        """Return the line of a method at a target; None if it was not run. The teacher belongs to every target."""
        at = "" if method == TEACHER else target
        found = [line for line in self.lines if (line.method, line.target) == (method, at)]
        return found[0] if found else None

    def sample(self, line: Line) -> Sample:
        """Return the pooled word error rate over seeds, resampled over speakers and utterances.

        What another seed would give is added with the deviation of all lines (`seed_deviation`): two or three seeds of
        a line alone say too little about it.
        """
        drawn = self.design.rate(line.errors, line.words)
        if not line.target or self.seed_deviation is None:
            return drawn
        return drawn.spread(self.seed_deviation / math.sqrt(len(line.seeds)), self.seed_freedom, line.name)

    @property
    def seed_freedom(self) -> int:
        """Degrees of freedom of `seed_deviation`: seeds beyond the first of each line."""
        return sum(len(line.seeds) - 1 for line in self.lines)

    @functools.cached_property
    def seed_deviation(self) -> Optional[float]:
        """Standard deviation between seeds, pooled over the lines with several seeds; None if there are none."""
        squares = sum(line.rates.var() * len(line.seeds) for line in self.lines)
        return math.sqrt(squares / self.seed_freedom) if self.seed_freedom else None

    def curve(self, name: str, target: str) -> list[Line]:
        """Return the lines of a curve at a target that have known steps, by their steps."""
        found = [line for line in self.lines if line.target == target and line.steps is not None
                 and self.curves.get(line.method, line.method) == name]  # fmt: skip
        return sorted(found, key=lambda line: line.steps or 0.0)

    def missing(self, method: str, target: str) -> list[int]:
        """Return the seeds of a line that the sweep defines but that have no result."""
        line = self.line(method, target)
        return [seed for seed in self.planned.get((target, method), []) if line is None or seed not in line.seeds]

    def differences(self, target: str, of: str, others: Sequence[str]) -> dict[str, tuple[Estimate, float]]:
        """Return for each of ``others`` run at ``target`` its rate minus that of ``of``, and its p by Holm."""
        base = self.line(of, target)
        found = [line for line in (self.line(name, target) for name in others) if line is not None and line is not base]
        if base is None:
            return {}
        excess = {line.method: self.sample(line) - self.sample(base) for line in found}
        corrected = holm({name: value.p_value for name, value in excess.items()})
        return {name: (value.interval, corrected[name]) for name, value in excess.items()}


def read(results: PathLike) -> Comparison:
    """Read the files that `gather` and `write_utterances` wrote.

    Raises:
        UserError: files are missing, or two runs were measured on different utterances.
    """
    directory = Path(results)
    sets = {name: Utterances.from_dict(of_set) for name, of_set in
            _read(directory / UTTERANCES, old_forms.sweep_utterances)["sets"].items()}  # fmt: skip
    legend = _read(directory / LEGEND, old_forms.legend)
    paths = {directory / f"{name}.json": made_by for name, made_by in legend["results"].items()}
    files = [path for path, made_by in paths.items() if path.is_file() and read_json(path).get("made_by") == made_by]
    lacking = [str(path.relative_to(directory)) for path in paths if path not in files]
    if lacking:
        logger.warning("%s: left out because missing or made by other settings: %s; run the sweep again", directory,
                       ", ".join(lacking))  # fmt: skip
    if not files:
        raise UserError(f"{directory} contains no results", _REMEDY)
    if result_path(directory, None) not in files:
        raise UserError(f"{directory} has no result of the teacher", "run the sweep again, which measures it")
    found: dict[tuple[str, str], list[_Result]] = {}
    spoken: Mapping[str, Measurement] = {}
    for path in sorted(files, key=lambda path: path != result_path(directory, None)):
        result = _result(path, legend["measure"], sets, spoken)
        spoken = spoken or result.sets  # the teacher comes first
        found.setdefault((result.named["method"], result.named.get("target", "")), []).append(result)
    lines = [_line(method, target, results) for (method, target), results in found.items()]
    ranks = {name: index for index, name in enumerate([TEACHER, *legend["methods"]])}
    targets = {name: index for index, name in enumerate(["", *legend["targets"]])}
    lines.sort(key=lambda line: (targets.get(line.target, 99), ranks.get(line.method, 99)))
    measured = [one for of_line in found.values() for result in of_line for one in result.sets.values()]
    commits = {str(one.provenance["commit"]) for one in measured}
    design = Design.of_sets((name, *pair) for name, of_set in sets.items() for pair in zip(of_set.ids, of_set.speakers))
    planned: dict[tuple[str, str], list[int]] = {}
    for target, method, seed in legend["runs"]:
        planned.setdefault((target, method), []).append(seed)
    return Comparison(lines, design, legend["reference"], legend["methods"], legend["claims"], planned,
                      tuple(sorted(commits)), _measure_of(legend), legend.get("curves", {}),
                      frozenset(legend.get("fresh", ())), frozenset(legend.get("dense", ())),
                      legend.get("shown", {}))  # fmt: skip


@dataclass(frozen=True)
class _Result:
    """The result of a run: what names it, its sizes and its dev loss, and what was measured on each set."""

    named: Mapping[str, Any]
    sets: Mapping[str, Measurement]


def _read(path: Path, converted: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Read a file of a sweep; one of an older version is ``converted``."""
    value = read_json(path, _REMEDY)
    value = value if "schema" in value else converted(value)
    check_schema(value, path, "run the sweep again")
    return value


def _result(
    path: Path, measure: str, sets: Mapping[str, Utterances], spoken: Mapping[str, Measurement]
) -> _Result:  # fmt: skip
    """Read the result of a run.

    Args:
        path: of the file.
        measure: measure of the sweep.
        sets: utterances of each test set.
        spoken: what was measured of the teacher, which has the columns `SPOKEN`; empty for the teacher itself.

    Raises:
        UserError: the run was measured on other utterances.
    """
    value = _read(path, functools.partial(old_forms.sweep_result, measure=measure))
    if {name: of_set["utterances"] for name, of_set in value["sets"].items()} != {
        name: of_set.stamp for name, of_set in sets.items()
    }:
        raise UserError(f"{path} was measured on other utterances than {UTTERANCES} names", "run the sweep again")
    spoken = {name: one.only(SPOKEN) for name, one in spoken.items()}
    measured = {name: Measurement.expanded(value["sets"][name], name, utterances, spoken.get(name))
                for name, utterances in sets.items()}  # fmt: skip
    return _Result(value, measured)


def _measure_of(legend: Mapping[str, Any]) -> Measure:
    """Return the measure of a sweep: a general one, or one of its kind of network."""
    name = legend["measure"]
    return MEASURES[name] if name in MEASURES else kinds.find(legend.get("kind"), LEGEND).own_measures()[name]


def _line(method: str, target: str, results: Sequence[_Result]) -> Line:
    """Make a line from the results of its seeds."""
    results = sorted(results, key=lambda result: result.named.get("seed", 0))
    first, values = results[0], [result.named for result in results]
    counts = [[one.counts() for one in result.sets.values()] for result in results]
    errors = np.stack([np.concatenate([errors for errors, _ in of_run]) for of_run in counts])
    sets = np.array([name for name, one in first.sets.items() for _ in one.utterances.ids])
    dev = [value["dev"] for value in values if "dev" in value]
    return Line(method, target, tuple(int(value.get("seed", 0)) for value in values), values[0]["network"],
                values[0]["dense"], errors, np.concatenate([of for _, of in counts[0]]), sets,
                _nll_per_token([one for result in results for one in result.sets.values()]),
                sum(dev) / len(dev) if dev else None,
                _mean_of_training(values, "steps"), _mean_of_training(values, "seconds"))  # fmt: skip


def _mean_of_training(values: Sequence[Mapping[str, Any]], name: str) -> Optional[float]:
    """Return a mean over the results of all seeds; None if one of them lacks the value."""
    found = [value.get("training", {}).get(name) for value in values]
    known = [float(one) for one in found if one is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None


def _nll_per_token(measured: Sequence[Measurement]) -> Optional[float]:
    """Return nats per token, without utterances that have no likelihood; None: none was measured."""
    sums = [one.known_totals("nll", "tokens") for one in measured if one.has("nll")]
    nats, tokens = (sum(of) for of in zip(*sums)) if sums else (0.0, 0.0)
    return nats / tokens if tokens else None
