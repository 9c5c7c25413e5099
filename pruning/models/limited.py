"""Parameters that training keeps within limits by the sign of their gradient, as icefall does in Zipformers."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor, nn


class _Limited(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, parameter: Tensor, low: float, high: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(parameter)
        ctx.limits = low, high
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Optional[Tensor], ...]:
        (parameter,), (gradient,), (low, high) = ctx.saved_tensors, gradients, ctx.limits
        outward = ((parameter < low) & (gradient > 0)) | ((parameter > high) & (gradient < 0))
        return torch.where(outward, -gradient, gradient), None, None, None


def limited(module: nn.Module, name: str, low: float, high: float) -> Tensor:
    """Return the parameter ``name`` of ``module``; where it is outside the limits, its gradient leads back inside.

    The value itself is not clamped. Outside of training, this is the parameter. While a mask acts on it, the limits are
    those of the parameter, not of the masked value, so that gates can close.
    """
    value: Tensor = getattr(module, name)
    parameter = module._parameters[name]
    return value if parameter is None or not module.training else _Limited.apply(value, parameter.detach(), low, high)
