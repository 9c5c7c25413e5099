"""Interface between trainer and task: a task computes the loss of a batch and says how each parameter is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Optional

from torch import Tensor, nn

from pruning.errors import UserError


@dataclass(frozen=True)
class StepInfo:
    """Position in training.

    Attributes:
        epoch: current epoch, from 1.
        batch: number of batches of this epoch before this one (per process).
        step: number of optimiser steps before this one. Ramps and schedules are functions of it.
        total_steps: number of optimiser steps of the whole run; None if unknown.
        training: whether this is a training step; False in validation.
    """

    epoch: int
    batch: int
    step: int
    total_steps: Optional[int] = None
    training: bool = True


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with the same optimiser settings.

    Attributes:
        name: name of the group, unique in the task; its learning rate is logged under this name.
        parameters: parameters of the group; the optimiser leaves out those that need no gradient.
        lr: peak learning rate; None: the configured one.
        weight_decay: weight decay; None: the configured one.
        maximize: whether to maximise the loss instead of minimising it (Lagrange multipliers).
        clip: whether the gradient-norm clip includes and scales its gradients (not for gates and multipliers).
        schedule: "weights": follow the configured schedule; "constant": keep ``lr``.
        scaled: whether a scale-aware optimiser takes steps in proportion to the parameters (not for gates and
            multipliers).
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    lr: Optional[float] = None
    weight_decay: Optional[float] = None
    maximize: bool = False
    clip: bool = True
    schedule: str = "weights"
    scaled: bool = True

    def __post_init__(self) -> None:
        if self.schedule not in ("weights", "constant"):
            raise ValueError(
                f"parameter group {self.name}: schedule must be 'weights' or 'constant', got {self.schedule!r}"
            )


class Task(nn.Module, ABC):
    """A training task: a network, the loss of a batch, and the parameter groups.

    The trainer wraps the whole task in DistributedDataParallel, so all trained tensors must be parameters of the task
    and must take part in every loss. All randomness of :meth:`forward` must come from the global random generators,
    which the trainer seeds before each batch.

    Attributes:
        model: network that is checkpointed and averaged.
        selection_term: term by which the best checkpoint is selected (smaller is better); "loss" is the loss itself.
        frozen_modules: names of submodules that never change (a teacher) and are left out of the training state.
    """

    model: nn.Module
    selection_term: str = "loss"
    frozen_modules: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, batch: Any, step: StepInfo) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch.

        Returns:
            The loss, a scalar to minimise, and detached scalars to log under their names. Each is a mean over items
            (frames, utterances); the key "weight", if present, is the number of items, by which terms are weighted when
            they are averaged over batches. The trainer adds "loss" if the task does not return it.
        """

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Return groups that contain every parameter that needs a gradient exactly once."""

    def log_values(self, step: StepInfo) -> dict[str, float]:
        """Return values to log in addition to the loss terms: sparsities, multipliers."""
        return {}

    def attach_moments(self, moments: Mapping[Tensor, MutableMapping[str, Tensor]]) -> None:
        """Receive the optimiser's state by parameter, once before training.

        A task that changes weights itself must change their moments accordingly.
        """

    def before_step(self, step: StepInfo) -> None:
        """Hook before the first forward pass of an optimiser step."""

    def after_backward(self, step: StepInfo, learning_rates: Mapping[str, float]) -> None:
        """Hook after the backward passes, before the optimiser step; gradients are unscaled and finite.

        Args:
            step: position of the last batch.
            learning_rates: learning rates of this step, by parameter group.
        """

    def snapshot_due(self, step: StepInfo) -> Optional[str]:
        """Return the name of a checkpoint to keep after the optimiser step, before `after_step`; None: keep none."""
        return None

    def after_step(self, step: StepInfo) -> None:
        """Hook after the optimiser step."""

    def may_select(self, step: StepInfo) -> bool:
        """Return whether the current network may become the best one (L0: only once hard sparsity is reached)."""
        return True

    def unselected(self, step: StepInfo) -> Optional[UserError]:
        """Return the error of a run that ends at ``step`` without a best checkpoint; None if that is no error."""
        return None

    def averaging_key(self, step: StepInfo) -> Optional[str]:
        """Return a key for averaging: only weights with equal keys are averaged; None: weights of this step are not."""
        return ""

    def extra_metadata(self) -> dict[str, Any]:
        """Return header entries for each checkpoint, such as the structure, as JSON values."""
        return {}

    def python_state(self) -> dict[str, Any]:
        """Return state that is not in tensors, as JSON values; it is saved with the training state."""
        return {}

    def load_python_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`python_state` returned."""

    def trained_state(self) -> dict[str, Tensor]:
        """Return the state dict without the frozen modules."""
        frozen = tuple(f"{name}." for name in self.frozen_modules)
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(frozen)}


def weight_groups(
    modules: Iterable[nn.Module], lr: Optional[float] = None, weight_decay: Optional[float] = None, prefix: str = ""
) -> list[ParameterGroup]:
    """Return two groups: matrices and kernels with weight decay, vectors (biases, norms, scales) without."""
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
