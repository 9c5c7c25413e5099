"""Optimiser of the parameter groups of a task, with learning rates set from the schedule before each step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Optional

import torch
from torch import Tensor, nn

from pruning.limits import Fraction, NonNegative, Positive, check_fields
from pruning.training.scaled_adam import ScaledAdam
from pruning.training.schedule import ScheduleConfig, learning_rate_scale
from pruning.training.task import ParameterGroup


@dataclass(frozen=True)
class OptimiserConfig:
    """Settings of the optimiser.

    Attributes:
        name: "adamw" (Loshchilov and Hutter 2019), or "scaled_adam" (`ScaledAdam`) for weights and AdamW for the rest:
            gates and multipliers, whose size means something, keep their own learning rates.
        lr: peak learning rate of groups that set none; of ScaledAdam, relative to the size of each tensor.
        scale_lr: "scaled_adam": learning rate of the scale of a tensor, relative to ``lr``.
        betas: decay rates of the first and the second moment.
        eps: value added to the square root of the second moment.
        weight_decay: weight decay of groups that set none; ScaledAdam has none.
        clip_norm: largest joint gradient norm of the clipped groups; larger gradients are scaled down. None: no clip.
    """

    name: Literal["adamw", "scaled_adam"] = "adamw"
    lr: NonNegative = 1e-3
    scale_lr: NonNegative = 0.1
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 1e-2
    clip_norm: Optional[Positive] = 5.0

    def __post_init__(self) -> None:
        check_fields(self)


class Optimiser:
    """AdamW or ScaledAdam, the learning-rate schedule and the gradient-norm clip.

    Args:
        config: settings for groups that do not set their own.
        schedule: schedule of the learning rates of groups with ``schedule="weights"``.
        groups: parameter groups, see :class:`ParameterGroup`.
        module: the task, which gives the parameters their names; all of its trainable parameters must be in the groups.

    Attributes:
        settings: settings of each of the ``groups``.
        state: moments and step counts of each parameter, by their keys.

    Raises:
        ValueError: a trainable parameter is in no group or in two, or two groups have the same name.
    """

    def __init__(
        self, config: OptimiserConfig, schedule: ScheduleConfig, groups: Sequence[ParameterGroup], module: nn.Module
    ) -> None:
        self.config = config
        self.schedule = schedule
        self.groups = [group for group in groups if any(p.requires_grad for p in group.parameters)]
        self.names: dict[Tensor, str] = {
            parameter: name for name, parameter in module.named_parameters() if parameter.requires_grad
        }
        _check_groups(self.groups, self.names)
        self.settings = [self._of_group(group) for group in self.groups]
        self._parts = self._optimisers()
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        for part in self._parts:
            part.state = self.state
        self._clipped = [p for group in self.groups if group.clip for p in group.parameters if p.requires_grad]
        self._unclipped = [p for group in self.groups if not group.clip for p in group.parameters if p.requires_grad]

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        """Return the optimisers, each for some groups; their own groups are those of ``settings``."""
        config, weights, others = self.config, list[dict[str, Any]](), list[dict[str, Any]]()
        for group, settings in zip(self.groups, self.settings):
            scaled = config.name == "scaled_adam" and group.scaled and not group.maximize
            (weights if scaled else others).append(settings)
        parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(others)] if others else []
        if weights:
            parts.append(ScaledAdam(weights, config.lr, config.betas, config.eps, config.scale_lr))
        return parts

    def _of_group(self, group: ParameterGroup) -> dict[str, Any]:
        decay = self.config.weight_decay if group.weight_decay is None else group.weight_decay
        return {
            "params": [p for p in group.parameters if p.requires_grad],
            "lr": self._peak(group),
            "betas": self.config.betas,
            "eps": self.config.eps,
            "weight_decay": decay,
            "maximize": group.maximize,
        }

    def _peak(self, group: ParameterGroup) -> float:
        return self.config.lr if group.lr is None else group.lr

    def set_learning_rates(self, step: int, epoch: int, total_steps: Optional[int]) -> None:
        """Set each group's learning rate for the next step, after ``step`` steps; ``epoch`` counts from 1."""
        scale = learning_rate_scale(self.schedule, step, epoch, total_steps)
        for group, settings in zip(self.groups, self.settings):
            settings["lr"] = self._peak(group) * (scale if group.schedule == "weights" else 1.0)

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of each group, by group name."""
        return {group.name: settings["lr"] for group, settings in zip(self.groups, self.settings)}

    def clip_gradients(self) -> tuple[float, bool]:
        """Scale the clipped groups' gradients down to ``clip_norm``.

        Returns:
            Their norm before clipping, and whether all gradients of all groups are finite; if not, the step must be
            skipped.
        """
        limit = float("inf") if self.config.clip_norm is None else self.config.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self._clipped, limit) if self._clipped else torch.zeros(())
        others = [p.grad for p in self._unclipped if p.grad is not None]
        total = norm
        if others:
            total = norm + torch.stack([gradient.norm() for gradient in others]).sum()
        return float(norm), bool(torch.isfinite(total))

    def unscale(self, scaler: Any) -> None:
        """Divide the gradients by the loss scale of fp16."""
        for part in self._parts:
            scaler.unscale_(part)

    def step(self, scaler: Optional[Any] = None) -> None:
        """Change the parameters by their gradients; with a ``scaler`` of fp16, unless gradients overflowed."""
        for part in self._parts:
            if scaler is None:
                part.step()
            else:
                scaler.step(part)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Return the optimiser's state as tensors named ``KEY.PARAMETER``, e.g. ``exp_avg.model.encoder.weight``."""
        return {
            f"{key}.{self.names[parameter]}": torch.as_tensor(value).clone()  # ScaledAdam's are parts of larger ones
            for parameter, state in self.state.items()
            for key, value in state.items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`tensors` returned, exactly.

        Raises:
            KeyError: a tensor belongs to a parameter that does not exist here.
        """
        parameters = {name: parameter for parameter, name in self.names.items()}
        self.state.clear()
        for name, tensor in tensors.items():
            key, parameter_name = name.split(".", 1)
            parameter = parameters[parameter_name]
            # step counts are kept on the CPU, and moments on the device of the parameter
            value = tensor.clone() if key == "step" else tensor.to(parameter.device, copy=True)
            self.state[parameter][key] = value


def _check_groups(groups: Sequence[ParameterGroup], names: Mapping[Tensor, str]) -> None:
    seen: dict[nn.Parameter, str] = {}
    for group in groups:
        for parameter in group.parameters:
            if not parameter.requires_grad:
                continue
            if parameter not in names:
                raise ValueError(f"a parameter of group {group.name} is not a parameter of the task")
            if parameter in seen:
                raise ValueError(f"parameter {names[parameter]} is in the groups {seen[parameter]} and {group.name}")
            seen[parameter] = group.name
    if len({group.name for group in groups}) < len(groups):
        raise ValueError(f"parameter groups have the same name: {[group.name for group in groups]}")
    missing = [name for parameter, name in names.items() if parameter not in seen]
    if missing:
        raise ValueError(f"parameters in no group: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
