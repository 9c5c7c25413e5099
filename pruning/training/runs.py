"""Training runs of a transducer: from scratch, pruning by any method, fine-tuning; what commands call."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch

from pruning.core.constraint import ConstraintConfig
from pruning.core.criteria import CRITERIA
from pruning.core.distillation import DistillationConfig, frame_mask
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.files import PathLike, read_json, write_json
from pruning.models import registry
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.speech import checks, manifests
from pruning.speech.augment import SpecAugment
from pruning.speech.bpe import Tokenizer
from pruning.speech.data import DataConfig, count_batches, evaluation_batches, training_batches
from pruning.speech.losses import LossConfig
from pruning.training import checkpoint, configuration, distributed
from pruning.training.criterion_pruning import CriterionConfig, CriterionPruning
from pruning.training.facts import frames_of, network_facts, write_facts
from pruning.training.gating import Gating, GatingConfig
from pruning.training.provenance import file_fingerprint
from pruning.training.pruner import Pruner
from pruning.training.trainer import Trainer, TrainerConfig
from pruning.training.transducer_task import FOUND, Guidance, TransducerTask

logger = logging.getLogger(__name__)

L0 = "l0"
METHODS = (L0, *CRITERIA)
STRUCTURE = "structure.json"
STATISTICS_BATCHES = 50


@dataclass(frozen=True)
class RunConfig:
    """What teacher training, training from scratch and fine-tuning have in common.

    Attributes:
        model: dimensions; not given when training starts from a checkpoint.
        loss: transducer and CTC loss.
        data: batches and SpecAugment.
        distillation: what is learned from a teacher, where one is given.
        trainer: the loop.
    """

    model: Optional[TransducerConfig] = None
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(frozen=True)
class PruneConfig(RunConfig):
    """A pruning run.

    Attributes:
        method: one of `METHODS`: L0 gates, or a criterion (see `pruning.core.criteria.UnitScores`).
        constraint: what the small network may cost, and on which way it comes there.
        gating: of ``l0``: gates and learning rates.
        criterion: of the others: how units are scored, ranked and cut.
        counts_from: of the others: a ``structure.json`` or pruning run whose kept counts are taken.
    """

    method: str = L0
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    gating: GatingConfig = field(default_factory=GatingConfig)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    counts_from: Optional[str] = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}, not one of {', '.join(METHODS)}")
        if self.method == L0 and self.counts_from is not None:
            raise ValueError("counts_from is of methods that rank units; l0 finds its own counts")
        if self.method == "movement" and self.trainer.optimiser.lr == 0:
            raise ValueError("movement scores how weights move; give a trainer.optimiser.lr above 0")


@dataclass(frozen=True)
class Inputs:
    """Where a run's data are.

    Attributes:
        train_cuts, dev_cuts: lhotse cut manifests with features.
        lang_dir: holds ``bpe.model`` and ``tokens.txt``.
    """

    train_cuts: Sequence[PathLike]
    dev_cuts: Sequence[PathLike]
    lang_dir: PathLike


def check_extracted(header: checkpoint.Header, source: PathLike) -> None:
    """Refuse the checkpoint of a pruning run, whose weights are those of the dense network.

    Raises:
        UserError: it is of one.
    """
    if FOUND in header:
        raise UserError(f"{source} is of a pruning run", "extract it first, and give the extracted network")


def load_network(source: PathLike, tokenizer: Optional[Tokenizer] = None) -> tuple[Transducer, checkpoint.Header]:
    """A transducer, dense or extracted, from a checkpoint or experiment directory.

    Args:
        source: checkpoint or experiment.
        tokenizer: whose tokens it must have been trained with; None: any.

    Raises:
        UserError: no such checkpoint, another kind of network, one that is not extracted yet, or another BPE model.
    """
    check_extracted(checkpoint.read_header(checkpoint.file_of(source)), source)
    model, header = checkpoint.load_model(source)
    if not isinstance(model, Transducer):
        raise UserError(f"{source} holds a {header['model']['type']}", "give a transducer's checkpoint")
    if tokenizer is not None:
        tokenizer.check_matches(header["tokenizer"])
    return model, header


def new_network(config: Optional[TransducerConfig], tokenizer: Tokenizer, seed: int) -> Transducer:
    """A transducer with fresh weights, its vocabulary that of the tokenizer.

    Raises:
        UserError: no dimensions are given, or another vocabulary size.
    """
    if config is None:
        raise UserError("the configuration has no 'model'", "give its dimensions, or --init CHECKPOINT")
    if config.vocab_size not in (0, tokenizer.vocab_size):
        raise UserError(
            f"model.vocab_size is {config.vocab_size} but {tokenizer.lang_dir} has {tokenizer.vocab_size} pieces",
            "leave it out, or use the matching --lang-dir",
        )
    torch.manual_seed(seed)
    return Transducer(replace(config, vocab_size=tokenizer.vocab_size))


def train(
    config: RunConfig,
    inputs: Inputs,
    exp_dir: PathLike,
    init: Optional[PathLike] = None,
    teacher: Optional[PathLike] = None,
) -> None:
    """Train a network, from scratch or from a checkpoint, with or without a teacher; the structure stays.

    Args:
        config: see `RunConfig`.
        inputs: the data.
        exp_dir: the experiment's directory; resumed when it holds a state.
        init: checkpoint or experiment to start from (fine-tuning); None starts with fresh weights.
        teacher: checkpoint or experiment to learn from.

    Raises:
        UserError: for anything wrong with the configuration, the data or the checkpoints.
    """
    tokenizer = Tokenizer(inputs.lang_dir)
    header: dict[str, Any] = {}
    dense: Optional[dict[str, Any]] = None
    if init is not None:
        if config.model is not None:
            raise UserError("the configuration has a 'model' but --init brings one", "leave one of them out")
        model, found = load_network(init, tokenizer)
        header = {key: found[key] for key in ("structure", "dense") if key in found}
        dense = found.get("dense")
    else:
        model = new_network(config.model, tokenizer, config.trainer.seed)
    _check_features(model, inputs)
    if init is None:
        normalise_features(model, config, inputs, tokenizer)
    guidance = _guidance(config.distillation, teacher, tokenizer)
    task = TransducerTask(model.train(), config.loss, SpecAugment(config.data.spec_augment), guidance)
    fit(task, config, inputs, tokenizer, exp_dir, {"init": init, "teacher": teacher}, header, dense)


def _check_features(model: Transducer, inputs: Inputs) -> None:
    """Other features than the network's are told before anything is computed of them."""
    for path in manifests.check_exists([*inputs.train_cuts, *inputs.dev_cuts]):
        checks.check_first_features(path, model.config.encoder.feature_dim)


def normalise_features(model: Transducer, config: RunConfig, inputs: Inputs, tokenizer: Tokenizer) -> None:
    """Set the encoder's feature statistics from the first training batches; the same in every process."""
    batches = training_batches(config.data, inputs.train_cuts, tokenizer, seed=config.trainer.seed, epoch=1)
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for batch in itertools.islice(batches, STATISTICS_BATCHES):
        valid = batch.features[frame_mask(batch.lengths, batch.features.shape[1])].double()  # (frames, feature_dim)
        total, squares, count = total + valid.sum(dim=0), squares + (valid**2).sum(dim=0), count + len(valid)
    mean = total / count
    model.encoder.set_feature_statistics(mean, (squares / count - mean**2).clamp(min=0).sqrt())


def prune(config: PruneConfig, inputs: Inputs, exp_dir: PathLike, teacher: PathLike) -> None:
    """Train a copy of the teacher while it is pruned, until it costs what the constraint says.

    Args:
        config: see `PruneConfig`.
        inputs: the data.
        exp_dir: the experiment's directory; its checkpoints hold dense weights and the structure that was found.
        teacher: checkpoint or experiment of the dense network.

    Raises:
        UserError: as `train`, and for a target that the enabled kinds cannot reach.
    """
    if config.model is not None:
        raise UserError("the configuration has a 'model'", "leave it out: what is pruned is a copy of the teacher")
    tokenizer = Tokenizer(inputs.lang_dir)
    model, _ = load_network(teacher, tokenizer)
    _check_features(model, inputs)
    pruner = new_pruner(model, config)
    guidance = _guidance(config.distillation, teacher, tokenizer)
    task = TransducerTask(model.train(), config.loss, SpecAugment(config.data.spec_augment), guidance, pruner)
    facts = network_facts(model)
    networks = {"teacher": teacher, "counts_from": config.counts_from, "latency_table": config.constraint.latency_table}
    fit(task, config, inputs, tokenizer, exp_dir, networks, {"dense": facts}, facts)
    if distributed.initialise(config.trainer.device).is_main:
        structure = found_structure(exp_dir)
        write_json(Path(exp_dir) / STRUCTURE, structure.to_dict())


def new_pruner(model: Transducer, config: PruneConfig) -> Pruner:
    """The method of a pruning run over a network.

    Raises:
        UserError: the target is beyond reach, a kind is unknown, or counts are of another network.
    """
    frames, seed = frames_of(config.constraint.seconds), config.trainer.seed
    if config.method == L0:
        return Gating(model, config.gating, config.constraint, frames, seed)
    counts = None if config.counts_from is None else read_structure(config.counts_from)
    return CriterionPruning(model, config.method, config.criterion, config.constraint, frames, seed, counts)


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


def fit(
    task: TransducerTask,
    config: RunConfig,
    inputs: Inputs,
    tokenizer: Tokenizer,
    exp_dir: PathLike,
    networks: Mapping[str, Optional[PathLike]],
    header: Mapping[str, Any],
    dense: Optional[dict[str, Any]],
) -> None:
    """Run the loop on a task and leave ``model.json`` beside its checkpoints.

    Args:
        task, config, inputs, tokenizer, exp_dir: of the run.
        networks: the checkpoints that it stands on, by the name of their option; None: not used.
        header: for its checkpoints.
        dense: facts of the network it was pruned from, None if it was not.
    """
    world = distributed.initialise(config.trainer.device)
    trainer = Trainer(
        config.trainer,
        task=task,
        train_batches=partial(_training_batches, config, inputs, tokenizer, world),
        dev_batches=partial(
            evaluation_batches,
            config.data,
            inputs.dev_cuts,
            tokenizer,
            for_loss=True,
            rank=world.rank,
            world_size=world.size,
        ),
        exp_dir=exp_dir,
        header={"model": registry.describe(task.model), "tokenizer": tokenizer.describe(), **header},
        configuration=configuration.to_dict(config),
        inputs=_fingerprints(config.data, inputs, networks),
        steps_per_epoch=_batches_per_epoch(config, inputs, tokenizer, world),
        world=world,
    )
    if world.is_main:  # not before the trainer has refused what it must: another network's facts may be there
        write_facts(exp_dir, task.model, dense)
        logger.info("%s", _describe(network_facts(task.model)))
    trainer.run()


def _batches_per_epoch(
    config: RunConfig, inputs: Inputs, tokenizer: Tokenizer, world: distributed.World
) -> Optional[int]:
    """Counted where that decides which of two ends comes first, and so where schedule and ramp end; else None."""
    if config.trainer.num_epochs is None or config.trainer.max_steps is None:
        return None
    return count_batches(config.data, inputs.train_cuts, tokenizer, config.trainer.seed, world.size)


def _fingerprints(
    data: DataConfig, inputs: Inputs, networks: Mapping[str, Optional[PathLike]]
) -> dict[str, Any]:
    """What a run reads, by content: files may move while it is interrupted, but not change."""
    files: dict[str, list[Path]] = {
        "train_cuts": manifests.check_exists(inputs.train_cuts),
        "dev_cuts": manifests.check_exists(inputs.dev_cuts),
        "lang_dir": [Path(inputs.lang_dir) / "bpe.model"],
    }
    if data.musan_cuts is not None:
        files["musan_cuts"] = manifests.check_exists([data.musan_cuts])
    for name, path in networks.items():
        if path is not None:
            files[name] = [checkpoint.file_of(path)]
    return {name: [f"{path.name} {file_fingerprint(path)[:12]}" for path in paths] for name, paths in files.items()}


def _training_batches(
    config: RunConfig, inputs: Inputs, tokenizer: Tokenizer, world: distributed.World, epoch: int, skip: int
) -> Any:
    return training_batches(
        config.data,
        inputs.train_cuts,
        tokenizer,
        seed=config.trainer.seed,
        epoch=epoch,
        skip_batches=skip,
        rank=world.rank,
        world_size=world.size,
    )


def _guidance(
    config: DistillationConfig, teacher: Optional[PathLike], tokenizer: Tokenizer
) -> Optional[Guidance]:
    """The teacher, if one is given and wanted.

    Raises:
        UserError: distillation is configured without a teacher, or names a layer that the teacher lacks.
    """
    if not config.wanted:
        return None
    if teacher is None:
        raise UserError("the configuration asks for distillation", "give --teacher, or set its weights to 0")
    network, _ = load_network(teacher, tokenizer)
    last = network.config.encoder.num_layers
    for layer in config.layers:
        if not 0 <= layer <= last:
            raise UserError(f"distillation.layers has {layer}", f"the teacher has layers 0 (input) to {last}")
    return Guidance(network, config)


def _describe(facts: Mapping[str, Any]) -> str:
    return (
        f"encoder {facts['encoder_parameters'] / 1e6:.3f} M parameters, {facts['macs_10s'] / 1e9:.3f} GMACs at 10 s; "
        f"whole model {facts['parameters'] / 1e6:.3f} M parameters"
    )
