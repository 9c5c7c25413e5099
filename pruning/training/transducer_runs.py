"""Runs of a transducer on recordings: training from scratch, pruning by any method, fine-tuning; what commands call."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Optional

import torch
from torch import nn

from pruning.core.distillation import DistillationConfig, frame_mask
from pruning.errors import UserError
from pruning.files import PathLike
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.speech import checks, manifests
from pruning.speech.augment import SpecAugment
from pruning.speech.bpe import Tokenizer
from pruning.speech.data import Batch, DataConfig, count_batches, evaluation_batches, training_batches
from pruning.speech.losses import LossConfig
from pruning.training import checkpoint, distributed, runs
from pruning.training.facts import frames_of, network_facts
from pruning.training.pruner import Pruner
from pruning.training.trainer import TrainerConfig
from pruning.training.transducer_task import Guidance, TransducerTask

logger = logging.getLogger(__name__)

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
class PruneConfig(runs.PruningConfig, RunConfig):
    """A pruning run."""

    def __post_init__(self) -> None:
        self.check(self.trainer)


def new_pruner(model: Transducer, config: PruneConfig) -> Pruner:
    """The method of a pruning run over a transducer.

    Raises:
        UserError: see `pruning.training.runs.new_pruner`.
    """
    return runs.new_pruner(model, config, frames_of(config.constraint.seconds), config.trainer.seed)


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


def load_network(source: PathLike, tokenizer: Optional[Tokenizer] = None) -> tuple[Transducer, checkpoint.Header]:
    """A transducer, dense or extracted, from a checkpoint or experiment directory.

    Args:
        source: checkpoint or experiment.
        tokenizer: whose tokens it must have been trained with; None: any.

    Raises:
        UserError: no such checkpoint, another kind of network, one that is not extracted yet, or another BPE model.
    """
    model, header = runs.load_network(source, Transducer, "a transducer's checkpoint", tokenizer)
    assert isinstance(model, Transducer)
    return model, header


def new_network(config: Optional[TransducerConfig], tokenizer: Tokenizer, seed: int) -> Transducer:
    """A transducer with fresh weights, its vocabulary that of the tokenizer.

    Raises:
        UserError: no dimensions are given, or another vocabulary size.
    """
    size = runs.vocabulary(config, tokenizer)
    assert config is not None
    torch.manual_seed(seed)
    return Transducer(replace(config, vocab_size=size))


def forward(model: nn.Module, batch: Batch) -> object:
    """A forward pass."""
    return model(batch.features, batch.lengths)


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
        header = runs.continued(model, found)
        dense = found.get("dense")
    else:
        model = new_network(config.model, tokenizer, config.trainer.seed)
    _check_features(model, inputs)
    if init is None:
        normalise_features(model, config, inputs, tokenizer)
    guidance = _guidance(config.distillation, teacher, tokenizer)
    task = TransducerTask(model.train(), config.loss, SpecAugment(config.data.spec_augment), guidance)
    _fit(task, config, inputs, tokenizer, exp_dir, {"init": init, "teacher": teacher}, header, dense)


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
    guidance = _guidance(config.distillation, teacher, tokenizer)

    def make(network: nn.Module, pruner: Optional[Pruner]) -> TransducerTask:
        assert isinstance(network, Transducer)
        return TransducerTask(network, config.loss, SpecAugment(config.data.spec_augment), guidance, pruner)

    length, seed = frames_of(config.constraint.seconds), config.trainer.seed
    calibration = partial(training_batches, config.data, inputs.train_cuts, tokenizer, seed, epoch=1)
    task = runs.pruning_task(model, config, length, seed, make, calibration)
    facts = network_facts(model)
    networks = {"teacher": teacher, "counts_from": config.counts_from, "latency_table": config.constraint.latency_table}
    _fit(task, config, inputs, tokenizer, exp_dir, networks, {"dense": facts}, facts)


def _fit(
    task: runs.PrunedTask,
    config: RunConfig,
    inputs: Inputs,
    tokenizer: Tokenizer,
    exp_dir: PathLike,
    networks: Mapping[str, Optional[PathLike]],
    header: Mapping[str, Any],
    dense: Optional[dict[str, Any]],
) -> None:
    world = distributed.initialise(config.trainer.device)
    share = {"rank": world.rank, "world_size": world.size}
    files = {name: manifests.check_exists(getattr(inputs, name)) for name in ("train_cuts", "dev_cuts")}
    if config.data.musan_cuts is not None:
        files["musan_cuts"] = manifests.check_exists([config.data.musan_cuts])
    data = runs.RunData(
        partial(_training_batches, config, inputs, tokenizer, world),
        partial(evaluation_batches, config.data, inputs.dev_cuts, tokenizer, for_loss=True, **share),
        files,
        _batches_per_epoch(config, inputs, tokenizer, world),
    )
    runs.fit(task, config, data, tokenizer, exp_dir, networks, header, dense, world)


def _batches_per_epoch(
    config: RunConfig, inputs: Inputs, tokenizer: Tokenizer, world: distributed.World
) -> Optional[int]:
    """Counted where that decides which of two ends comes first, and so where schedule and ramp end; else None."""
    if config.trainer.num_epochs is None or config.trainer.max_steps is None:
        return None
    return count_batches(config.data, inputs.train_cuts, tokenizer, config.trainer.seed, world.size)


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


