"""Layers whose weights are multiplied by the exponential of a learned number."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _with_scales(layer: nn.Module) -> nn.Module:
    layer.weight_scale = nn.Parameter(torch.randn(()) / 3)
    if layer.bias is not None:
        layer.bias_scale = nn.Parameter(torch.randn(()) / 3)
    return layer


class _Scaled(nn.Module):
    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        _with_scales(self)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.weight_scale.exp()
        bias = None if self.bias is None else self.bias * self.bias_scale.exp()
        if isinstance(self, nn.Linear):
            return nn.functional.linear(x, weight, bias)
        return self._conv_forward(x, weight, bias)


class ScaledLinear(_Scaled, nn.Linear):
    pass


class ScaledConv1d(_Scaled, nn.Conv1d):
    pass


class ScaledConv2d(_Scaled, nn.Conv2d):
    pass


class BasicNorm(nn.Module):
    def __init__(self, learned: bool = True) -> None:
        super().__init__()
        eps = torch.tensor(-1.3)
        if learned:
            self.eps = nn.Parameter(eps)
        else:
            self.register_buffer("eps", eps)

    def forward(self, x: Tensor) -> Tensor:
        return x / ((x**2).mean(dim=-1, keepdim=True) + self.eps.exp()).sqrt()


class DoubleSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (x - 1).sigmoid()
