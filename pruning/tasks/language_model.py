"""Task for language models: training from scratch, pruning, or a fixed structure; with or without a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from torch.nn.functional import linear

from pruning.core.distillation import frame_distillation
from pruning.core.linear_loss import linear_cross_entropy
from pruning.limits import NonNegative, Positive, check_fields
from pruning.methods.base import Pruner
from pruning.models.transformer_lm import TransformerLM
from pruning.speech.text.sentences import SentenceBatch
from pruning.tasks.pruned import LossTerms, PrunedTask
from pruning.training.task import ParameterGroup, StepInfo, weight_groups


@dataclass(frozen=True)
class LmDistillationConfig:
    """Distillation settings for language models.

    Attributes:
        weight: weight of the KL divergence between the distributions of the next token; 0: no distillation.
        temperature: temperature of both distributions.
    """

    weight: NonNegative = 0.0
    temperature: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)


class LmTask(PrunedTask):
    """Cross-entropy of the next token, per token, and distillation.

    Args:
        model: language model to train.
        distillation: distillation settings.
        teacher: dense network, which is frozen and in evaluation mode; None: no distillation.
        pruner: pruner of ``model``; None: the structure is fixed.
    """

    frozen_modules = ("teacher",)

    def __init__(
        self,
        model: TransformerLM,
        distillation: LmDistillationConfig,
        teacher: Optional[TransformerLM] = None,
        pruner: Optional[Pruner] = None,
    ) -> None:
        super().__init__(pruner)
        self.model: TransformerLM = model
        self.distillation = distillation
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)

    def terms(self, batch: SentenceBatch, step: StepInfo) -> LossTerms:
        """Compute the terms of a batch's loss: means per token."""
        with self.pruned(step):
            hidden = self.model.hidden(batch.inputs)  # (N, U, D)
        mask = batch.mask
        tokens, weight = mask.sum(), self.model.output_weight
        loss = linear_cross_entropy(hidden[mask], weight, batch.targets[mask]) / tokens.clamp(min=1)
        weighted, logged = {"task": loss}, {"task": loss}
        if self.teacher is not None:
            with torch.no_grad():
                goal = self.teacher(batch.inputs).float().log_softmax(dim=2)
            ours = linear(hidden, weight).float().log_softmax(dim=2)
            logged["distil"] = frame_distillation(ours, goal, mask, self.distillation.temperature)
            weighted["distil"] = self.distillation.weight * logged["distil"]
        return LossTerms(weighted, logged, tokens)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the groups of the network and of the pruner."""
        return weight_groups([self.model]) + self.pruner_groups()
