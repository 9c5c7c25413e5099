"""ScaledAdam (Zipformer, arXiv 2310.11230, section 3.5): Adam whose steps are relative to the size of each tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

SMALLEST_RMS, LARGEST_RMS = 1e-5, 3.0
"""Limits of a tensor's root mean square, as in icefall: a smaller one counts as the smallest, so that tensors of zeros
can grow, and is not scaled down; none is scaled beyond the largest."""
_LARGEST_SCALE_STEP = 0.1  # by which a step may change the scale of a tensor at most, relative to it
_BY_ENTRY, _BY_TENSOR = ("exp_avg", "exp_avg_sq"), ("scale_avg", "scale_avg_sq")


@dataclass(frozen=True)
class _Stack:
    """Like-shaped parameters with their state, of which each tensor has one more dimension in front.

    Attributes:
        parameters: the parameters, B of them.
        state: ``exp_avg`` and ``exp_avg_sq`` of the shape ``(B, ...)``, ``scale_avg`` and ``scale_avg_sq`` ``(B,)``.
        parts: the same for each parameter, as views.
        step: number of steps so far, a scalar, which all of them share.
    """

    parameters: Sequence[Tensor]
    state: Mapping[str, Tensor]
    parts: Sequence[Mapping[str, Tensor]]
    step: Tensor


class ScaledAdam(torch.optim.Optimizer):
    """Adam with steps in proportion to the root mean square r of a tensor, and a learned scale of each tensor.

    With the gradient ``g``, its moments ``m`` and ``v`` as in Adam, and ``c = sqrt(1 - b2^t) / (1 - b1^t)``, a tensor
    ``p`` changes by ``-lr r c m / (sqrt(v) + eps)``. Its scale, a factor whose logarithm has the gradient
    ``h = sum(g p)`` with the moments ``n`` and ``w``, changes it by ``-scale_lr lr c n / (sqrt(w) + eps) p``. A single
    number is not scaled: it changes by ``-scale_lr lr c m / (sqrt(v) + eps)``. There is no weight decay.

    Like-shaped tensors are computed together. A missing gradient counts as 0.

    Args:
        parameters: parameters or groups of them, see `torch.optim.Optimizer`.
        lr: relative change of a tensor by a step.
        betas, eps: as in Adam.
        scale_lr: learning rate of the scales, relative to ``lr``.
    """

    def __init__(
        self, parameters: Iterable[Any], lr: float, betas: tuple[float, float], eps: float, scale_lr: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "scale_lr": scale_lr})
        self._stacks: dict[Tensor, _Stack] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change the parameters by their gradients; closures are not supported."""
        assert closure is None
        for group in self.param_groups:
            for parameters in _like_shaped(group["params"]):
                self._change(self._stack(parameters), group)

    def _stack(self, parameters: Sequence[Tensor]) -> _Stack:
        """Return the stack of like-shaped parameters; state that was loaded is put together first."""
        stack = self._stacks.get(parameters[0])
        if stack is None or any(
            self.state[parameter].get(key) is not tensor
            for parameter, part in zip(parameters, stack.parts)
            for key, tensor in part.items()
        ):
            stack = _stacked(parameters, [self.state[parameter] for parameter in parameters])
            for parameter, part in zip(parameters, stack.parts):
                self.state[parameter].update({**part, "step": stack.step})
            self._stacks[parameters[0]] = stack
        return stack

    def _change(self, stack: _Stack, group: Mapping[str, Any]) -> None:
        (first, second), lr, eps = group["betas"], group["lr"], group["eps"]
        values = torch.stack(list(stack.parameters))
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in stack.parameters]
        gradient = torch.stack(gradients).to(values.dtype)
        stack.step.add_(1)
        steps = float(stack.step)
        rate = lr * (1 - second**steps) ** 0.5 / (1 - first**steps)

        def direction(average: str, squares: str, of: Tensor) -> Tensor:
            """Update the two moments of a gradient, and return their ratio."""
            stack.state[average].mul_(first).add_(of, alpha=1 - first)
            stack.state[squares].mul_(second).addcmul_(of, of, value=1 - second)
            return stack.state[average] / stack.state[squares].sqrt().add_(eps)

        change = direction(*_BY_ENTRY, of=gradient)
        if values[0].numel() == 1:
            values.sub_(change, alpha=group["scale_lr"] * rate)
        else:
            wide = (-1, *[1] * (values.dim() - 1))
            size = values.flatten(1).square().mean(dim=1).sqrt()  # (B,)
            scale = direction(*_BY_TENSOR, of=(values * gradient).flatten(1).sum(dim=1))
            scale = (-group["scale_lr"] * rate * scale).masked_fill((size < SMALLEST_RMS) & (scale > 0), 0.0)
            size = size.clamp(min=SMALLEST_RMS)
            scale = torch.minimum(scale, LARGEST_RMS / size - 1.0).clamp(-_LARGEST_SCALE_STEP, _LARGEST_SCALE_STEP)
            values.addcmul_(values, scale.view(wide)).addcmul_(change, size.mul(-rate).view(wide))
        for parameter, value in zip(stack.parameters, values):
            parameter.copy_(value)


def _like_shaped(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return the parameters in lists of like shape, type and device, in order."""
    found: dict[tuple[Any, ...], list[Tensor]] = {}
    for parameter in parameters:
        found.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(parameter)
    return list(found.values())


def _stacked(parameters: Sequence[Tensor], states: Sequence[Mapping[str, Tensor]]) -> _Stack:
    """Stack like-shaped parameters with their state, which begins with zeros."""
    scalar = parameters[0].new_zeros(())
    state = {}
    for key in (*_BY_ENTRY, *_BY_TENSOR):
        initial: list[Optional[Tensor]] = [one.get(key) for one in states]
        like = [scalar] * len(parameters) if key in _BY_TENSOR else parameters
        state[key] = torch.stack([torch.zeros_like(other) if given is None else given
                                  for given, other in zip(initial, like)])  # fmt: skip
    parts = [{key: tensor[index] for key, tensor in state.items()} for index in range(len(parameters))]
    return _Stack(parameters, state, parts, states[0].get("step", torch.zeros(())).clone())
