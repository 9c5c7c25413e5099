"""What the tasks of all networks have in common: a network that may be pruned while it is trained."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional

from torch import Tensor

from pruning.errors import UserError
from pruning.experiments.checkpoint import FOUND
from pruning.methods.base import Pruner
from pruning.training.task import ParameterGroup, StepInfo, Task


class PrunedTask(Task):
    """A task whose network may be pruned; its loss per frame or token, the term ``task``, selects the best checkpoint.

    Args:
        pruner: prunes ``model``, or None for a fixed structure.
    """

    selection_term = "task"

    def __init__(self, pruner: Optional[Pruner] = None) -> None:
        super().__init__()
        self.pruner = pruner

    def pruned(self, step: StepInfo) -> AbstractContextManager[None]:
        """While open, the network computes as the pruning method has it at ``step``."""
        return nullcontext() if self.pruner is None else self.pruner.applied(step)

    def with_penalty(
        self, loss: Tensor, terms: Mapping[str, Tensor], weight: Tensor, step: StepInfo
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with the constraint's penalty in training, and what is logged: ``terms``, detached."""
        logged = {name: value.detach() for name, value in terms.items()}
        if self.pruner is not None:
            penalty = self.pruner.penalty(step)
            loss = loss + penalty if step.training else loss
            logged["penalty"] = penalty.detach()
        return loss, {**logged, "weight": weight}

    def pruner_groups(self) -> list[ParameterGroup]:
        """Parameters of the pruning method."""
        return [] if self.pruner is None else self.pruner.parameter_groups()

    def attach_moments(self, moments: Mapping[Tensor, MutableMapping[str, Tensor]]) -> None:
        """For the pruning method."""
        if self.pruner is not None:
            self.pruner.attach_moments(moments)

    def after_backward(self, step: StepInfo, learning_rates: Mapping[str, float]) -> None:
        """Units may be scored."""
        if self.pruner is not None:
            self.pruner.after_backward(step, learning_rates)

    def snapshot_due(self, step: StepInfo) -> Optional[str]:
        """Under pruning: the network at one of several sizes."""
        return None if self.pruner is None else self.pruner.snapshot_due(step)

    def after_step(self, step: StepInfo) -> None:
        """Units may be cut, gates are brought back into their range."""
        if self.pruner is not None:
            self.pruner.after_step(step)

    def log_values(self, step: StepInfo) -> dict[str, float]:
        """Sparsities, target and multipliers."""
        return {} if self.pruner is None else self.pruner.log_values(step)

    def may_select(self, step: StepInfo) -> bool:
        """Under pruning: only once the ramp has ended and the hard sparsity is on target."""
        return self.pruner is None or self.pruner.on_target(step)

    def unselected(self, step: StepInfo) -> Optional[UserError]:
        """Under pruning: a network that is not on target cannot be extracted."""
        return None if self.pruner is None else self.pruner.unselected(step)

    def averaging_key(self, step: StepInfo) -> Optional[str]:
        """Weights of one structure may be averaged; those of a pruning run only from the ramp's end on."""
        return "" if self.pruner is None or self.pruner.at_rest(step) else None

    def extra_metadata(self) -> dict[str, Any]:
        """Under pruning: the structure, with scores, and the constraint."""
        if self.pruner is None:
            return {}
        return {FOUND: self.pruner.structure().to_dict(), "targets": self.pruner.goals}
