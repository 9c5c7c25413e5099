"""Runs of a language model on text: training from scratch, pruning by any method, fine-tuning; what commands call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Optional

from torch import nn

from pruning.experiments import checkpoint
from pruning.files import PathLike
from pruning.kinds import runs
from pruning.kinds.kind import Recipe
from pruning.methods.base import Pruner
from pruning.models.transformer_lm import LanguageModelConfig, TransformerLM
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.sentences import SentenceBatch, Sentences, TextConfig
from pruning.speech.text.text_files import check_texts
from pruning.tasks.language_model import LmDistillationConfig, LmTask
from pruning.training import distributed
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
    """A pruning run; MACs are counted for sentences of `pruning.models.facts.LM_TOKENS`."""

    def __post_init__(self) -> None:
        self.check(self.trainer)


@dataclass(frozen=True)
class Inputs:
    """Where a run's data are.

    Attributes:
        train_text, dev_text: text files, one sentence a line.
        lang_dir: holds ``bpe.model`` and ``tokens.txt``; gets ``text``, the training text as token ids.
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


def forward(model: nn.Module, batch: SentenceBatch) -> object:
    """A forward pass."""
    return model(batch.inputs)


class LmRecipe(Recipe):
    """Language models on text.

    Args:
        config: of the run.
        inputs: the data.
    """

    kind, wanted = TransformerLM, "a language model's checkpoint"

    def __init__(self, config: RunConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs.lang_dir)
        self.inputs = inputs
        self._train_text: Optional[Sentences] = None

    @property
    def train_text(self) -> Sentences:
        """The sentences of training, read once."""
        if self._train_text is None:
            self._train_text = Sentences(self.inputs.train_text, self.tokenizer, self.config.data, keep=True)
        return self._train_text

    def build(self, vocab_size: int) -> TransformerLM:
        """A language model of the configuration's dimensions."""
        return TransformerLM(replace(self.config.model, vocab_size=vocab_size))

    def wants_teacher(self) -> bool:
        """Whether the distribution of the next token is to be distilled."""
        return bool(self.config.distillation.weight)

    def task(self, network: nn.Module, teacher: Optional[nn.Module], pruner: Optional[Pruner] = None) -> LmTask:
        """Cross-entropy, distillation."""
        assert isinstance(network, TransformerLM) and (teacher is None or isinstance(teacher, TransformerLM))
        return LmTask(network, self.config.distillation, teacher, pruner)

    def first_batches(self) -> Iterable[SentenceBatch]:
        """Those of the first epoch in a single process."""
        return self.train_text.training_batches(self.seed, 1)

    def data(self, world: distributed.World) -> runs.RunData:
        """This process's share of the sentences."""
        train_text, seed = self.train_text, self.seed
        dev_text = Sentences(self.inputs.dev_text, self.tokenizer, self.config.data)
        return runs.RunData(
            lambda epoch, skip: train_text.training_batches(seed, epoch, skip, world.rank, world.size),
            lambda: dev_text.evaluation_batches(world.rank, world.size),
            {"train_text": check_texts(self.inputs.train_text), "dev_text": check_texts(self.inputs.dev_text)},
            train_text.count_batches(seed, world.size),
        )


RECIPE = LmRecipe
"""What `train`, `prune` and `finetune` run."""
