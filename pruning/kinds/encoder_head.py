"""Encoders with a head on recordings, for recognition by CTC or for intents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch

from pruning.core.distillation import DistillationConfig
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import PathLike
from pruning.importers import hugging_face
from pruning.kinds.capabilities import Capabilities
from pruning.kinds.cuts_data import cuts_data
from pruning.kinds.encoder_head_export import encoder_head_exports
from pruning.kinds.exports import Exports
from pruning.kinds.forms import ONNX_FORMS
from pruning.kinds.kind import Inputs, Kind
from pruning.kinds.measured_cuts import ACOUSTIC, INTENTS, word_errors
from pruning.kinds.measuring import Measuring
from pruning.kinds.recogniser import Recogniser
from pruning.kinds.transducer import by_ctc, set_feature_statistics
from pruning.methods.base import Pruner
from pruning.methods.config import PruningConfig
from pruning.methods.names import TECHNIQUES
from pruning.models import encoder_types as encoders
from pruning.models import facts
from pruning.models.encoder import Encoder
from pruning.models.speech_model import CTC, INTENT, TASKS, CtcRecogniser, SpeechModel, SpeechModelConfig
from pruning.registry import CUTS
from pruning.speech.data import manifests, sources
from pruning.speech.data.augment import SampleAugment, SpecAugment
from pruning.speech.data.batches import Batch, training_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.data.sources import FEATURES, Source
from pruning.speech.decoding.config import SETTINGS
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.intents import Intents
from pruning.speech.text.table import CutTable
from pruning.tasks.encoder_head import SpeechLossConfig, SpeechTask
from pruning.training import distributed
from pruning.training.run_data import RunData
from pruning.training.trainer_config import TrainerConfig

NAME = "speech_model"
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
        kind: of the network.
    """

    task: str
    model: Optional[SpeechModelConfig] = None
    pretrained: Optional[str] = None
    hears: Optional[str] = None
    loss: SpeechLossConfig = field(default_factory=SpeechLossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    kind: str = NAME

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
class PruneConfig(PruningConfig, RunConfig):
    """A pruning run."""

    task: str = CTC

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        self.check(self.trainer)


def table_of(task: str, lang_dir: PathLike) -> CutTable:
    """What a network's outputs mean: tokens or intents."""
    return Intents(lang_dir) if task == INTENT else Tokenizer(lang_dir)


def source_of(model: SpeechModel) -> Source:
    """What a network hears."""
    return FEATURES if model.encoder.bins else sources.audio(facts.SAMPLES_PER_SECOND, partial(_frames, model.encoder))


def _frames(encoder: Encoder, samples: int) -> int:
    return int(encoder.frame_lengths(torch.tensor([samples])))


class EncoderHeadKind(Kind[SpeechModel]):
    """Encoders with a head on cuts with features or recordings.

    Args:
        config: of the run.
        inputs: the data.
    """

    name = NAME
    network = SpeechModel
    wanted, called = "the checkpoint of an encoder with a head for CTC or intents", "an encoder with a head"
    data_form = CUTS
    training, pruning = RunConfig, PruneConfig

    def __init__(self, config: RunConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs)
        self._source = FEATURES

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> SpeechModel:
        """A model of plain values."""
        return SpeechModel(SpeechModelConfig(**config))

    @classmethod
    def input_length(cls, network: SpeechModel, seconds: float) -> int:
        """Feature frames or samples."""
        return facts.frames_of(seconds) if network.encoder.bins else facts.samples_of(seconds)

    @classmethod
    def reference(cls, network: SpeechModel) -> tuple[int, str]:
        """Ten seconds."""
        seconds = facts.MACS_SECONDS[0]
        return cls.input_length(network, seconds), f"{seconds} s"

    @classmethod
    def facts(cls, network: SpeechModel) -> dict[str, Any]:
        """Of the encoder."""
        return facts.of_encoder(network)

    @classmethod
    def capabilities(cls, network: SpeechModel) -> Capabilities:
        """What the encoder can do; decoding by CTC."""
        techniques = TECHNIQUES if network.encoder.factorable else TECHNIQUES[:1]
        decodings = _BY_CTC if network.config.task == CTC else ()
        return Capabilities(techniques, repair=True, exports=ONNX_FORMS, decodings=decodings)

    @classmethod
    def table(cls, config: Any, lang_dir: PathLike) -> CutTable:
        """Of tokens or of intents."""
        return table_of(config.task, lang_dir)

    @classmethod
    def forward(cls, network: SpeechModel, batch: Batch) -> object:
        """Of encoder and head."""
        return network(batch.features, batch.lengths)

    @classmethod
    def calibration(
        cls, network: SpeechModel, table: CutTable, files: Sequence[PathLike], max_duration: float
    ) -> Iterable[Batch]:
        """Batches of cuts."""
        config = DataConfig(max_duration=max_duration)
        return training_batches(config, files, table, seed=0, epoch=1, source=source_of(network))

    @classmethod
    def measuring(cls, config: RunConfig) -> Measuring:
        """Word errors, or intents."""
        return INTENTS if config.task == INTENT else word_errors(_BY_CTC_ALONE, likelihood=False)

    @classmethod
    def recogniser(cls, network: SpeechModel, source: PathLike) -> Recogniser:
        """With a head for CTC, as decoding by CTC takes it."""
        if network.config.task != CTC:
            raise UserError(f"{source} holds a network for {network.config.task}", "use pruning.bin.classify")
        return Recogniser(CtcRecogniser(network), source_of(network), network.encoder.bins or None)

    @classmethod
    def exports(cls, network: SpeechModel, lang_dir: Optional[PathLike]) -> Exports:
        """Encoder and head in one file."""
        return encoder_head_exports(network, source_of(network))

    def new(self, vocab_size: int) -> SpeechModel:
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

    def _pretrained(self, source: str) -> Encoder:
        if checkpoint.best_path(source).is_file():
            return self.load_network(source)[0].encoder
        return hugging_face.load_hf(source).plain()  # a network of ours: it is saved and copied without transformers

    def begin(self, network: SpeechModel) -> None:
        """Statistics of features, of an encoder that hears them and comes without."""
        if self.config.pretrained is None and network.encoder.bins:
            set_feature_statistics(network.encoder, self.first_batches())

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

    def check(self, network: SpeechModel) -> None:
        """The network says what it hears, and its task must be the configuration's."""
        if network.config.task != self.config.task:
            what = f"the network is for {network.config.task}, the configuration for {self.config.task}"
            raise UserError(what, "give one for the same task")
        self._source = source_of(network)
        heard = HEARS[self._source is FEATURES]
        if self.config.hears not in (None, heard):
            raise UserError(f"the encoder hears {heard}, the run is to hear {self.config.hears}",
                            "give another configuration (model.encoder), or another --hears")  # fmt: skip
        manifests.check_exists([*self.inputs.train, *self.inputs.dev])

    def wants_teacher(self) -> bool:
        """Whether layers or the head's distribution are to be distilled."""
        return bool(self.config.distillation.wanted)

    def check_teacher(self, teacher: SpeechModel) -> None:
        """The layers must be there."""
        self.check_layers(teacher.encoder.depth)

    def task(self, network: SpeechModel, teacher: Optional[SpeechModel], pruner: Optional[Pruner] = None) -> SpeechTask:
        """CTC or cross-entropy, distillation."""
        data = self.config.data
        augment = (SpecAugment(data.spec_augment) if network.encoder.bins
                   else SampleAugment(data.sample_augment, facts.SAMPLES_PER_SECOND))  # fmt: skip
        return SpeechTask(network, self.config.loss, augment, teacher, self.config.distillation, pruner)

    def first_batches(self) -> Iterable[Batch]:
        """Those of the first epoch in a single process."""
        return training_batches(self.config.data, self.inputs.train, self.output_table, seed=self.seed, epoch=1,
                                source=self._source)  # fmt: skip

    def data(self, world: distributed.World) -> RunData:
        """This process's share of the cuts."""
        return cuts_data(self.config, self.inputs, self.output_table, world, self._source)


_BY_CTC = tuple(method for method in SETTINGS if by_ctc(method))
_BY_CTC_ALONE = tuple(method for method in ACOUSTIC if method in _BY_CTC)
KIND = EncoderHeadKind
