"""A norm over all channels and all valid frames of an utterance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.core.precision import at_least_float32


class UtteranceNorm(nn.Module):
    """Group norm with one group (arXiv 1803.08494, section 3) over channels and valid frames.

    Frames of padding do not take part, so that outputs do not depend on the batch. It is a
    `pruning.core.units.NormOverUnits`, whose units are the channels.

    Args:
        channels: number of channels.
        eps: what is added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.units, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Normalise ``x (N, C, T)`` over the channels and the frames that are True in ``valid (N, T)``.

        Returns:
            ``(N, C, T)``, the bias on padding.
        """
        return self.normalised_over(self.weight.new_ones(self.units), x, valid)

    def normalised_over(self, weights: Tensor, *inputs: Tensor) -> Tensor:
        """Normalise as `forward` does, with mean and variance over channels weighted by ``weights (C,)``."""
        x, valid = inputs
        with torch.autocast(x.device.type, enabled=False):
            wide = at_least_float32(x)
            padding, weights = ~valid[:, None], weights.to(wide)
            count = (weights.sum() * valid.sum(dim=1)).clamp(min=1e-6)  # (N,); an utterance may have no frame

            def mean(of: Tensor) -> Tensor:
                return ((of.sum(dim=2) * weights).sum(dim=1) / count)[:, None, None]  # (N, 1, 1)

            centred = (wide - mean(wide.masked_fill(padding, 0.0))).masked_fill(padding, 0.0)
            scale = (mean(centred.square()) + self.eps).rsqrt()
            y = centred * scale * self.weight[:, None] + self.bias[:, None]
            return y.to(x.dtype)
