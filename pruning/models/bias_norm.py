"""The norm of Zipformers (arXiv 2310.11230, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.core.precision import at_least_float32
from pruning.models.limited import limited

_LIMIT = 1.5  # of the logarithm of the scale, as in icefall
_LEAST = 1e-20


class BiasNorm(nn.Module):
    """``x e^s / sqrt(mean((x - b)^2))`` over channels, with a learned ``b`` and a learned scalar ``s``.

    Args:
        channels: number of channels.
        counted: number of channels by which the mean divides; more than ``channels`` if others, which were 0, were
            removed.
    """

    def __init__(self, channels: int, counted: int) -> None:
        super().__init__()
        self.counted = counted
        self.bias = nn.Parameter(1e-4 * torch.randn(channels))
        self.log_scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., channels) -> (..., channels)``."""
        with torch.autocast(x.device.type, enabled=False):
            wide = at_least_float32(x)
            squares = (wide - self.bias).square().sum(dim=-1, keepdim=True)
            scale = (squares / self.counted).clamp(min=_LEAST).rsqrt()
            return (wide * (scale * limited(self, "log_scale", -_LIMIT, _LIMIT).exp())).to(x.dtype)
