"""What the trainer asks of a task: what the loss of a batch is, and how each parameter is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Optional

from torch import Tensor, nn

from pruning.errors import UserError


@dataclass(frozen=True)
class StepInfo:
    """Where training stands.

    Attributes:
        epoch: counted from 1.
        batch: batches of this epoch consumed before this one, counted from 0 (per process).
        step: optimiser steps made before this one, counted from 0. Ramps and schedules are functions of it.
        total_steps: optimiser steps of the whole run; None where it is not known.
        training: False in validation.
    """

    epoch: int
    batch: int
    step: int
    total_steps: Optional[int] = None
    training: bool = True


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are trained alike.

    Attributes:
        name: unique within the task; learning rates are logged under it.
        parameters: the parameters; those that need no gradient are left out by the optimiser.
        lr: peak learning rate; None takes the configured one.
        weight_decay: None takes the configured one.
        maximize: ascend instead of descend (Lagrange multipliers).
        clip: whether its gradients count in, and are scaled by, the gradient-norm clip. Gates and multipliers stay out.
        schedule: "weights" follows the configured schedule, "constant" keeps ``lr``.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    lr: Optional[float] = None
    weight_decay: Optional[float] = None
    maximize: bool = False
    clip: bool = True
    schedule: str = "weights"

    def __post_init__(self) -> None:
        if self.schedule not in ("weights", "constant"):
            raise ValueError(f"parameter group {self.name}: schedule is 'weights' or 'constant', not {self.schedule!r}")


class Task(nn.Module, ABC):
    """One kind of training: a network, the loss of a batch, and the parameter groups.

    The trainer wraps the whole task in DistributedDataParallel, so everything trained must be a parameter of it and
    must take part in every loss. All randomness of :meth:`forward` must come from the global random generators, which
    the trainer seeds before each batch.

    Attributes:
        model: the network that is checkpointed and averaged.
        selection_term: which term decides on the best checkpoint (the smaller the better); "loss" is the loss itself.
        frozen_modules: names of submodules that never change (a teacher) and are left out of the training state.
    """

    model: nn.Module
    selection_term: str = "loss"
    frozen_modules: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, batch: Any, step: StepInfo) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch.

        Returns:
            The loss, a scalar to be minimised, and detached scalars to be logged under their names. Each is a mean over
            something (frames, utterances); the key "weight", where present, says over how many, and becomes its weight
            when terms are averaged over batches. "loss" is added by the trainer where the task does not give it.
        """

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter that needs a gradient, each in exactly one group."""

    def log_values(self, step: StepInfo) -> dict[str, float]:
        """Values to be logged beside the loss terms: sparsities, multipliers."""
        return {}

    def attach_moments(self, moments: Mapping[Tensor, MutableMapping[str, Tensor]]) -> None:
        """Called once, before training, with the optimiser's state, by parameter: it must follow weights that a task
        changes itself."""

    def before_step(self, step: StepInfo) -> None:
        """Called before the first forward pass of an optimiser step."""

    def after_backward(self, step: StepInfo, learning_rates: Mapping[str, float]) -> None:
        """Called before the optimiser step when the gradients are there, unscaled and finite.

        Args:
            step: of the last batch.
            learning_rates: of this step, by parameter group.
        """

    def snapshot_due(self, step: StepInfo) -> Optional[str]:
        """The name under which a checkpoint is to be kept after the optimiser step, before `after_step`; None: none."""
        return None

    def after_step(self, step: StepInfo) -> None:
        """Called after the optimiser step."""

    def may_select(self, step: StepInfo) -> bool:
        """Whether a checkpoint of this moment may become the best one (L0: only once hard sparsity is reached)."""
        return True

    def unselected(self, step: StepInfo) -> Optional[UserError]:
        """What is wrong with a run that ends at ``step`` and has no best checkpoint; None: nothing, it has others."""
        return None

    def averaging_key(self, step: StepInfo) -> Optional[str]:
        """Weights of moments with different keys are not averaged; None: of this moment, with no other (a ramp)."""
        return ""

    def extra_metadata(self) -> dict[str, Any]:
        """Added to the header of each checkpoint: values that JSON can hold, such as the structure."""
        return {}

    def python_state(self) -> dict[str, Any]:
        """State that is not in tensors, as JSON can hold it; saved with the training state."""
        return {}

    def load_python_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`python_state` returned."""

    def trained_state(self) -> dict[str, Tensor]:
        """The state dict without the frozen modules."""
        frozen = tuple(f"{name}." for name in self.frozen_modules)
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(frozen)}


def weight_groups(
    modules: Iterable[nn.Module], lr: Optional[float] = None, weight_decay: Optional[float] = None, prefix: str = ""
) -> list[ParameterGroup]:
    """The usual two groups: matrices and kernels with weight decay, vectors (biases, norms, scales) without."""
    matrices: dict[int, nn.Parameter] = {}
    vectors: dict[int, nn.Parameter] = {}
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                (matrices if parameter.ndim > 1 else vectors)[id(parameter)] = parameter
    groups = [
        ParameterGroup(f"{prefix}weights", tuple(matrices.values()), lr=lr, weight_decay=weight_decay),
        ParameterGroup(f"{prefix}vectors", tuple(vectors.values()), lr=lr, weight_decay=0.0),
    ]
    return [group for group in groups if group.parameters]
