"""Base class of all tasks: the network may be pruned while it is trained."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Optional, Self

import torch
from torch import Tensor

from pruning.core.distillation import LayerDistillation
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.experiments.checkpoint import FOUND
from pruning.methods.base import Pruner
from pruning.training.task import ParameterGroup, StepInfo, Task


class LossTerms(NamedTuple):
    """Terms of the loss of a batch, without the constraint's penalty."""

    weighted: dict[str, Tensor]
    """Differentiable scalars, times their weights; their sum is the loss. The first is ``task``, without teacher."""
    logged: dict[str, Tensor]
    """Scalars without weights, and other values, to log under their names."""
    weight: Tensor
    """Number of items (frames, utterances, tokens) over which the terms are means."""


class PrunedTask(Task):
    """A task whose network may be pruned. The best checkpoint is selected by the term ``task``, its loss per item.

    Args:
        pruner: pruner of ``model``; None: the structure is fixed.
    """

    selection_term = "task"

    def __init__(self, pruner: Optional[Pruner] = None) -> None:
        super().__init__()
        self.pruner = pruner
        self.layer_distillation: Optional[LayerDistillation] = None

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but modules that never change, such as a teacher, which stay in evaluation mode."""
        super().train(mode)
        for name, module in self.named_children():
            if name in self.frozen_modules:
                module.eval()
        return self

    def terms(self, batch: Any, step: StepInfo) -> LossTerms:
        """Compute the terms of the loss of a batch; a task with its own `forward` need not say them.

        Raises:
            UserError: the task does not say them.
        """
        raise UserError(f"{type(self).__name__} does not say the terms of its loss", "implement its method 'terms'")

    def forward(self, batch: Any, step: StepInfo) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch: the sum of its terms and, in training, the constraint's penalty."""
        terms = self.terms(batch, step)
        return self.with_penalty(torch.stack(list(terms.weighted.values())).sum(), terms.logged, terms.weight, step)

    def pruned(self, step: StepInfo) -> AbstractContextManager[None]:
        """Return a context in which the network computes as pruned at ``step``."""
        return nullcontext() if self.pruner is None else self.pruner.applied(step)

    def with_penalty(
        self, loss: Tensor, terms: Mapping[str, Tensor], weight: Tensor, step: StepInfo
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, in training with the constraint's penalty, and the detached ``terms`` to log."""
        logged = {name: value.detach() for name, value in terms.items()}
        if self.pruner is not None:
            penalty = self.pruner.penalty(step)
            loss = loss + penalty if step.training else loss
            logged["penalty"] = penalty.detach()
        return loss, {**logged, "weight": weight}

    def inherit(self, structure: Structure) -> None:
        """Prepare for a network that was cut out by ``structure``: distillation selects the channels that it kept."""
        if self.layer_distillation is not None:
            self.layer_distillation.select(structure)

    def pruner_groups(self) -> list[ParameterGroup]:
        """Return the parameter groups of the pruning method."""
        return [] if self.pruner is None else self.pruner.parameter_groups()

    def attach_moments(self, moments: Mapping[Tensor, MutableMapping[str, Tensor]]) -> None:
        """Pass the optimiser's state to the pruning method."""
        if self.pruner is not None:
            self.pruner.attach_moments(moments)

    def after_backward(self, step: StepInfo, learning_rates: Mapping[str, float]) -> None:
        """Let the pruning method score units."""
        if self.pruner is not None:
            self.pruner.after_backward(step, learning_rates)

    def snapshot_due(self, step: StepInfo) -> Optional[str]:
        """Return the name of a snapshot if the pruning run reaches one of its sizes at this step."""
        return None if self.pruner is None else self.pruner.snapshot_due(step)

    def after_step(self, step: StepInfo) -> None:
        """Let the pruning method close units, or bring gates back into their range."""
        if self.pruner is not None:
            self.pruner.after_step(step)

    def log_values(self, step: StepInfo) -> dict[str, float]:
        """Return sparsities, target and multipliers."""
        return {} if self.pruner is None else self.pruner.log_values(step)

    def may_select(self, step: StepInfo) -> bool:
        """Return False in a pruning run until the ramp has ended and the hard sparsity is on target."""
        return self.pruner is None or self.pruner.on_target(step)

    def unselected(self, step: StepInfo) -> Optional[UserError]:
        """Return the error of a pruning run that was never on target, since its network cannot be extracted."""
        return None if self.pruner is None else self.pruner.unselected(step)

    def averaging_key(self, step: StepInfo) -> Optional[str]:
        """Return None in a pruning run until its ramp has ended, since its weights are not averaged before that."""
        return "" if self.pruner is None or self.pruner.at_rest(step) else None

    def extra_metadata(self) -> dict[str, Any]:
        """Return, in a pruning run, the structure with its scores, and the targets."""
        if self.pruner is None:
            return {}
        return {FOUND: self.pruner.structure().to_dict(), "targets": self.pruner.goals}
