"""Task for transducers: training from scratch, pruning, or a fixed structure; with or without a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from pruning.core.distillation import (
    COFI,
    FULL,
    NODE,
    DistillationConfig,
    LayerDistillation,
    frame_distillation,
    frame_mask,
)
from pruning.methods.base import Pruner
from pruning.models.chunk import WHOLE
from pruning.models.conformer import EncoderOutput
from pruning.models.transducer import Transducer
from pruning.speech.data.augment import SpecAugment
from pruning.speech.data.batches import Batch
from pruning.speech.losses.combined import LossConfig, RecognitionLoss, recognition_loss, transducer_distillation_loss
from pruning.speech.losses.pruned_range import decoder_output, joiner_logits, symbol_ranges
from pruning.tasks.chunks import ChunkConfig, chunks_for
from pruning.tasks.pruned import LossTerms, PrunedTask
from pruning.training.task import ParameterGroup, StepInfo, weight_groups


@dataclass(frozen=True)
class Guidance:
    """A teacher and what is distilled from it."""

    teacher: Transducer
    config: DistillationConfig


class TransducerTask(PrunedTask):
    """The loss of a transducer on a batch of speech.

    Loss = (transducer + CTC) per encoder frame + distillation + the constraint's penalty (L0 pruning).

    Args:
        model: transducer to train.
        loss: settings of transducer and CTC loss.
        augment: SpecAugment, or None.
        guidance: teacher, which is frozen, in evaluation mode, and takes the same augmented features as input.
        pruner: pruner of ``model``; None: the structure is fixed.
        chunks: contexts of a causal encoder; None: the default ones.

    Raises:
        UserError: the encoder cannot compute the chunks.
    """

    frozen_modules = ("teacher",)

    def __init__(
        self,
        model: Transducer,
        loss: LossConfig,
        augment: Optional[SpecAugment] = None,
        guidance: Optional[Guidance] = None,
        pruner: Optional[Pruner] = None,
        chunks: Optional[ChunkConfig] = None,
    ) -> None:
        super().__init__(pruner)
        self.model: Transducer = model
        self.loss = loss
        self.augment = augment
        self.chunks = chunks_for(model.encoder, chunks)
        self.teacher: Optional[Transducer] = None
        self.distillation = DistillationConfig()
        if guidance is not None and guidance.config.wanted:
            self.distillation = guidance.config.of_depth(guidance.teacher.encoder.depth)
            self.teacher = guidance.teacher.eval().requires_grad_(False)
            if self.distillation.layers and self.distillation.layer_weight > 0:
                self.distillation.check_student(model.encoder.depth)
                dims = model.encoder.width, guidance.teacher.encoder.width
                self.layer_distillation = LayerDistillation(self.distillation, *dims)

    def terms(self, batch: Batch, step: StepInfo) -> LossTerms:
        """Compute the terms of a batch's loss: means per encoder frame, but see ``distillation.output_per``."""
        features = batch.features
        if self.augment is not None and step.training:
            features = self.augment(features, batch.lengths)
        chunk = WHOLE if self.chunks is None else self.chunks.of(step)
        with self.pruned(step), self.model.encoder.seeing(chunk):
            encoded = self.model(features, batch.lengths, return_layers=self.layer_distillation is not None)
        task = recognition_loss(
            self.model, encoded.output, encoded.lengths, batch.tokens, self.loss, self._warmup_step(step)
        )
        frames = task.frames.clamp(min=1)
        weighted = {"task": task.total / frames}
        logged = {**weighted, "simple": task.simple / frames}
        logged.update(transducer=task.pruned / frames, ctc=task.ctc / frames)
        if self.teacher is not None:
            with self.teacher.encoder.seeing(chunk if self.teacher.encoder.causal else WHOLE):
                distilled = self._distil(features, batch, encoded, task)
            logged.update(distilled)
            weights = self._weights(step)
            weighted.update((name, weights[name] * term) for name, term in distilled.items() if name in weights)
        return LossTerms(weighted, logged, frames)

    def _warmup_step(self, step: StepInfo) -> int:
        """Return the step for the warm-up of loss weights; validation uses final weights, for comparable losses."""
        return step.step if step.training else self.loss.warmup_steps

    def _weights(self, step: StepInfo) -> dict[str, float]:
        config = self.distillation
        return {
            "distil_layers": config.layer_weight_at(step.step, step.total_steps),
            "distil_output": config.output_weight,
            "distil_ctc": config.ctc_weight,
        }

    def _distil(
        self, features: Tensor, batch: Batch, student: EncoderOutput, task: RecognitionLoss
    ) -> dict[str, Tensor]:
        """Compute the distillation terms, without their weights, and values to log."""
        assert self.teacher is not None
        config = self.distillation
        terms: dict[str, Tensor] = {}
        with torch.no_grad():
            teacher = self.teacher(features, batch.lengths, return_layers=self.layer_distillation is not None)
        if self.layer_distillation is not None:
            exists = [True, *self.model.existing_layers(self._open_counts() or {})]
            found = self.layer_distillation.distances(student.layers, teacher.layers, student.lengths, exists)
            terms.update(distil_layers=found.loss, distil_largest=found.largest)
        if config.output_weight > 0:
            terms["distil_output"] = self._output_divergence(self.teacher, student, teacher.output, task)
        if config.ctc_weight > 0:
            with torch.no_grad():
                goal = self.teacher.ctc(teacher.output)
            mask = frame_mask(student.lengths, student.output.shape[1])
            terms["distil_ctc"] = frame_distillation(self.model.ctc(student.output), goal, mask, config.temperature)
        return terms

    def _output_divergence(
        self, teacher: Transducer, student: EncoderOutput, teacher_output: Tensor, task: RecognitionLoss
    ) -> Tensor:
        """Compute the divergence of the joiners' posteriors, per frame or per lattice node.

        Args:
            teacher: the teacher.
            student: outputs of the student's encoder.
            teacher_output: output of the teacher's encoder, (N, T, D).
            task: loss of the task, on the student's ranges.
        """
        config, loss, logits, ranges = self.distillation, self.loss, task.logits, task.ranges
        lengths = student.lengths.masked_fill(~task.counted, 0)
        with torch.no_grad():
            prefixes = decoder_output(teacher, task.targets)
            if config.output_bounds == "teacher":
                ranges = symbol_ranges(
                    teacher, teacher_output, prefixes, student.lengths, task.targets, task.target_lengths,
                    loss.prune_range, loss.am_scale, loss.lm_scale, loss.backend,
                )  # fmt: skip
            goal = joiner_logits(teacher, teacher_output, prefixes, ranges)
        if config.output_bounds == "teacher":
            logits = joiner_logits(self.model, student.output, decoder_output(self.model, task.targets), ranges)
        divergence = transducer_distillation_loss(
            logits, goal, ranges, task.targets, lengths, task.target_lengths, config.output_form == FULL,
            config.output_temperature,
        )  # fmt: skip
        nodes = ranges.shape[2] if config.output_per == NODE else 1
        return divergence / (task.frames * nodes).clamp(min=1)

    def _open_counts(self) -> Optional[dict[str, float]]:
        """Return hard counts of units for matching layers; None without pruning or without the CoFi loss."""
        if self.pruner is None or self.distillation.loss != COFI:
            return None
        counts = self.pruner.hard_counts().tolist()
        return {group.name: count for group, count in zip(self.pruner.units.groups, counts)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the groups of the network and of distillation projections, and those of the pruner."""
        groups = weight_groups([self.model])
        if self.layer_distillation is not None:
            groups += weight_groups([self.layer_distillation], weight_decay=0.0, prefix="distillation_")
        return groups + self.pruner_groups()
