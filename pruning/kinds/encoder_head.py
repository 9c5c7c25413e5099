"""Runs of an encoder with a head on recordings, for recognition by CTC or for intents; what commands call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch
from torch import nn

from pruning.core.distillation import DistillationConfig
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import PathLike
from pruning.importers import hugging_face
from pruning.kinds import runs, transducer
from pruning.kinds.kind import Recipe
from pruning.methods.base import Pruner
from pruning.models import encoders
from pruning.models.conformer import ConformerEncoder
from pruning.models.facts import SAMPLES_PER_SECOND
from pruning.models.speech_model import CTC, INTENT, TASKS, SpeechModel, SpeechModelConfig
from pruning.speech.data import manifests, sources
from pruning.speech.data.augment import SampleAugment, SpecAugment
from pruning.speech.data.batches import Batch, DataConfig, Table, count_batches, evaluation_batches, training_batches
from pruning.speech.data.sources import FEATURES, Source
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.intents import Intents
from pruning.tasks.encoder_head import SpeechLossConfig, SpeechTask
from pruning.training import distributed
from pruning.training.trainer_config import TrainerConfig

HEARS = ("samples", "features")


@dataclass(frozen=True)
class RunConfig:
    """What training, pruning and fine-tuning have in common.

    Attributes:
        task: ``ctc`` or ``intent``; must be said, and is what distinguishes such a configuration from a transducer's.
        model: dimensions; not given when training starts from a checkpoint.
        pretrained: whose encoder training starts from, in the place of ``model.encoder``: directory or hub name of a
            Hugging Face checkpoint, or an experiment of the same kind, whatever its task.
        hears: ``samples`` or ``features``: refused where the encoder hears the other; None: whichever it does.
        loss: see `SpeechLossConfig`.
        data: batches; their augmentation is `SpecAugment` or `SampleAugment`, by what the encoder hears.
        distillation: what is learned from a teacher, where one is given.
        trainer: the loop.
    """

    task: str
    model: Optional[SpeechModelConfig] = None
    pretrained: Optional[str] = None
    hears: Optional[str] = None
    loss: SpeechLossConfig = field(default_factory=SpeechLossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}, not one of {', '.join(TASKS)}")
        if self.hears not in (None, *HEARS):
            raise ValueError(f"hears is {self.hears!r}, not one of {', '.join(HEARS)}")
        if self.distillation.ctc_weight or self.distillation.loss == "cofi":
            raise ValueError("distillation.ctc_weight and distillation.loss=cofi are of transducers")
        if self.model is not None and self.model.task != self.task:
            raise ValueError(f"task is {self.task!r}, model.task {self.model.task!r}")


@dataclass(frozen=True)
class PruneConfig(runs.PruningConfig, RunConfig):
    """A pruning run."""

    task: str = CTC

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        self.check(self.trainer)


Inputs = transducer.Inputs


def table_of(task: str, lang_dir: PathLike) -> Table:
    """What a network's outputs mean: tokens or intents."""
    return Intents(lang_dir) if task == INTENT else Tokenizer(lang_dir)


def source_of(model: SpeechModel) -> Source:
    """What a network hears."""
    encoder: Any = model.encoder
    if not encoders.hears_samples(encoder):
        return FEATURES
    return sources.audio(SAMPLES_PER_SECOND, partial(_frames, encoder))


def _frames(encoder: Any, samples: int) -> int:
    return int(encoder.frame_lengths(torch.tensor([samples])))


def load_network(source: PathLike, table: Optional[Table] = None) -> tuple[SpeechModel, checkpoint.Header]:
    """A model, dense or extracted, from a checkpoint or experiment directory.

    Raises:
        UserError: no such checkpoint, another kind of network, one that is not extracted yet, or another table.
    """
    model, header = runs.load_network(source, SpeechModel, _WANTED, table)
    assert isinstance(model, SpeechModel)
    return model, header


_WANTED = "the checkpoint of an encoder with a head for CTC or intents"


class SpeechRecipe(Recipe):
    """Encoders with a head on cuts with features or recordings.

    Args:
        config: of the run.
        inputs: the data.
    """

    kind, wanted = SpeechModel, _WANTED

    def __init__(self, config: RunConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs.lang_dir)
        self.inputs = inputs
        self._source = FEATURES

    def table(self, lang_dir: PathLike) -> Table:
        """Of tokens or of intents."""
        return table_of(self.config.task, lang_dir)

    def build(self, vocab_size: int) -> SpeechModel:
        """A model of the configuration's dimensions, or around a pre-trained encoder."""
        config = replace(self.config.model, outputs=vocab_size)
        if self.config.pretrained is None:
            if not config.encoder:
                raise UserError("the configuration has no model.encoder",
                                "give its dimensions, or pretrained=DIRECTORY (--pretrained of a recipe)")  # fmt: skip
            return SpeechModel(config)
        encoder = self._pretrained(self.config.pretrained)
        model = SpeechModel(replace(config, encoder=encoders.describe(encoder)))
        model.encoder.load_state_dict(encoder.state_dict(), strict=True)
        return model

    def _pretrained(self, source: str) -> nn.Module:
        if checkpoint.best_path(source).is_file():
            return load_network(source)[0].encoder
        return hugging_face.load_hf(source).plain()  # a network of ours: it is saved and copied without transformers

    def begin(self, network: nn.Module) -> None:
        """Statistics of features, of an encoder that hears them and comes without."""
        assert isinstance(network, SpeechModel)
        if self.config.pretrained is None and isinstance(network.encoder, ConformerEncoder):
            transducer.set_feature_statistics(network.encoder, self.first_batches())

    def origin(self) -> dict[str, Any]:
        """The name of what was pre-trained, handed on where training starts from an experiment."""
        source = self.config.pretrained
        if source is None:
            return {}
        if not checkpoint.best_path(source).is_file():
            return {checkpoint.PRETRAINED: Path(source).name}
        found = checkpoint.read_header(checkpoint.best_path(source))
        return {key: found[key] for key in (checkpoint.PRETRAINED,) if key in found}

    def stands_on(self) -> dict[str, PathLike]:
        """An experiment that training starts from; what a hub name stands for does not change."""
        source = self.config.pretrained
        if source is None or not Path(source).is_dir():
            return {}
        return {"pretrained": source if checkpoint.best_path(source).is_file() else hugging_face.weights_file(source)}

    def check(self, network: nn.Module) -> None:
        """The network says what it hears, and its task must be the configuration's."""
        assert isinstance(network, SpeechModel)
        if network.config.task != self.config.task:
            what = f"the network is for {network.config.task}, the configuration for {self.config.task}"
            raise UserError(what, "give one for the same task")
        self._source = source_of(network)
        heard = HEARS[self._source is FEATURES]
        if self.config.hears not in (None, heard):
            raise UserError(f"the encoder hears {heard}, the run is to hear {self.config.hears}",
                            "give another configuration (model.encoder), or another --hears")  # fmt: skip
        manifests.check_exists([*self.inputs.train_cuts, *self.inputs.dev_cuts])

    def wants_teacher(self) -> bool:
        """Whether layers or the head's distribution are to be distilled."""
        return bool(self.config.distillation.wanted)

    def check_teacher(self, teacher: nn.Module) -> None:
        """The layers must be there."""
        assert isinstance(teacher, SpeechModel)
        self.check_layers(encoders.dimensions(teacher.encoder)[1])

    def task(self, network: nn.Module, teacher: Optional[nn.Module], pruner: Optional[Pruner] = None) -> SpeechTask:
        """CTC or cross-entropy, distillation."""
        assert isinstance(network, SpeechModel) and (teacher is None or isinstance(teacher, SpeechModel))
        data = self.config.data
        augment = (SampleAugment(data.sample_augment, SAMPLES_PER_SECOND) if encoders.hears_samples(network.encoder)
                   else SpecAugment(data.spec_augment))  # fmt: skip
        return SpeechTask(network, self.config.loss, augment, teacher, self.config.distillation, pruner)

    def first_batches(self) -> Iterable[Batch]:
        """Those of the first epoch in a single process."""
        return training_batches(self.config.data, self.inputs.train_cuts, self.tokenizer, seed=self.seed, epoch=1,
                                source=self._source)  # fmt: skip

    def data(self, world: distributed.World) -> runs.RunData:
        """This process's share of the cuts."""
        config, inputs, source = self.config, self.inputs, self._source
        files = {name: manifests.check_exists(getattr(inputs, name)) for name in ("train_cuts", "dev_cuts")}
        if config.data.musan_cuts is not None:
            files["musan_cuts"] = manifests.check_exists([config.data.musan_cuts])

        def train_batches(epoch: int, skip: int) -> Iterable[Batch]:
            return training_batches(config.data, inputs.train_cuts, self.tokenizer, self.seed, epoch, skip, world.rank,
                                    world.size, source)  # fmt: skip

        dev_batches = partial(evaluation_batches, config.data, inputs.dev_cuts, self.tokenizer, for_loss=True,
                              rank=world.rank, world_size=world.size, source=source)  # fmt: skip
        counted = None
        if config.trainer.num_epochs is not None and config.trainer.max_steps is not None:
            counted = count_batches(config.data, inputs.train_cuts, self.tokenizer, self.seed, world.size, source)
        return runs.RunData(train_batches, dev_batches, files, counted)


RECIPE = SpeechRecipe
"""What `train`, `prune` and `finetune` run."""


def forward(model: nn.Module, batch: Batch) -> object:
    """A forward pass."""
    return model(batch.features, batch.lengths)
