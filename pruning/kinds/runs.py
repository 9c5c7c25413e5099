"""What runs of every kind of network have in common: pruning methods, checkpoints, structures, the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional, Protocol, cast

from torch import nn

from pruning import configuration
from pruning.core.constraint import ConstraintConfig
from pruning.core.criteria import CRITERIA
from pruning.core.low_rank import FactoredLinear, Metric, factorise, linear_names
from pruning.core.prunable import Prunable
from pruning.core.single_weights import SingleWeights, hold_zeros, is_of_single_weights
from pruning.core.structure import Structure
from pruning.core.units import unit_kinds
from pruning.deploy.extract import check_origin, extract_experiment
from pruning.errors import UserError, check_numbers
from pruning.experiments import checkpoint
from pruning.files import PathLike, read_json, write_json
from pruning.methods.base import Pruner
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from pruning.methods.l0 import Gating, GatingConfig
from pruning.methods.low_rank import LowRankPruning
from pruning.models import registry
from pruning.models.facts import describe, input_length, network_facts, read_facts, write_facts
from pruning.provenance import file_fingerprint
from pruning.speech.data.batches import Table
from pruning.tasks.pruned import FOUND, PrunedTask
from pruning.training import distributed
from pruning.training.trainer import Trainer
from pruning.training.trainer_config import TrainerConfig

logger = logging.getLogger(__name__)

L0 = "l0"
HJ = ("hj-size", "hj-mac", "hj-sepsize")
"""HJ-Pruning ("Structured Pruning of Self-Supervised Pre-trained Models for Speech Recognition and Understanding",
ICASSP 2023): L0 gates on channels of the frontend, heads and hidden units jointly, under one constraint on size, one on
MACs, or one on the size of each part."""
METHODS = (L0, *HJ, *CRITERIA)
_OF_HJ = dict(zip(HJ, ("size", "macs", "parts")))
STRUCTURE, SIZES = "structure.json", "sizes"
TECHNIQUES = ("structured", "unstructured", "low_rank")
NO_CELL = {
    (L0, "unstructured"): "gates are of units; every single weight would need one",
    (L0, "low_rank"): "gates are of units; components are ranked, by magnitude or taylor for example",
    **{(method, technique): "gates are of units" for method in HJ for technique in ("unstructured", "low_rank")},
    ("activation", "unstructured"): "what enters a weight is the same for its whole column; wanda weighs it",
}


@dataclass(frozen=True)
class PruningConfig:
    """How a run prunes.

    Attributes:
        method: one of `METHODS`: L0 gates; `HJ`'s, which are L0 gates on units alone, not on whole modules, under
            ``constraint.size``, ``constraint.macs`` or ``constraint.parts`` alone, whatever else the constraint says;
            or a criterion (see `pruning.core.criteria.UnitScores`).
        technique: what goes: ``structured``: the units that the network declares (heads, FFN units, channels);
            ``unstructured``: single weights of its linear layers; ``low_rank``: rank-1 components of these.
        constraint: what the small network may cost, and on which way it comes there.
        gating: of ``l0``: gates and learning rates.
        criterion: of the others: how units are scored, ranked and cut.
        counts_from: of the others: a ``structure.json`` or pruning run whose kept counts are taken.
        snapshots: of the others: shares of the first constrained cost to be removed, at which the run keeps a network,
            too, ready under ``sizes/COST-PERCENT`` of its directory: several sizes from one run.
        calibration_batches: of ``low_rank`` by ``fisher`` and ``wanda``: training batches that give their metric.
    """

    method: str = L0
    technique: str = "structured"
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    gating: GatingConfig = field(default_factory=GatingConfig)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    counts_from: Optional[str] = None
    snapshots: tuple[float, ...] = ()
    calibration_batches: int = 50

    def asked(self) -> ConstraintConfig:
        """The constraint, of `HJ`'s methods that of their own cost alone.

        Raises:
            ValueError: it does not have that.
        """
        if self.method not in HJ:
            return self.constraint
        own = _OF_HJ[self.method]
        values: dict[str, Any] = {"size": 0.0, "macs": 0.0, "latency": 0.0, "parts": {}}
        values[own] = getattr(self.constraint, own)
        if not values[own]:
            raise ValueError(f"{self.method} needs constraint.{own}")
        return replace(self.constraint, **values)

    def check(self, trainer: TrainerConfig) -> None:
        """What does not fit together.

        Raises:
            ValueError: naming it.
        """
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}, not one of {', '.join(METHODS)}")
        if self.technique not in TECHNIQUES:
            raise ValueError(f"technique is {self.technique!r}, not one of {', '.join(TECHNIQUES)}")
        check_numbers(self, "calibration_batches", least=1)
        reason = NO_CELL.get((self.method, self.technique))
        if reason is not None:
            raise ValueError(f"there is no {self.method} with {self.technique}: {reason}")
        if self.constraint.match and self.method not in (L0, *HJ):
            raise ValueError("constraint.match is of L0 gates; a criterion takes the other cost as its target")
        if self.counts_from is not None and self.technique != "structured":
            raise ValueError(f"counts_from has no effect with {self.technique}")
        if self.technique == "low_rank" and self.criterion.reopen:
            raise ValueError("criterion.reopen has no meaning with low_rank: what was cut is turned away")
        targets = self.asked().targets()
        if self.method == "hj-sepsize" and (len(targets) < 2 or not all(cost.startswith("size:") for cost in targets)):
            raise ValueError("hj-sepsize needs sizes of two parts in constraint.parts, such as "
                             "{size:frontend: 0.4, size:attention+ffn: 0.6}")  # fmt: skip
        final = next(iter(targets.values()))
        if self.snapshots and (self.method in (L0, *HJ) or self.counts_from is not None):
            raise ValueError("snapshots are of methods that rank units on their way to the target")
        if list(self.snapshots) != sorted(set(self.snapshots)) or not all(0 < s < final for s in self.snapshots):
            raise ValueError(f"snapshots ascend and lie between 0 and the target, {final:g}")
        if self.method in (L0, *HJ) and self.counts_from is not None:
            raise ValueError("counts_from is of methods that rank units; gates find their own counts")
        if self.method == "movement" and trainer.optimiser.lr == 0:
            raise ValueError("movement scores how weights move; give a trainer.optimiser.lr above 0")


def check_extracted(header: checkpoint.Header, source: PathLike) -> None:
    """Refuse the checkpoint of a pruning run, whose weights are those of the dense network.

    Raises:
        UserError: it is of one.
    """
    if FOUND in header:
        raise UserError(f"{source} is of a pruning run", "extract it first, and give the extracted network")


def load_network(
    source: PathLike, kind: type[nn.Module], wanted: str, tokenizer: Optional[Table] = None
) -> tuple[nn.Module, checkpoint.Header]:
    """A network of a ``kind``, dense or extracted, from a checkpoint or experiment directory.

    Args:
        source: checkpoint or experiment.
        kind: its class.
        wanted: what to give, for the message.
        tokenizer: whose tokens it must have been trained with; None: any.

    Raises:
        UserError: no such checkpoint, another kind of network, one that is not extracted yet, or another BPE model.
    """
    check_extracted(checkpoint.read_header(checkpoint.file_of(source)), source)
    model, header = checkpoint.load_model(source)
    if not isinstance(model, kind):
        raise UserError(f"{source} holds a {header['model']['type']}", f"give {wanted}")
    if tokenizer is not None:
        tokenizer.check_matches(header["tokenizer"])
    return model, header


def continued(model: nn.Module, header: checkpoint.Header) -> dict[str, Any]:
    """Make a network ready to be trained on: what was pruned of single weights stays zero.

    Returns:
        What its new checkpoints keep of its ``header``.
    """
    if "structure" in header and is_of_single_weights(Structure.from_dict(header["structure"])):
        hold_zeros(model)
    return {key: header[key] for key in ("structure", "dense", checkpoint.PRETRAINED) if key in header}


class HasVocabulary(Protocol):
    """The dimensions of a network."""

    @property
    def vocab_size(self) -> int:
        """Tokens; 0: the tokenizer's."""


def vocabulary(config: Optional[HasVocabulary], tokenizer: Table) -> int:
    """The vocabulary of a new network.

    Raises:
        UserError: no dimensions are given, or another vocabulary size than the tokenizer's.
    """
    if config is None:
        raise UserError("the configuration has no 'model'", "give its dimensions, or --init CHECKPOINT")
    if config.vocab_size not in (0, tokenizer.vocab_size):
        raise UserError(
            f"model.vocab_size is {config.vocab_size} but {tokenizer.path} has {tokenizer.vocab_size}",
            "leave it out, or use the matching --lang-dir",
        )
    return tokenizer.vocab_size


def new_pruner(model: nn.Module, config: Any, metrics: Optional[Mapping[str, Metric]] = None) -> Pruner:
    """The method of a pruning run over a network, or of ``low_rank`` over a factored copy of it.

    Args:
        model: the network.
        config: of the run: `PruningConfig`'s fields, and ``trainer``, whose seed the method draws with.
        metrics: of ``low_rank``, see `pruning.methods.low_rank.calibrate`.

    Raises:
        UserError: the target is beyond reach, a kind is unknown, or counts are of another network.
    """
    if any(isinstance(module, FactoredLinear) for module in model.modules()):
        raise UserError("the network is of low rank already", "prune the dense one (snapshots give several sizes)")
    length, seed = input_length(model, config.constraint.seconds), config.trainer.seed
    if config.method in (L0, *HJ):
        gating: GatingConfig = config.gating
        if config.method in HJ and gating.gates.kinds is None:
            kinds = tuple(unit_kinds(cast(Prunable, model).unit_groups()))
            gating = replace(gating, gates=replace(gating.gates, kinds=kinds))
        return Gating(model, gating, config.asked(), length, seed)
    common = (config.method, config.criterion, config.constraint, length, seed)
    if config.technique == "low_rank":
        factored = factorise(model, linear_names(model), metrics)
        return LowRankPruning(factored, *common, metrics, config.snapshots)
    view = SingleWeights(model) if config.technique == "unstructured" else None
    counts = None if config.counts_from is None else read_structure(config.counts_from)
    return CriterionPruning(model, *common, counts, view, config.snapshots)


def read_structure(source: PathLike) -> Structure:
    """A structure from its JSON file, or that which a pruning run found.

    Raises:
        UserError: neither is there.
    """
    if Path(source).suffix == ".json":
        remedy = "give a structure.json or the experiment of a pruning run"
        return Structure.from_dict(read_json(source, remedy), str(source))
    return found_structure(source)


def found_structure(source: PathLike) -> Structure:
    """The structure that a pruning run found: that of its best checkpoint, or of a given one.

    Raises:
        UserError: no such checkpoint, or not of a pruning run.
    """
    path = checkpoint.file_of(source)
    if not path.exists() and Path(source).is_dir():
        raise UserError(
            f"{source} has no best checkpoint, which a pruning run has once its sparsity is on target",
            "give the experiment of a pruning run that has ended",
        )
    header = checkpoint.read_header(path)
    if FOUND not in header:
        raise UserError(f"{path} is not of a pruning run", "give the experiment of one")
    return Structure.from_dict(header[FOUND], str(path))


class HasTrainer(Protocol):
    """A run's configuration."""

    @property
    def trainer(self) -> TrainerConfig:
        """Of the loop."""


@dataclass(frozen=True)
class RunData:
    """What a run reads.

    Attributes:
        train_batches: see `pruning.training.trainer.Trainer`.
        dev_batches: the same.
        files: option -> files whose content decides the run.
        steps_per_epoch: batches of an epoch per process, where known.
    """

    train_batches: Callable[[int, int], Iterable[Any]]
    dev_batches: Callable[[], Iterable[Any]]
    files: Mapping[str, Sequence[Path]]
    steps_per_epoch: Optional[int] = None


def fit(
    task: PrunedTask,
    config: HasTrainer,
    data: RunData,
    tokenizer: Table,
    exp_dir: PathLike,
    networks: Mapping[str, Optional[PathLike]],
    header: Mapping[str, Any],
    dense: Optional[dict[str, Any]],
    world: distributed.World,
) -> None:
    """Run the loop on a task and leave ``model.json`` beside its checkpoints, and ``structure.json`` where it pruned.

    Args:
        task, config, data, tokenizer, exp_dir, world: of the run.
        networks: the checkpoints that it stands on, by the name of their option; None: not used.
        header: for its checkpoints.
        dense: facts of the network it was pruned from, None if it was not.
    """
    trainer = Trainer(
        config.trainer,
        task=task,
        train_batches=data.train_batches,
        dev_batches=data.dev_batches,
        exp_dir=exp_dir,
        header={"model": registry.describe(task.model), "tokenizer": tokenizer.describe(), **header},
        configuration=configuration.to_dict(config),
        defaults=configuration.defaults(type(config)),
        inputs=_fingerprints({**data.files, "lang_dir": [tokenizer.path]}, networks),
        steps_per_epoch=data.steps_per_epoch,
        world=world,
    )
    if world.is_main:  # not before the trainer has refused what it must: another network's facts may be there
        write_facts(exp_dir, task.model, dense)
        logger.info("%s", describe(network_facts(task.model)))
    trainer.run()
    if world.is_main and task.pruner is not None:
        write_json(Path(exp_dir) / STRUCTURE, found_structure(exp_dir).to_dict())
        extract_snapshots(exp_dir)


def extract_snapshots(exp_dir: PathLike) -> None:
    """Cut the networks out that a pruning run kept on its way, each into an experiment of its own under ``sizes/``."""
    for path in sorted(checkpoint.snapshot_path(exp_dir, "all").parent.glob("*.safetensors")):
        place = Path(exp_dir) / SIZES / path.stem
        origin = {"--pruned": file_fingerprint(path)}
        if checkpoint.best_path(place).exists():
            check_origin(place, origin)
            continue
        model, header = checkpoint.load_model(path)
        extract_experiment(model, header, found_structure(path), place, origin=origin)
        logger.info("%s: %s", place, describe(read_facts(place)))


def _fingerprints(
    files: Mapping[str, Sequence[Path]], networks: Mapping[str, Optional[PathLike]]
) -> dict[str, Any]:
    """What a run reads, by content: files may move while it is interrupted, but not change."""
    all_files = {name: list(paths) for name, paths in files.items()}
    for name, path in networks.items():
        if path is not None:
            all_files[name] = [checkpoint.file_of(path)]
    return {name: [f"{path.name} {file_fingerprint(path)[:12]}" for path in paths] for name, paths in all_files.items()}
