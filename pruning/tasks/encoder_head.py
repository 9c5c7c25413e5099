"""Task for encoders with a head: CTC over frames, or the intent of utterances; with or without pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pruning.core.distillation import DistillationConfig, LayerDistillation, frame_distillation, frame_mask
from pruning.errors import UserError
from pruning.limits import Fraction, NonNegative, check_fields
from pruning.methods.base import Pruner
from pruning.models.chunk import WHOLE
from pruning.models.facts import SAMPLES_PER_SECOND
from pruning.models.speech_model import CTC, SpeechModel, SpeechOutput
from pruning.speech.data.augment import SampleAugment, SpecAugment
from pruning.speech.data.batches import Batch
from pruning.speech.losses.ctc import ctc_loss
from pruning.tasks.chunks import ChunkConfig, chunks_for
from pruning.tasks.freezing import freeze
from pruning.tasks.pruned import LossTerms, PrunedTask
from pruning.tasks.spectrum import SpectrumLoss
from pruning.training.task import ParameterGroup, StepInfo, weight_groups


@dataclass(frozen=True)
class SpeechLossConfig:
    """Loss settings for encoders with a head.

    Attributes:
        label_smoothing: label smoothing of the ``intent`` loss.
        freeze: name prefixes of parameters that are not trained, e.g. ``[encoder.layers.0]``, or ``front_end`` for the
            convolutions of any encoder that read its input; gates and masks still apply to them.
        head_lr: learning rate of the head; None: that of the encoder.
        spectrum_weight: weight of `pruning.tasks.spectrum.SpectrumLoss` on the input of the Transformer, for encoders
            with fresh weights that take samples.
    """

    label_smoothing: Fraction = 0.0
    freeze: tuple[str, ...] = ()
    head_lr: Optional[NonNegative] = None
    spectrum_weight: NonNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


def _spectrum_loss(model: SpeechModel) -> SpectrumLoss:
    """Return the spectrum loss for encoder frames.

    Raises:
        UserError: the encoder does not take samples.
    """
    encoder = model.encoder
    if encoder.bins:
        raise UserError("loss.spectrum_weight is only for encoders that take samples", "leave it out")
    return SpectrumLoss(encoder.width, SAMPLES_PER_SECOND, encoder.stride)


class SpeechTask(PrunedTask):
    """CTC loss per encoder frame, or cross-entropy per utterance, with distillation and the constraint's penalty.

    Args:
        model: network to train.
        loss: loss settings, see `SpeechLossConfig`.
        augment: augmentation of the input, features or samples; or None.
        teacher: dense network, which is frozen and in evaluation mode; None: no distillation.
        distillation: what to distil: ``layers``, and the head's distribution with ``output_weight``.
        pruner: pruner of ``model``; None: the structure is fixed.
        chunks: contexts of a causal encoder; None: the default ones.

    Raises:
        UserError: the encoder cannot compute the chunks.
    """

    frozen_modules = ("teacher",)

    def __init__(
        self,
        model: SpeechModel,
        loss: SpeechLossConfig,
        augment: Union[SpecAugment, SampleAugment, None] = None,
        teacher: Optional[SpeechModel] = None,
        distillation: Optional[DistillationConfig] = None,
        pruner: Optional[Pruner] = None,
        chunks: Optional[ChunkConfig] = None,
    ) -> None:
        super().__init__(pruner)
        self.model: SpeechModel = model
        self.loss = loss
        self.augment = augment
        self.chunks = chunks_for(model.encoder, chunks)
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self.distillation = distillation or DistillationConfig()
        if self.teacher is not None:
            self.distillation = self.distillation.of_depth(self.teacher.encoder.depth)
        if self.teacher is not None and self.distillation.layers and self.distillation.layer_weight > 0:
            self.distillation.check_student(model.encoder.depth)
            dims = (one.encoder.width for one in (model, self.teacher))
            self.layer_distillation = LayerDistillation(self.distillation, *dims)
        self.spectrum: Optional[SpectrumLoss] = None
        if loss.spectrum_weight > 0:
            self.spectrum = _spectrum_loss(model)
        freeze(model, loss.freeze, model.encoder.convolutions)

    def terms(self, batch: Batch, step: StepInfo) -> LossTerms:
        """Compute the terms of a batch's loss: means per frame (``ctc``) or per utterance (``intent``)."""
        inputs = batch.features
        if self.augment is not None and step.training:
            inputs = self.augment(inputs, batch.lengths)
        chunk = WHOLE if self.chunks is None else self.chunks.of(step)
        with self.pruned(step), self.model.encoder.seeing(chunk):
            output: SpeechOutput = self.model(inputs, batch.lengths)
        of_task = self._ctc if self.model.config.task == CTC else self._intent
        loss, values, items = of_task(output, batch, step)
        weighted, logged = {"task": loss}, {"task": loss, **values}
        if self.spectrum is not None:
            encoded = output.encoded
            logged["spectrum"] = self.spectrum(encoded.layers[0], encoded.lengths, batch.features)
            weighted["spectrum"] = self.loss.spectrum_weight * logged["spectrum"]
        if self.teacher is not None:
            with self.teacher.encoder.seeing(chunk if self.teacher.encoder.causal else WHOLE):
                distilled = self._distil(inputs, batch, output)
            logged.update(distilled)
            weights = {"distil_layers": self.distillation.layer_weight_at(step.step, step.total_steps),
                       "distil_output": self.distillation.output_weight}  # fmt: skip
            weighted.update((name, weights[name] * term) for name, term in distilled.items() if name in weights)
        return LossTerms(weighted, logged, items)

    def _ctc(self, output: SpeechOutput, batch: Batch, step: StepInfo) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        lengths = output.encoded.lengths
        counts = torch.tensor([len(tokens) for tokens in batch.tokens], device=lengths.device)
        rows = [torch.tensor(tokens, dtype=torch.long) for tokens in batch.tokens]
        targets = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(lengths.device)
        frames = lengths.sum().clamp(min=1)
        return ctc_loss(output.logits.log_softmax(dim=2), lengths, targets, counts) / frames, {}, frames

    def _intent(self, output: SpeechOutput, batch: Batch, step: StepInfo) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        wanted = torch.tensor([numbers[0] for numbers in batch.tokens], device=output.logits.device)  # -1: unknown
        smoothing = self.loss.label_smoothing if step.training else 0.0
        summed = cross_entropy(output.logits, wanted, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
        known = (wanted >= 0).sum().clamp(min=1)
        right = (output.logits.argmax(dim=1) == wanted).sum() / known
        return summed / known, {"accuracy": right}, known

    def _distil(self, inputs: Tensor, batch: Batch, student: SpeechOutput) -> dict[str, Tensor]:
        """Compute the distillation terms, without their weights, and values to log."""
        assert self.teacher is not None
        with torch.no_grad():
            teacher: SpeechOutput = self.teacher(inputs, batch.lengths)
        lengths = student.encoded.lengths
        terms: dict[str, Tensor] = {}
        if self.layer_distillation is not None:
            found = self.layer_distillation.distances(student.encoded.layers, teacher.encoded.layers, lengths)
            terms.update(distil_layers=found.loss, distil_largest=found.largest)
        if self.distillation.output_weight > 0:
            ours, goal = (one.logits.log_softmax(dim=-1) for one in (student, teacher))
            mask = frame_mask(lengths, ours.shape[1]) if ours.ndim == 3 else torch.ones_like(batch.lengths[:, None]) > 0
            if ours.ndim == 2:  # treat an utterance as one frame
                ours, goal = ours[:, None], goal[:, None]
            terms["distil_output"] = frame_distillation(ours, goal, mask, self.distillation.temperature)
        return terms

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the groups of encoder, head, distillation projections and spectrum loss, and those of the pruner."""
        groups = weight_groups([self.model.encoder])
        groups += weight_groups([self.model.head], lr=self.loss.head_lr, prefix="head_")
        if self.layer_distillation is not None:
            groups += weight_groups([self.layer_distillation], weight_decay=0.0, prefix="distillation_")
        if self.spectrum is not None:
            groups += weight_groups([self.spectrum], weight_decay=0.0, prefix="spectrum_")
        return groups + self.pruner_groups()
