"""The content of a sweep file, and the checks that all of its runs are possible."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Optional

import yaml
from torch import nn

from pruning import configuration, registry
from pruning.core.names import COSTS
from pruning.errors import UserError
from pruning.files import PathLike
from pruning.kinds import kind as kinds
from pruning.kinds.kind import Inputs, Kind
from pruning.kinds.measuring import MEASURES, Measuring, TestData
from pruning.limits import OneOf, Seed, check_fields
from pruning.methods.choice import new_pruner
from pruning.methods.config import check_settings
from pruning.methods.names import METHODS
from pruning.models.facts import cost_model
from pruning.registry import CUTS, TEXT
from pruning.speech.data import manifests
from pruning.speech.scoring.word_errors import SCORED
from pruning.speech.text.table import OutputTable
from pruning.speech.text.text_files import check_texts
from pruning.sweeps.lines import TEACHER, BudgetConfig, ClaimConfig, GridConfig, MethodConfig, check_list

PARTS = ("train", "dev", "test")
_NAME = re.compile(r"\w[\w.+%-]*")
_TAKEN = (TEACHER, "log", "results")  # what a sweep has in its directory beside the targets


@dataclass(frozen=True)
class SweepConfig:
    """Definition of a sweep.

    Attributes:
        teacher: experiment directory of the dense network.
        lang_dir: lang dir with the tokens.
        train_cuts, dev_cuts, test_cuts: data of networks with speech input; a test set is named after its manifest.
        train_text, dev_text, test_text: data of a language model; a test set is named after its file.
        vocabulary: for a language model: file of the words that count (see ``pruning.bin.perplexity``).
        prune, finetune, scratch: configuration files that all lines share.
        settings: overrides for all three, e.g. ``["trainer.num_threads=1"]`` for several runs at once.
        targets: name -> settings of the constraint, e.g. ``half: [constraint.size=0.5]``.
        methods: name -> line.
        grids: more lines, made from combinations.
        seeds: training seeds.
        reference: the line that the others are compared with.
        claims: claims to decide, by name.
        decoding: decoding method of recognisers; ``ctc_greedy_search`` for CTC.
        score_in: what errors of recognisers are counted in: ``words`` or ``characters``.
        budget: training steps of all lines; None: those of the configuration files.
    """

    teacher: str
    lang_dir: str
    prune: str
    finetune: str
    targets: dict[str, list[str]]
    reference: str
    methods: dict[str, MethodConfig] = field(default_factory=dict)
    grids: list[GridConfig] = field(default_factory=list)
    train_cuts: tuple[str, ...] = ()
    dev_cuts: tuple[str, ...] = ()
    test_cuts: tuple[str, ...] = ()
    train_text: tuple[str, ...] = ()
    dev_text: tuple[str, ...] = ()
    test_text: tuple[str, ...] = ()
    vocabulary: Optional[str] = None
    claims: dict[str, ClaimConfig] = field(default_factory=dict)
    scratch: Optional[str] = None
    settings: tuple[str, ...] = ()
    seeds: tuple[Seed, ...] = (1,)
    decoding: str = "greedy_search"
    score_in: Annotated[str, OneOf(tuple(SCORED))] = "words"
    budget: Optional[BudgetConfig] = None

    @property
    def form(self) -> str:
        """Form of the data: cuts or text."""
        return TEXT if self.train_text else CUTS

    @functools.cached_property
    def kind(self) -> type[Kind[Any]]:
        """Kind of network, as named by the pruning configuration.

        Raises:
            UserError: the configuration cannot be read, or names an unknown kind.
        """
        return kinds.find(registry.name_for(configuration.read(self.prune), self.form), self.prune)

    @functools.cached_property
    def measuring(self) -> Measuring:
        """How networks of this kind are measured.

        Raises:
            UserError: ``score_in`` is given, but networks of this kind are not measured by word errors.
        """
        found = self.kind.measuring(configuration.load(self.kind.training, self.finetune))
        if self.score_in == "words":
            return found
        if found.measure is not MEASURES["wer"]:
            raise UserError(f"score_in does not apply to {self.kind.called}, measured by {found.measure.name}",
                            "leave it out")  # fmt: skip
        return replace(found, measure=MEASURES["cer"], name="cer")

    @property
    def test_data(self) -> TestData:
        """Data on which the networks are measured."""
        return TestData(self.data("test"), self.lang_dir, self.decoding, self.vocabulary, self.score_in)

    def load_teacher(self) -> tuple[nn.Module, Mapping[str, Any]]:
        """Load the dense network and the header of its checkpoint.

        Raises:
            UserError: it does not exist, or does not match the kind and tokens of the sweep.
        """
        return self.kind.load_network(self.teacher, self.table)

    @functools.cached_property
    def table(self) -> OutputTable:
        """Output table: tokens or intents."""
        return self.kind.table(configuration.load(self.kind.training, self.finetune), self.lang_dir)

    def data(self, part: str) -> tuple[str, ...]:
        """Return the files of ``train``, ``dev`` or ``test``."""
        return tuple(getattr(self, f"{part}_{self.form}"))

    def data_options(self, *parts: str) -> list[str]:
        """Return the command line options for these parts of the data."""
        return [word for part in parts for word in (f"--{part}-{self.form}", *self.data(part))]

    def __post_init__(self) -> None:
        check_fields(self)
        given = [bool(getattr(self, f"{part}_{kind}")) for kind in (CUTS, TEXT) for part in PARTS]
        if given not in ([True] * 3 + [False] * 3, [False] * 3 + [True] * 3):
            raise ValueError("give train_cuts, dev_cuts and test_cuts, or train_text, dev_text and test_text")
        if self.vocabulary is not None and self.form != TEXT:
            raise ValueError("vocabulary is for language models only")
        for grid in self.grids:
            for name, line in grid.lines().items():
                if name in self.methods:
                    raise ValueError(f"line {name!r} is defined twice")
                self.methods[name] = line
        for name in ("seeds", "targets", "methods"):
            check_list(list(getattr(self, name)), name)
        for name in (*self.targets, *self.methods):
            if not _NAME.fullmatch(name) or name in _TAKEN:
                raise ValueError(f"invalid name {name!r} of a line or target: use letters, digits and _ . + % -, "
                                 f"and none of {', '.join(_TAKEN)}")  # fmt: skip


def load(path: PathLike, thorough: bool = True, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read a sweep file and check that its lines and targets fit together.

    Args:
        path: path of the file.
        thorough: also check that every line can be run; this prepares a network for each.
        overrides: ``KEY=VALUE``, which replace keys of the file, such as ``test_cuts=[...]``.

    Raises:
        UserError: with the file, and the line of the file if known.
    """
    config = configuration.load(SweepConfig, path, list(overrides))

    def wrong(what: str, remedy: str, *keys: str) -> UserError:
        line = line_of(path, keys)
        return UserError(f"{path}{f' line {line}' if line else ''}: {what}", remedy)

    decodings = config.measuring.decodings
    if decodings and config.decoding not in decodings:
        raise wrong(f"decoding method {config.decoding!r} does not support {config.kind.called}",
                    f"choose from {', '.join(decodings)}", "decoding")  # fmt: skip
    if config.reference not in config.methods:
        raise wrong(f"the reference {config.reference!r} is not one of methods", "name one of them", "reference")
    for name, claim in config.claims.items():
        if not claim.than or claim.better in claim.than:
            raise wrong(f"claim {name!r} compares {claim.better} with {', '.join(claim.than) or 'nothing'}",
                        "name other lines in than", "claims", name)  # fmt: skip
        for line in (claim.better, *claim.than):
            if line not in config.methods and line != TEACHER:
                raise wrong(f"claim {name!r} names {line!r}, which is not a line", "correct it", "claims", name)
    for name, method in config.methods.items():
        where = _keys(config, name)
        if method.method is not None and method.method not in METHODS:
            known = ", ".join(METHODS)
            raise wrong(f"unknown method {method.method!r}", f"choose from {known}", *where, "method")
        if method.stands_on is not None and method.stands_on not in config.methods:
            key = "structure_from" if method.structure_from else "counts_from"
            raise wrong(f"{name} depends on {method.stands_on!r}, which is not a line", "correct it", *where, key)
        if method.stands_on is not None and config.methods[method.stands_on].method is None:
            what = f"{name} depends on {method.stands_on!r}, which does not prune"
            raise wrong(what, "name a line with a method", *where)
        source = config.methods.get(method.structure_from or "")
        if source is not None and source.chain and not method.reinitialise:
            what = f"{name} takes the weights of {method.structure_from}, which has a chain of cuts"
            raise wrong(what, "name a line without a chain, or set reinitialise", *where, "structure_from")
        if config.budget is not None and method.method is not None and method.reinitialise:
            what = f"{name} prunes and then starts with fresh weights: the budget does not say which steps are whose"
            raise wrong(what, "prune in a line of its own, and use structure_from with reinitialise here", *where)
        if method.uniform and config.scratch is None:
            raise wrong(f"{name} is trained from scratch", "set scratch to a configuration file", *where)
        if config.budget is None and method.budgeted:
            raise wrong(f"{name} has a budget, but the sweep has none", "set budget of the sweep", *where)
        for target in (*(method.targets or ()), *method.more_seeds):
            if target not in config.targets:
                raise wrong(f"{name} names the unknown target {target!r}", "name one of targets", *where, "targets")
    if thorough:
        _check_settings(config, path)
    return config


def _check_settings(config: SweepConfig, path: PathLike) -> None:
    """Check that every configuration can be read and that the teacher can reach every target."""
    files = [path for part in PARTS for path in config.data(part)]
    (check_texts if config.form == TEXT else manifests.check_exists)(files)
    if config.vocabulary is not None:
        check_texts([config.vocabulary])
    network, header = config.load_teacher()
    for name, method in config.methods.items():
        for target in method.targets or config.targets:
            for keys, check in _checks(config, network, header["tokenizer"], name, target):
                try:
                    check()
                except UserError as error:
                    line = line_of(path, keys)
                    where = f"{path}{f' line {line}' if line else ''}, {name} at {target}"
                    raise UserError(f"{where}: {error.what}", error.remedy) from None


def _checks(
    config: SweepConfig, network: nn.Module, tokens: dict[str, Any], name: str, target: str
) -> Iterator[tuple[Sequence[str], Callable[[], object]]]:
    """Yield the checks of a line at a target in order, each with the keys of the value that is wrong if it fails.

    ``tokens`` is what the teacher's checkpoint records about its outputs; every configuration must match it.
    """
    method, of_target = config.methods[name], ("targets", target)
    of_line = _keys(config, name)

    def load(kind: type, base: str, settings: Sequence[str]) -> Callable[[], object]:
        return functools.partial(configuration.load, kind, base, settings)

    def for_tokens(found: Any) -> None:
        config.kind.table(found, config.lang_dir).check_matches(tokens)

    shared = (*config.settings, *config.targets[target])
    yield ("settings",), load(config.kind.training, config.finetune, config.settings)
    base = config.scratch if method.uniform else config.finetune
    assert base is not None
    settings = (*config.settings, *method.finetune_settings)
    yield (*of_line, "finetune_settings"), load(config.kind.training, base, settings)
    if method.distil:
        yield (*of_line, "distil"), lambda: _check_distils(config, base, settings)
    if config.budget is not None:
        yield of_line, lambda: _check_steps((*settings, *shared, *method.settings))
    key = "scratch" if method.uniform else "finetune"
    yield (key,), lambda: for_tokens(configuration.load(config.kind.training, base, settings))
    yield of_target, load(config.kind.pruning, config.prune, shared)
    yield ("prune",), lambda: for_tokens(configuration.load(config.kind.pruning, config.prune, shared))
    if method.uniform:
        yield of_target, lambda: _uniform(config, network, str(method.uniform), target)
    if method.method is not None:
        settings = (*shared, f"method={method.method}", *method.settings)
        yield (*of_line, "settings"), load(config.kind.pruning, config.prune, settings)
        for cut in method.chain:
            yield (*of_line, "chain"), load(config.kind.pruning, config.prune, (*settings, cut))
        loaded = functools.partial(configuration.load, config.kind.pruning, config.prune, settings)
        yield (*of_line, "settings"), lambda: check_settings(loaded(), method.settings)
        yield of_target, lambda: check_settings(loaded(), shared)
        yield (*of_line, "settings"), lambda: _check_technique(config, network, loaded().technique)
        yield of_target, lambda: new_pruner(network, loaded(), loaded().trainer.seed)


def _check_distils(config: SweepConfig, base: str, settings: Sequence[str]) -> None:
    """Refuse a configuration without distillation."""
    inputs = Inputs(config.data("train"), config.data("dev"), config.lang_dir)
    if not config.kind(configuration.load(config.kind.training, base, settings), inputs).wants_teacher():
        raise UserError(f"{base} has no distillation, but the line has distil",
                        "set weights of distillation in finetune_settings")  # fmt: skip


def _check_steps(settings: Sequence[str]) -> None:
    """Refuse settings that contradict the budget."""
    if any(setting.startswith("trainer.max_steps=") for setting in settings):
        raise UserError("trainer.max_steps is set by the budget of the sweep", "use times or prune_share of the line")


def _check_technique(config: SweepConfig, network: nn.Module, technique: str) -> None:
    config.kind.capabilities(network).check_technique(technique, config.kind.called)


def _keys(config: SweepConfig, name: str) -> tuple[str, ...]:
    """Return the keys under which the file defines a line."""
    return ("grids",) if any(name in grid.lines() for grid in config.grids) else ("methods", name)


def _uniform(config: SweepConfig, network: nn.Module, narrow: str, target: str) -> nn.Module:
    cost, sparsity = uniform_target(config, target)
    budget = (1 - sparsity) * cost_model(network, 10.0).dense[cost]
    return config.kind.narrowed(network, narrow, cost, budget)


def uniform_target(config: SweepConfig, name: str) -> tuple[str, float]:
    """Return the cost and the sparsity of a uniformly narrowed network for a target."""
    targets = configuration.load(config.kind.pruning, config.prune, config.targets[name]).constraint.goals()
    cost, target = next(iter(targets.items()))
    if cost not in COSTS:
        what = f"cannot make a uniform network for a target of {cost} alone"
        raise UserError(what, "limit targets of the line to those of size or MACs")
    return cost, target


def line_of(path: PathLike, keys: Sequence[str]) -> Optional[int]:
    """Return the line number (from 1) at which the value of ``keys`` starts in a YAML file; None if not found."""
    try:
        node = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError):
        return None
    line = None
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = [(name, value) for name, value in pairs if str(name.value) == str(key)]
        if not found:
            return line
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return line
