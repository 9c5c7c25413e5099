"""Task for transducers: training from scratch, pruning, or a fixed structure; with or without a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from pruning.core.distillation import (
    DistillationConfig,
    LayerDistillation,
    frame_distillation,
    frame_mask,
)
from pruning.methods.base import Pruner
from pruning.models.conformer import EncoderOutput
from pruning.models.conformer_units import existing_layers
from pruning.models.transducer import Transducer
from pruning.speech.data.augment import SpecAugment
from pruning.speech.data.batches import Batch
from pruning.speech.losses.combined import LossConfig, RecognitionLoss, recognition_loss, transducer_distillation_loss
from pruning.speech.losses.pruned_range import decoder_output, joiner_logits
from pruning.tasks.pruned import PrunedTask
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
    """

    frozen_modules = ("teacher",)

    def __init__(
        self,
        model: Transducer,
        loss: LossConfig,
        augment: Optional[SpecAugment] = None,
        guidance: Optional[Guidance] = None,
        pruner: Optional[Pruner] = None,
    ) -> None:
        super().__init__(pruner)
        self.model: Transducer = model
        self.loss = loss
        self.augment = augment
        self.teacher: Optional[Transducer] = None
        self.distillation = DistillationConfig()
        if guidance is not None and guidance.config.wanted:
            self.distillation = guidance.config
            self.teacher = guidance.teacher.eval().requires_grad_(False)
            if self.distillation.layers and self.distillation.layer_weight > 0:
                dims = model.config.encoder.d_model, guidance.teacher.config.encoder.d_model
                self.layer_distillation = LayerDistillation(self.distillation, *dims)

    def train(self, mode: bool = True) -> TransducerTask:
        """Set the mode of all but the teacher, which stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: Batch, step: StepInfo) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch; terms are means per encoder frame (task) or per frame (distillation)."""
        features = batch.features
        if self.augment is not None and step.training:
            features = self.augment(features, batch.lengths)
        with self.pruned(step):
            encoded = self.model(features, batch.lengths, return_layers=self.layer_distillation is not None)
        task = recognition_loss(
            self.model, encoded.output, encoded.lengths, batch.tokens, self.loss, self._warmup_step(step)
        )
        frames = task.frames.clamp(min=1)
        loss = task.total / frames
        terms = {"task": loss}
        terms.update(simple=task.simple / frames, transducer=task.pruned / frames, ctc=task.ctc / frames)
        if self.teacher is not None:
            distilled = self._distil(features, batch, encoded, task)
            terms.update(distilled)
            loss = loss + self._weighted(distilled)
        return self.with_penalty(loss, terms, frames, step)

    def _warmup_step(self, step: StepInfo) -> int:
        """Return the step for the warm-up of loss weights; validation uses final weights, for comparable losses."""
        return step.step if step.training else self.loss.warmup_steps

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        weights = {
            "distil_layers": self.distillation.layer_weight,
            "distil_output": self.distillation.output_weight,
            "distil_ctc": self.distillation.ctc_weight,
        }
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def _distil(
        self, features: Tensor, batch: Batch, student: EncoderOutput, task: RecognitionLoss
    ) -> dict[str, Tensor]:
        """Compute the distillation terms, without their weights."""
        assert self.teacher is not None
        config, terms = self.distillation, {}
        with torch.no_grad():
            teacher = self.teacher(features, batch.lengths, return_layers=self.layer_distillation is not None)
        mask = frame_mask(student.lengths, student.output.shape[1])
        if self.layer_distillation is not None:
            exists = [True, *existing_layers(self.model.config.encoder, self._open_counts())]
            terms["distil_layers"] = self.layer_distillation(student.layers, teacher.layers, student.lengths, exists)
        if config.output_weight > 0:
            with torch.no_grad():
                prefixes = decoder_output(self.teacher, task.targets)
                logits = joiner_logits(self.teacher, teacher.output, prefixes, task.ranges)
            divergence = transducer_distillation_loss(
                task.logits, logits, task.ranges, task.targets, student.lengths, task.target_lengths
            )
            terms["distil_output"] = divergence / (task.frames * task.ranges.shape[2]).clamp(min=1)
        if config.ctc_weight > 0:
            with torch.no_grad():
                goal = self.teacher.ctc(teacher.output)
            terms["distil_ctc"] = frame_distillation(self.model.ctc(student.output), goal, mask, config.temperature)
        return terms

    def _open_counts(self) -> Optional[dict[str, float]]:
        """Return hard counts of units for matching layers; None without pruning or without the CoFi loss."""
        if self.pruner is None or self.distillation.loss != "cofi":
            return None
        counts = self.pruner.hard_counts().tolist()
        return {group.name: count for group, count in zip(self.pruner.units.groups, counts)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the groups of the network and of distillation projections, and those of the pruner."""
        groups = weight_groups([self.model])
        if self.layer_distillation is not None:
            groups += weight_groups([self.layer_distillation], weight_decay=0.0, prefix="distillation_")
        return groups + self.pruner_groups()
