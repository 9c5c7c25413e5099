"""Runs of a transducer on recordings: training from scratch, pruning by any method, fine-tuning; what commands call."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Optional

import torch
from torch import nn

from pruning.core.distillation import DistillationConfig, frame_mask
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import PathLike
from pruning.kinds import runs
from pruning.kinds.kind import Recipe
from pruning.methods.base import Pruner
from pruning.models.conformer import ConformerEncoder
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.speech.data import checks, manifests
from pruning.speech.data.augment import SpecAugment
from pruning.speech.data.batches import Batch, DataConfig, count_batches, evaluation_batches, training_batches
from pruning.speech.losses.combined import LossConfig
from pruning.speech.text.bpe import Tokenizer
from pruning.tasks.transducer import Guidance, TransducerTask
from pruning.training import distributed
from pruning.training.trainer import TrainerConfig

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


def forward(model: nn.Module, batch: Batch) -> object:
    """A forward pass."""
    return model(batch.features, batch.lengths)


def set_feature_statistics(encoder: ConformerEncoder, batches: Iterable[Batch]) -> None:
    """Have an encoder normalise features by mean and deviation of the first of ``batches``."""
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for batch in itertools.islice(batches, STATISTICS_BATCHES):
        valid = batch.features[frame_mask(batch.lengths, batch.features.shape[1])].double()  # (frames, feature_dim)
        total, squares, count = total + valid.sum(dim=0), squares + (valid**2).sum(dim=0), count + len(valid)
    mean = total / count
    encoder.set_feature_statistics(mean, (squares / count - mean**2).clamp(min=0).sqrt())


class TransducerRecipe(Recipe):
    """Transducers on cuts with features.

    Args:
        config: of the run.
        inputs: the data.
    """

    kind, wanted = Transducer, "a transducer's checkpoint"

    def __init__(self, config: RunConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs.lang_dir)
        self.inputs = inputs

    def build(self, vocab_size: int) -> Transducer:
        """A transducer of the configuration's dimensions."""
        return Transducer(replace(self.config.model, vocab_size=vocab_size))

    def check(self, network: nn.Module) -> None:
        """Other features than the network's are told before anything is computed of them."""
        assert isinstance(network, Transducer)
        if not network.config.ctc and max(self.config.loss.ctc_weight, self.config.distillation.ctc_weight) > 0:
            raise UserError("the network has no CTC head, and the configuration gives CTC a weight",
                            "set loss.ctc_weight=0 distillation.ctc_weight=0")  # fmt: skip
        for path in manifests.check_exists([*self.inputs.train_cuts, *self.inputs.dev_cuts]):
            checks.check_first_features(path, network.config.encoder.feature_dim)

    def begin(self, network: nn.Module) -> None:
        """Set the encoder's feature statistics from the first training batches; the same in every process."""
        assert isinstance(network, Transducer) and isinstance(network.encoder, ConformerEncoder)
        set_feature_statistics(network.encoder, self.first_batches())

    def wants_teacher(self) -> bool:
        """Whether layers, the output or the CTC head are to be distilled."""
        return bool(self.config.distillation.wanted)

    def check_teacher(self, teacher: nn.Module) -> None:
        """The layers must be there."""
        assert isinstance(teacher, Transducer)
        self.check_layers(teacher.config.encoder.num_layers)

    def task(
        self, network: nn.Module, teacher: Optional[nn.Module], pruner: Optional[Pruner] = None
    ) -> TransducerTask:
        """Transducer and CTC loss, distillation."""
        assert isinstance(network, Transducer) and (teacher is None or isinstance(teacher, Transducer))
        guidance = None if teacher is None else Guidance(teacher, self.config.distillation)
        return TransducerTask(network, self.config.loss, SpecAugment(self.config.data.spec_augment), guidance, pruner)

    def first_batches(self) -> Iterable[Batch]:
        """Those of the first epoch in a single process."""
        return training_batches(self.config.data, self.inputs.train_cuts, self.tokenizer, seed=self.seed, epoch=1)

    def data(self, world: distributed.World) -> runs.RunData:
        """This process's share of the cuts."""
        config, inputs = self.config, self.inputs
        files = {name: manifests.check_exists(getattr(inputs, name)) for name in ("train_cuts", "dev_cuts")}
        if config.data.musan_cuts is not None:
            files["musan_cuts"] = manifests.check_exists([config.data.musan_cuts])

        def train_batches(epoch: int, skip: int) -> Iterable[Batch]:
            return training_batches(config.data, inputs.train_cuts, self.tokenizer, seed=self.seed, epoch=epoch,
                                    skip_batches=skip, rank=world.rank, world_size=world.size)  # fmt: skip

        dev_batches = partial(evaluation_batches, config.data, inputs.dev_cuts, self.tokenizer, for_loss=True,
                              rank=world.rank, world_size=world.size)  # fmt: skip
        return runs.RunData(train_batches, dev_batches, files, self._batches_per_epoch(world))

    def _batches_per_epoch(self, world: distributed.World) -> Optional[int]:
        """Counted where that decides which of two ends comes first, and so where schedule and ramp end; else None."""
        if self.config.trainer.num_epochs is None or self.config.trainer.max_steps is None:
            return None
        return count_batches(self.config.data, self.inputs.train_cuts, self.tokenizer, self.seed, world.size)


RECIPE = TransducerRecipe
"""What `train`, `prune` and `finetune` run."""
