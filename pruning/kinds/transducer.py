"""Transducers on cuts with features: an encoder, a stateless decoder and a joiner."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional, Protocol

import torch
from torch import Tensor

from pruning.core.distillation import DistillationConfig, frame_mask
from pruning.errors import UserError
from pruning.files import PathLike
from pruning.kinds.capabilities import Capabilities
from pruning.kinds.cuts_kind import CutsKind
from pruning.kinds.exports import Exports
from pruning.kinds.forms import FORMS
from pruning.kinds.heard import silence_of, source_of
from pruning.kinds.measured_cuts import ACOUSTIC, word_errors
from pruning.kinds.measuring import Measuring
from pruning.kinds.recogniser import Recogniser
from pruning.kinds.transducer_export import transducer_exports, transducer_streams
from pruning.methods.base import Pruner
from pruning.methods.config import PruningConfig
from pruning.methods.names import TECHNIQUES
from pruning.models import facts
from pruning.models.chunk import Chunk
from pruning.models.encoder import Encoder
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.models.uniform import narrowed_config
from pruning.models.zipformer_stream import ZipformerStream
from pruning.speech.data.augment import SpecAugment
from pruning.speech.data.batches import Batch, training_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.decoding.config import OWN_DECODER, SETTINGS
from pruning.speech.losses.combined import LossConfig
from pruning.speech.text.bpe import Tokenizer
from pruning.tasks.chunks import ChunkConfig, chunks_for
from pruning.tasks.formula import LossFormula, distilled
from pruning.tasks.transducer import Guidance, TransducerTask
from pruning.training.trainer_config import TrainerConfig

STATISTICS_BATCHES = 50
NAME = "transducer"


@dataclass(frozen=True)
class RunConfig:
    """Training configuration for transducers: teachers, networks from scratch and fine-tuning.

    Attributes:
        model: dimensions of the network; leave out when training starts from a checkpoint.
        loss: settings of transducer and CTC loss.
        data: batches and SpecAugment.
        distillation: distillation settings, used if a teacher is given.
        trainer: settings of the training loop.
        chunks: chunk sizes and left contexts of a causal Zipformer in training and validation; None: icefall's.
        kind: name of the kind of network.
    """

    model: Optional[TransducerConfig] = None
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    chunks: Optional[ChunkConfig] = None
    kind: str = NAME


@dataclass(frozen=True)
class PruneConfig(PruningConfig, RunConfig):
    """Configuration of a pruning run."""

    def __post_init__(self) -> None:
        self.check(self.trainer)


class HasFeatureStatistics(Protocol):
    """An encoder that normalises features."""

    def set_feature_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Normalise features by ``mean`` and ``deviation``, each of shape ``(feature_dim,)``, from now on."""


def set_feature_statistics(encoder: HasFeatureStatistics, batches: Iterable[Batch]) -> None:
    """Make an encoder normalise features by mean and deviation of the first `STATISTICS_BATCHES` of ``batches``."""
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for batch in itertools.islice(batches, STATISTICS_BATCHES):
        valid = batch.features[frame_mask(batch.lengths, batch.features.shape[1])].double()  # (frames, feature_dim)
        total, squares, count = total + valid.sum(dim=0), squares + (valid**2).sum(dim=0), count + len(valid)
    mean = total / count
    encoder.set_feature_statistics(mean, (squares / count - mean**2).clamp(min=0).sqrt())


class TransducerKind(CutsKind[Transducer]):
    """Transducers on cuts with features."""

    name = NAME
    network = Transducer
    around_encoder = ("decoder", "joiner", "simple_am", "simple_lm", "ctc_head")
    wanted, called = "a transducer's checkpoint", "a transducer"
    training, pruning = RunConfig, PruneConfig

    @classmethod
    def encoder(cls, network: Transducer) -> Encoder:
        """Return the encoder."""
        return network.encoder

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> Transducer:
        """Build a transducer from plain values."""
        return Transducer(TransducerConfig.from_dict(config))

    @classmethod
    def input_length(cls, network: Transducer, seconds: float) -> int:
        """Return the number of feature frames."""
        return facts.frames_of(seconds)

    @classmethod
    def reference(cls, network: Transducer) -> tuple[int, str]:
        """Return the length of ten seconds of audio."""
        return facts.frames_of(facts.MACS_SECONDS[0]), f"{facts.MACS_SECONDS[0]} s"

    @classmethod
    def facts(cls, network: Transducer) -> dict[str, Any]:
        """Return the costs of the encoder."""
        return facts.of_encoder(network)

    @classmethod
    def capabilities(cls, network: Transducer) -> Capabilities:
        """Return all capabilities; the CTC decoding methods only if there is a CTC head."""
        decodings = tuple(
            name for name in SETTINGS if name not in OWN_DECODER and (network.config.ctc or not by_ctc(name))
        )
        return Capabilities(TECHNIQUES, repair=True, exports=tuple(FORMS), decodings=decodings)

    @classmethod
    def parts(cls) -> dict[str, tuple[str, ...]]:
        """Return the blocks and the subsampling of the encoder."""
        return {"blocks": ("encoder.layers.",), "subsampling": ("encoder.subsampling.",)}

    @classmethod
    def table(cls, config: Any, lang_dir: PathLike) -> Tokenizer:
        """Return the tokens."""
        return Tokenizer(lang_dir)

    @classmethod
    def forward(cls, network: Transducer, batch: Batch) -> object:
        """Run the encoder."""
        return network(batch.features, batch.lengths)

    @classmethod
    def calibration(
        cls, network: Transducer, table: Tokenizer, files: Sequence[PathLike], max_duration: float
    ) -> Iterable[Batch]:
        """Return batches of cuts."""
        return training_batches(DataConfig(max_duration=max_duration), files, table, seed=0, epoch=1)

    @classmethod
    def loss_formula(cls, config: RunConfig) -> LossFormula:
        """Return the pruned-range, the simple and the CTC loss after the warm-up of their weights, and distillation."""
        simple, pruned_range = config.loss.scales(config.loss.warmup_steps)
        task = {"transducer": pruned_range, "simple": simple, "ctc": config.loss.ctc_weight}
        return LossFormula("nats per encoder frame", task, distilled(config.distillation))

    @classmethod
    def measuring(cls, config: RunConfig) -> Measuring:
        """Return how to measure word errors and the likelihood of the transcripts."""
        return word_errors(ACOUSTIC, likelihood=True)

    @classmethod
    def narrowed(cls, network: Transducer, narrow: str, cost: str, budget: float, seconds: float = 10.0) -> Transducer:
        """Narrow the units of the encoder, or all of its widths."""
        return Transducer(narrowed_config(network, narrow, cost, budget, seconds))

    @classmethod
    def recogniser(cls, network: Transducer, source: PathLike) -> Recogniser:
        """Return the network itself."""
        return Recogniser(network, source_of(network.encoder), network.encoder.bins, silence_of(network.encoder))

    @classmethod
    def see(cls, network: Transducer, chunk: Chunk) -> Optional[ZipformerStream]:
        """Restrict the encoder to a context."""
        network.encoder.see(chunk)
        return network.encoder.stream(chunk) if chunk.left else None

    @classmethod
    def exports(cls, network: Transducer, lang_dir: Optional[PathLike]) -> Exports:
        """Return the export to ONNX for sherpa-onnx, and to TorchScript."""
        return transducer_exports(network.plain())

    @classmethod
    def streams(cls, network: Transducer, chunk: Chunk) -> Exports:
        """Return the export as a stream for the online recognisers of sherpa-onnx."""
        return transducer_streams(network, chunk)

    @classmethod
    def new(cls, config: Any, vocab_size: int) -> Transducer:
        """Make a transducer with the configuration's dimensions."""
        return Transducer(replace(config.model, vocab_size=vocab_size))

    def check(self, network: Transducer) -> None:
        """Refuse CTC weights without a CTC head, and chunks and cuts that do not fit the network."""
        if not network.config.ctc and max(self.config.loss.ctc_weight, self.config.distillation.ctc_weight) > 0:
            raise UserError("the network has no CTC head, but the configuration gives CTC a weight",
                            "set loss.ctc_weight=0 distillation.ctc_weight=0")  # fmt: skip
        chunks_for(network.encoder, self.config.chunks)
        super().check(network)

    def begin(self, network: Transducer) -> None:
        """Set the encoder's feature statistics from the first training batches, the same in every process."""
        set_feature_statistics(network.encoder, self.first_batches())

    def wants_teacher(self) -> bool:
        """Return whether to distil layers, the output or the CTC head."""
        return bool(self.config.distillation.wanted)

    def check_teacher(self, teacher: Transducer) -> None:
        """Refuse to distil from layers that the teacher does not have."""
        self.check_layers(teacher.encoder.depth)

    def task(
        self, network: Transducer, teacher: Optional[Transducer], pruner: Optional[Pruner] = None
    ) -> TransducerTask:
        """Return the task: transducer loss, CTC loss and distillation."""
        guidance = None if teacher is None else Guidance(teacher, self.config.distillation)
        return TransducerTask(network, self.config.loss, SpecAugment(self.config.data.spec_augment), guidance, pruner,
                              self.config.chunks)  # fmt: skip


def by_ctc(method: str) -> bool:
    """Return whether a decoding method uses the CTC head."""
    return method.startswith(("ctc", "hlg"))


KIND = TransducerKind
