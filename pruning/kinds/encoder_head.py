"""Encoders with a CTC or intent head, on recordings or features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

from pruning.core.distillation import DistillationConfig
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import PathLike
from pruning.importers.encoders import load_encoder
from pruning.importers.hf_weights import files_of
from pruning.kinds.capabilities import Capabilities
from pruning.kinds.cuts_kind import CutsKind
from pruning.kinds.encoder_head_export import encoder_head_exports, encoder_head_streams
from pruning.kinds.exports import Exports
from pruning.kinds.forms import ONNX_FORMS
from pruning.kinds.heard import augmentation, input_length, silence_of, source_of
from pruning.kinds.measured_cuts import ACOUSTIC, INTENTS_OF_CUTS, word_errors
from pruning.kinds.measuring import Measuring
from pruning.kinds.recogniser import Recogniser
from pruning.kinds.transducer import by_ctc, set_feature_statistics
from pruning.limits import NonNegative, check_fields
from pruning.methods.base import Pruner
from pruning.methods.config import PruningConfig
from pruning.methods.names import TECHNIQUES
from pruning.models import encoder_types as encoders
from pruning.models import facts
from pruning.models.chunk import Chunk
from pruning.models.encoder import Encoder
from pruning.models.speech_model import CTC, INTENT, TASKS, CtcRecogniser, SpeechModel, SpeechModelConfig
from pruning.models.zipformer_stream import ZipformerStream
from pruning.speech.data.batches import Batch, training_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.decoding.config import SETTINGS
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.intents import Intents
from pruning.speech.text.table import CutTable
from pruning.tasks.chunks import ChunkConfig, chunks_for
from pruning.tasks.encoder_head import SpeechLossConfig, SpeechTask
from pruning.tasks.formula import LossFormula, distilled
from pruning.training.trainer_config import TrainerConfig

NAME = "speech_model"
HEARS = ("samples", "features")


@dataclass(frozen=True)
class RunConfig:
    """Training configuration for encoders with a head, shared by training, pruning and fine-tuning.

    Attributes:
        task: ``ctc`` or ``intent``; required, and distinguishes this configuration from a transducer's.
        model: dimensions of the network; leave out when training starts from a checkpoint.
        pretrained: source of the initial encoder weights, instead of ``model.encoder``: directory or hub name of a
            Hugging Face checkpoint, or an experiment of this kind with any task.
        tail: seconds of silence after each recording in the features of a ``pretrained`` Whisper. None: as its encoder
            says, which is silence up to the end of its window of 30 s if it is of Hugging Face.
        hears: expected input of the encoder: ``samples`` of recordings, of which Whisper's features are computed when
            they are read, or ``features`` that the cuts have; an encoder with the other input is refused. None: any.
        loss: loss settings, see `SpeechLossConfig`.
        data: batches; augmentation is `SpecAugment` or `SampleAugment`, depending on the encoder's input.
        distillation: distillation settings, used if a teacher is given.
        trainer: settings of the training loop.
        chunks: chunk sizes and left contexts of a causal Zipformer in training and validation; None: icefall's.
        kind: name of the kind of network.
    """

    task: str
    model: Optional[SpeechModelConfig] = None
    pretrained: Optional[str] = None
    tail: Optional[NonNegative] = None
    hears: Optional[str] = None
    loss: SpeechLossConfig = field(default_factory=SpeechLossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    chunks: Optional[ChunkConfig] = None
    kind: str = NAME

    def __post_init__(self) -> None:
        check_fields(self)
        if self.tail is not None and self.pretrained is None:
            raise ValueError("tail is only for a pretrained encoder; give it in model.encoder instead")
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")
        if self.hears not in (None, *HEARS):
            raise ValueError(f"hears must be one of {', '.join(HEARS)}, got {self.hears!r}")
        self.distillation.check_frame_wise()
        if self.model is not None and self.model.task != self.task:
            raise ValueError(f"task is {self.task!r}, but model.task is {self.model.task!r}")


@dataclass(frozen=True)
class PruneConfig(PruningConfig, RunConfig):
    """Configuration of a pruning run."""

    task: str = CTC

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        self.check(self.trainer)


def table_of(task: str, lang_dir: PathLike) -> CutTable:
    """Return the output table of a task: tokens or intents."""
    return Intents(lang_dir) if task == INTENT else Tokenizer(lang_dir)


class EncoderHeadKind(CutsKind[SpeechModel]):
    """Encoders with a head, on cuts with features or recordings.

    Args:
        config: configuration of the run.
        inputs: data of the run.
    """

    name = NAME
    network = SpeechModel
    around_encoder = ("head",)
    wanted, called = "the checkpoint of an encoder with a CTC or intent head", "an encoder with a head"
    training, pruning = RunConfig, PruneConfig

    @classmethod
    def encoder(cls, network: SpeechModel) -> Encoder:
        """Return the encoder."""
        return network.encoder

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> SpeechModel:
        """Build a network from plain values."""
        return SpeechModel(SpeechModelConfig(**config))

    @classmethod
    def input_length(cls, network: SpeechModel, seconds: float) -> int:
        """Return the number of feature frames, those of silence included, or samples."""
        return input_length(network.encoder, seconds)

    @classmethod
    def reference(cls, network: SpeechModel) -> tuple[int, str]:
        """Return the length of ten seconds of audio; it is called by that, and by the silence that Whisper adds."""
        seconds = facts.MACS_SECONDS[0]
        length = cls.input_length(network, seconds)
        if network.encoder.window is None:
            return length, f"{seconds} s"
        return length, f"{seconds} s in a window of {length / facts.FRAMES_PER_SECOND:g} s"

    @classmethod
    def facts(cls, network: SpeechModel) -> dict[str, Any]:
        """Return the costs of the encoder."""
        return facts.of_encoder(network)

    @classmethod
    def capabilities(cls, network: SpeechModel) -> Capabilities:
        """Return what the encoder supports; with a CTC head, also the CTC decoding methods."""
        decodings = _BY_CTC if network.config.task == CTC else ()
        return Capabilities(TECHNIQUES, repair=True, exports=ONNX_FORMS, decodings=decodings)

    @classmethod
    def parts(cls) -> dict[str, tuple[str, ...]]:
        """Return the blocks of the encoder, and what is before them: a subsampling or a front end."""
        return {
            "blocks": ("encoder.layers.", "encoder.encoder.layers."),
            "subsampling": ("encoder.subsampling.",),
            "front end": ("encoder.feature_extractor.", "encoder.feature_projection.", "encoder.front_end."),
        }

    @classmethod
    def table(cls, config: Any, lang_dir: PathLike) -> CutTable:
        """Return the table of tokens or of intents."""
        return table_of(config.task, lang_dir)

    @classmethod
    def forward(cls, network: SpeechModel, batch: Batch) -> object:
        """Run encoder and head."""
        return network(batch.features, batch.lengths)

    @classmethod
    def calibration(
        cls, network: SpeechModel, table: CutTable, files: Sequence[PathLike], max_duration: float
    ) -> Iterable[Batch]:
        """Return batches of cuts."""
        config = DataConfig(max_duration=max_duration)
        return training_batches(config, files, table, seed=0, epoch=1, source=source_of(network.encoder))

    @classmethod
    def loss_formula(cls, config: RunConfig) -> LossFormula:
        """Return the loss of the head, and what is added."""
        spectrum = {"spectrum": config.loss.spectrum_weight} if config.loss.spectrum_weight else {}
        unit = "nats per encoder frame" if config.task == CTC else "nats per utterance"
        return LossFormula(unit, added={**spectrum, **distilled(config.distillation)})

    @classmethod
    def measuring(cls, config: RunConfig) -> Measuring:
        """Return how to measure word errors, or intents."""
        return INTENTS_OF_CUTS if config.task == INTENT else word_errors(_BY_CTC_ALONE, likelihood=False)

    @classmethod
    def recogniser(cls, network: SpeechModel, source: PathLike) -> Recogniser:
        """Return a network with a CTC head in the form that CTC decoding uses."""
        if network.config.task != CTC:
            raise UserError(f"{source} contains a network for {network.config.task}", "use pruning.bin.classify")
        hears = source_of(network.encoder)
        bins = None if hears.recorded else network.encoder.bins
        return Recogniser(CtcRecogniser(network), hears, bins, silence_of(network.encoder))

    @classmethod
    def see(cls, network: SpeechModel, chunk: Chunk) -> Optional[ZipformerStream]:
        """Restrict the encoder to a context."""
        network.encoder.see(chunk)
        return network.encoder.stream(chunk) if chunk.left else None

    @classmethod
    def exports(cls, network: SpeechModel, lang_dir: Optional[PathLike]) -> Exports:
        """Return the export of encoder and head in one file."""
        return encoder_head_exports(network, source_of(network.encoder))

    @classmethod
    def streams(cls, network: SpeechModel, chunk: Chunk) -> Exports:
        """Return the export as a stream for the online recognisers of sherpa-onnx."""
        return encoder_head_streams(network, chunk)

    @classmethod
    def new(cls, config: Any, vocab_size: int) -> SpeechModel:
        """Make a network with the configuration's dimensions, or with a pre-trained encoder."""
        model_config = replace(config.model, outputs=vocab_size)
        if config.pretrained is None:
            if not model_config.encoder:
                raise UserError("the configuration has no model.encoder",
                                "give its dimensions, or pretrained=DIRECTORY (--pretrained of a recipe)")  # fmt: skip
            return SpeechModel(model_config)
        encoder, ranks = cls._pretrained(config.pretrained, config.tail)
        model = SpeechModel(replace(model_config, encoder=encoders.describe(encoder), ranks=ranks))
        model.encoder.load_state_dict(encoder.state_dict(), strict=True)
        return model

    @classmethod
    def _pretrained(cls, source: str, tail: Optional[float]) -> tuple[Encoder, dict[str, int]]:
        """Return the pre-trained encoder, and the ranks that the configuration of its network has."""
        ranks: dict[str, int] = {}
        if checkpoint.best_path(source).is_file():
            network = cls.load_network(source)[0]
            encoder, ranks = network.encoder, network.config.ranks
        else:
            encoder = load_encoder(source)
        return encoder if tail is None else encoder.with_tail(tail), ranks

    def begin(self, network: SpeechModel) -> None:
        """Set the feature statistics of an encoder that takes features and is not pre-trained."""
        if self.config.pretrained is None and not source_of(network.encoder).recorded:
            set_feature_statistics(network.encoder, self.first_batches())

    def origin(self) -> dict[str, Any]:
        """Return the name of the pre-trained encoder, also if training starts from an experiment that used one."""
        source = self.config.pretrained
        if source is None:
            return {}
        if not checkpoint.best_path(source).is_file():
            return {checkpoint.PRETRAINED: Path(source).name}
        found = checkpoint.read_header(checkpoint.best_path(source))
        return {key: found[key] for key in (checkpoint.PRETRAINED,) if key in found}

    def stands_on(self) -> dict[str, list[Path]]:
        """Return the files of the pre-trained weights if they are local; those under a hub name do not change."""
        source = self.config.pretrained
        if source is None or not Path(source).is_dir():
            return {}
        ours = checkpoint.best_path(source).is_file()
        return {"pretrained": [checkpoint.file_of(source)] if ours else files_of(Path(source))}

    def check(self, network: SpeechModel) -> None:
        """Refuse a network whose task or input is not the configuration's, and chunks that do not fit it."""
        if network.config.task != self.config.task:
            what = f"the network is for {network.config.task}, the configuration for {self.config.task}"
            raise UserError(what, "give a network for the same task")
        heard = HEARS[not source_of(network.encoder).recorded]
        if self.config.hears not in (None, heard):
            raise UserError(f"the encoder takes {heard} as input, but the configuration says hears={self.config.hears}",
                            "change model.encoder, or hears (--hears of a recipe)")  # fmt: skip
        chunks_for(network.encoder, self.config.chunks)
        super().check(network)

    def wants_teacher(self) -> bool:
        """Return whether to distil layers or the head's distribution."""
        return bool(self.config.distillation.wanted)

    def check_teacher(self, teacher: SpeechModel) -> None:
        """Refuse to distil from layers that the teacher does not have."""
        self.check_layers(teacher.encoder.depth)

    def task(self, network: SpeechModel, teacher: Optional[SpeechModel], pruner: Optional[Pruner] = None) -> SpeechTask:
        """Return the task: CTC loss or cross-entropy, and distillation."""
        augment = augmentation(network.encoder, self.config.data)
        return SpeechTask(network, self.config.loss, augment, teacher, self.config.distillation, pruner,
                          self.config.chunks)  # fmt: skip


_BY_CTC = tuple(method for method in SETTINGS if by_ctc(method))
_BY_CTC_ALONE = tuple(method for method in ACOUSTIC if method in _BY_CTC)
KIND = EncoderHeadKind
