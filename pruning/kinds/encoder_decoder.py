"""Encoder-decoders on recordings: Whisper and Moonshine with their own tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

from pruning.core.distillation import DistillationConfig
from pruning.core.uniform import uniform_structure
from pruning.errors import UserError
from pruning.files import PathLike
from pruning.importers import hf_source
from pruning.importers.hf_directory import CONFIG, PREPROCESSOR
from pruning.kinds.capabilities import Capabilities
from pruning.kinds.cuts_kind import CutsKind
from pruning.kinds.encoder_decoder_export import encoder_decoder_exports
from pruning.kinds.encoder_decoder_hf import as_hugging_face
from pruning.kinds.exports import Exports, HuggingFaceForm
from pruning.kinds.forms import ONNX_FORMS
from pruning.kinds.heard import augmentation, input_length, source_of
from pruning.kinds.measured_cuts import word_errors
from pruning.kinds.measuring import Measuring
from pruning.kinds.recogniser import Recogniser
from pruning.methods.base import Pruner
from pruning.methods.config import PruningConfig
from pruning.methods.names import TECHNIQUES
from pruning.models import facts
from pruning.models.encoder import Encoder
from pruning.models.encoder_decoder import EncoderDecoder, SpokenLength
from pruning.models.encoder_decoder_config import EncoderDecoderConfig
from pruning.speech.data import checks, manifests
from pruning.speech.data.batches import Batch, training_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.decoding.config import OWN_DECODER
from pruning.speech.text.network_tokens import NetworkTokens
from pruning.speech.text.transcript_form import TranscriptForm
from pruning.tasks.encoder_decoder import EncoderDecoderTask, TokenLossConfig, forced
from pruning.tasks.formula import LossFormula, distilled
from pruning.training.trainer_config import TrainerConfig

NAME = "encoder_decoder"


@dataclass(frozen=True)
class RunConfig:
    """Training configuration for encoder-decoders, shared by training, pruning and fine-tuning.

    Attributes:
        model: dimensions of the network; leave out when training starts from a checkpoint.
        loss: loss settings, see `TokenLossConfig`.
        data: batches; augmentation is `SpecAugment` or `SampleAugment`, depending on the encoder's input.
        distillation: distillation settings, used if a teacher is given.
        trainer: settings of the training loop.
        kind: name of the kind of network.
    """

    model: Optional[EncoderDecoderConfig] = None
    loss: TokenLossConfig = field(default_factory=TokenLossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    kind: str = NAME

    def __post_init__(self) -> None:
        self.distillation.check_frame_wise()
        if self.data.musan_cuts is not None:
            raise ValueError("data.musan_cuts is only for networks that take features of cuts")


@dataclass(frozen=True)
class PruneConfig(PruningConfig, RunConfig):
    """Configuration of a pruning run; MACs are counted for the whole network, at the tokens that it assumes."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        self.check(self.trainer)


class EncoderDecoderKind(CutsKind[EncoderDecoder]):
    """Encoder-decoders on cuts with recordings.

    Args:
        config: configuration of the run.
        inputs: data of the run.
    """

    name = NAME
    network = EncoderDecoder
    around_encoder = ("decoder",)
    wanted, called = "the checkpoint of an encoder-decoder, such as an import", "an encoder-decoder"
    training, pruning = RunConfig, PruneConfig

    @classmethod
    def encoder(cls, network: EncoderDecoder) -> Encoder:
        """Return the encoder."""
        return network.encoder

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> EncoderDecoder:
        """Build a network from plain values."""
        return EncoderDecoder(EncoderDecoderConfig.from_dict(config))

    @classmethod
    def input_length(cls, network: EncoderDecoder, seconds: float) -> SpokenLength:
        """Return the number of feature frames, those of silence included, or samples, and of tokens."""
        return SpokenLength(input_length(network.encoder, seconds), network.tokens_of(seconds))

    @classmethod
    def reference(cls, network: EncoderDecoder) -> tuple[int, str]:
        """Return the length of ten seconds of speech, and that with its tokens and Whisper's silence in words."""
        seconds = facts.MACS_SECONDS[0]
        length = cls.input_length(network, seconds)
        spoken = f"{seconds} s, {length.tokens} tokens"
        if network.encoder.window is None:
            return length, spoken
        return length, f"{spoken} in a window of {length / facts.FRAMES_PER_SECOND:g} s"

    @classmethod
    def facts(cls, network: EncoderDecoder) -> dict[str, Any]:
        """Return the costs of encoder, decoder and output layer."""
        tokens = {seconds: network.tokens_of(seconds) for seconds in facts.MACS_SECONDS}
        return facts.of_encoder_decoder(network, tokens)

    @classmethod
    def capabilities(cls, network: EncoderDecoder) -> Capabilities:
        """Return all pruning techniques, repair, ONNX, and decoding with the network's own decoder."""
        return Capabilities(TECHNIQUES, repair=True, exports=ONNX_FORMS, decodings=OWN_DECODER)

    @classmethod
    def parts(cls) -> dict[str, tuple[str, ...]]:
        """Return the layers of both parts, and what is before those of the encoder."""
        return {"encoder": ("encoder.layers.",), "front end": ("encoder.front_end.",),
                "decoder": ("decoder.layers.",), "embedding": ("decoder.embedding.",)}  # fmt: skip

    @classmethod
    def table(cls, config: Any, lang_dir: PathLike) -> NetworkTokens:
        """Return the network's own tokens."""
        return NetworkTokens(lang_dir)

    @classmethod
    def spelling(cls, lang_dir: PathLike) -> NetworkTokens:
        """Return the network's own tokens."""
        return NetworkTokens(lang_dir)

    @classmethod
    def forward(cls, network: EncoderDecoder, batch: Batch) -> object:
        """Run encoder and decoder on transcripts, which follow the first token of the start: see `calibration`."""
        config = network.config.decoder
        form = TranscriptForm(config.vocab_size, (config.start,), config.end)
        said = forced(batch.tokens, form, batch.features.device)
        return network(batch.features, batch.lengths, said.tokens)

    @classmethod
    def calibration(
        cls, network: EncoderDecoder, table: NetworkTokens, files: Sequence[PathLike], max_duration: float
    ) -> Iterable[Batch]:
        """Return batches of cuts, whose tokens begin with those of Whisper's start behind the first."""
        config, further = DataConfig(max_duration=max_duration), table.form.start[1:]
        for batch in training_batches(config, files, table, seed=0, epoch=1, source=source_of(network.encoder)):
            yield replace(batch, tokens=[[*further, *tokens] for tokens in batch.tokens])

    @classmethod
    def loss_formula(cls, config: RunConfig) -> LossFormula:
        """Return the cross-entropy of the next token, and distillation."""
        return LossFormula("nats per token", added=distilled(config.distillation))

    @classmethod
    def measuring(cls, config: RunConfig) -> Measuring:
        """Return how to measure word errors, after the English normaliser."""
        return word_errors(OWN_DECODER, likelihood=False, normaliser="english")

    @classmethod
    def narrowed(
        cls, network: EncoderDecoder, narrow: str, cost: str, budget: float, seconds: float = 10.0
    ) -> EncoderDecoder:
        """Narrow the units of both parts."""
        if narrow != "units":
            raise UserError(f"{cls.called} cannot be narrowed by {narrow}", "give --narrow units")
        costs = facts.cost_model(network, seconds)
        return network.shrink(uniform_structure(network.unit_groups(), costs, cost, budget))

    @classmethod
    def exports(cls, network: EncoderDecoder, lang_dir: Optional[PathLike]) -> Exports:
        """Return the export for sherpa-onnx."""
        tokens = None if lang_dir is None else NetworkTokens(lang_dir)
        return encoder_decoder_exports(network, source_of(network.encoder), tokens)

    @classmethod
    def hugging_face(cls, network: EncoderDecoder, lang_dir: PathLike) -> HuggingFaceForm:
        """Return the network with the settings of the directory that it was imported from."""
        values, generation, preprocessor = (
            hf_source.kept_values(lang_dir, name) for name in (CONFIG, hf_source.GENERATION, PREPROCESSOR)
        )
        return as_hugging_face(network, values, generation, preprocessor, NetworkTokens(lang_dir).speech)

    @classmethod
    def export_notes(cls, network: EncoderDecoder) -> tuple[str, ...]:
        """Say if the network was used on a shorter window than other programs give it."""
        tail = network.config.encoder.tail
        if tail is None:
            return ()
        return (f"The word error rates below were measured with {tail:g} s of silence after each recording; programs "
                "such as transformers encode the whole window of 30 s, which may give others.",)  # fmt: skip

    @classmethod
    def recogniser(cls, network: EncoderDecoder, source: PathLike) -> Recogniser:
        """Return the network itself."""
        return Recogniser(network, source_of(network.encoder), None)

    @classmethod
    def new(cls, config: Any, vocab_size: int) -> EncoderDecoder:
        """Make a network with the configuration's dimensions."""
        model: EncoderDecoderConfig = config.model
        return EncoderDecoder(replace(model, decoder=replace(model.decoder, vocab_size=vocab_size)))

    def check(self, network: EncoderDecoder) -> None:
        """Refuse recordings longer than the network's window, and transcripts without text or longer than its room."""
        super().check(network)
        train, dev = (manifests.check_exists(list(paths)) for paths in (self.inputs.train, self.inputs.dev))
        data = self.config.data
        self._check_transcripts(train, (data.min_cut_duration, data.max_cut_duration), network.decoder.room)
        self._check_transcripts(dev, (0.0, math.inf), network.decoder.room)

    def _check_transcripts(self, paths: Sequence[Path], durations: tuple[float, float], room: int) -> None:
        """Check all transcripts of cuts between two durations; about 18 s of one CPU for 100,000 cuts."""
        around, (shortest, longest) = len(self.output_table.form.start), durations
        for path in paths:
            for cut in manifests.iterate_cuts(path):
                if shortest <= cut.duration <= longest:
                    count = around + len(checks.targets_of(cut, path, self.output_table))
                    if room and count > room:
                        raise UserError(f"{path}: the transcript of cut {cut.id} has {count} tokens, but the decoder "
                                        f"takes {room}", "cut the recording into shorter ones")  # fmt: skip

    def wants_teacher(self) -> bool:
        """Return whether to distil layers or the next token's distribution."""
        return bool(self.config.distillation.wanted)

    def check_teacher(self, teacher: EncoderDecoder) -> None:
        """Refuse to distil from layers that the teacher does not have."""
        self.check_layers(teacher.config.encoder.num_layers + teacher.config.decoder.num_layers)

    def task(
        self, network: EncoderDecoder, teacher: Optional[EncoderDecoder], pruner: Optional[Pruner] = None
    ) -> EncoderDecoderTask:
        """Return the task: cross-entropy per token, and distillation."""
        config, form = self.config, self.output_table.form
        augment = augmentation(network.encoder, config.data)
        return EncoderDecoderTask(network, form, config.loss, augment, teacher, config.distillation, pruner)


KIND = EncoderDecoderKind
