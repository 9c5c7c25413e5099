"""Runs of a language model on text: training from scratch, pruning by any method, fine-tuning; what commands call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import torch
from torch import nn

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.models.transformer_lm import LanguageModelConfig, TransformerLM
from pruning.speech.bpe import Tokenizer
from pruning.speech.sentences import SentenceBatch, Sentences, TextConfig, check_texts
from pruning.training import checkpoint, distributed, runs
from pruning.training.facts import LM_TOKENS, network_facts
from pruning.training.lm_task import LmDistillationConfig, LmTask
from pruning.training.pruner import Pruner
from pruning.training.trainer_config import TrainerConfig


@dataclass(frozen=True)
class RunConfig:
    """What training from scratch and fine-tuning have in common.

    Attributes:
        model: dimensions; not given when training starts from a checkpoint.
        data: batches.
        distillation: what is learned from a teacher, where one is given.
        trainer: the loop.
    """

    model: Optional[LanguageModelConfig] = None
    data: TextConfig = field(default_factory=TextConfig)
    distillation: LmDistillationConfig = field(default_factory=LmDistillationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(frozen=True)
class PruneConfig(runs.PruningConfig, RunConfig):
    """A pruning run; MACs are counted for sentences of `pruning.training.facts.LM_TOKENS`."""

    def __post_init__(self) -> None:
        self.check(self.trainer)


@dataclass(frozen=True)
class Inputs:
    """Where a run's data are.

    Attributes:
        train_text, dev_text: text files, one sentence a line.
        lang_dir: holds ``bpe.model`` and ``tokens.txt``.
    """

    train_text: Sequence[PathLike]
    dev_text: Sequence[PathLike]
    lang_dir: PathLike


def load_network(source: PathLike, tokenizer: Optional[Tokenizer] = None) -> tuple[TransformerLM, checkpoint.Header]:
    """A language model, dense or extracted, from a checkpoint or experiment directory.

    Args:
        source: checkpoint or experiment.
        tokenizer: whose tokens it must have been trained with; None: any.

    Raises:
        UserError: no such checkpoint, another kind of network, one that is not extracted yet, or another BPE model.
    """
    model, header = runs.load_network(source, TransformerLM, "a language model's checkpoint", tokenizer)
    assert isinstance(model, TransformerLM)
    return model, header


def new_network(config: Optional[LanguageModelConfig], tokenizer: Tokenizer, seed: int) -> TransformerLM:
    """A language model with fresh weights, its vocabulary that of the tokenizer.

    Raises:
        UserError: no dimensions are given, or another vocabulary size.
    """
    size = runs.vocabulary(config, tokenizer)
    assert config is not None
    torch.manual_seed(seed)
    return TransformerLM(replace(config, vocab_size=size))


def new_pruner(model: TransformerLM, config: PruneConfig) -> Pruner:
    """The method of a pruning run over a language model.

    Raises:
        UserError: see `pruning.training.runs.new_pruner`.
    """
    return runs.new_pruner(model, config, LM_TOKENS, config.trainer.seed)


def forward(model: nn.Module, batch: SentenceBatch) -> object:
    """A forward pass."""
    return model(batch.inputs)


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
    if init is not None:
        if config.model is not None:
            raise UserError("the configuration has a 'model' but --init brings one", "leave one of them out")
        model, found = load_network(init, tokenizer)
        header = runs.continued(model, found)
    else:
        model = new_network(config.model, tokenizer, config.trainer.seed)
    task = LmTask(model.train(), config.distillation, _teacher(config.distillation, teacher, tokenizer))
    _fit(task, config, inputs, tokenizer, exp_dir, {"init": init, "teacher": teacher}, header, header.get("dense"))


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
    train_text = Sentences(inputs.train_text, tokenizer, config.data)
    guide = _teacher(config.distillation, teacher, tokenizer)
    facts = network_facts(model)
    networks = {"teacher": teacher, "counts_from": config.counts_from, "latency_table": config.constraint.latency_table}

    def make(network: nn.Module, pruner: Optional[Pruner]) -> LmTask:
        assert isinstance(network, TransformerLM)
        return LmTask(network, config.distillation, guide, pruner)

    seed = config.trainer.seed
    task = runs.pruning_task(model, config, LM_TOKENS, seed, make, lambda: train_text.training_batches(seed, 1))
    _fit(task, config, inputs, tokenizer, exp_dir, networks, {"dense": facts}, facts, train_text)


def _teacher(
    config: LmDistillationConfig, teacher: Optional[PathLike], tokenizer: Tokenizer
) -> Optional[TransformerLM]:
    if not config.weight:
        return None
    if teacher is None:
        raise UserError("the configuration asks for distillation", "give --teacher, or distillation.weight=0")
    return load_network(teacher, tokenizer)[0]


def _fit(
    task: runs.PrunedTask,
    config: RunConfig,
    inputs: Inputs,
    tokenizer: Tokenizer,
    exp_dir: PathLike,
    networks: Mapping[str, Optional[PathLike]],
    header: Mapping[str, Any],
    dense: Optional[dict[str, Any]],
    train_text: Optional[Sentences] = None,
) -> None:
    world = distributed.initialise(config.trainer.device)
    train_text = train_text or Sentences(inputs.train_text, tokenizer, config.data)
    dev_text = Sentences(inputs.dev_text, tokenizer, config.data)
    seed = config.trainer.seed
    data = runs.RunData(
        lambda epoch, skip: train_text.training_batches(seed, epoch, skip, world.rank, world.size),
        lambda: dev_text.evaluation_batches(world.rank, world.size),
        {"train_text": check_texts(inputs.train_text), "dev_text": check_texts(inputs.dev_text)},
        train_text.count_batches(seed, world.size),
    )
    runs.fit(task, config, data, tokenizer, exp_dir, networks, header, dense, world)
