"""The front end of Zipformers: three convolutions, which halve the frame rate, a ConvNeXt module, a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.models.bias_norm import BiasNorm
from pruning.models.subsampling import beyond
from pruning.models.swoosh import swoosh_l, swoosh_r
from pruning.models.zipformer_config import CONVNEXT_KERNEL, FRONT_KERNEL, ZipformerConfig

_STRIDES = ((1, 1), (2, 2), (1, 2))  # time, frequency


class TimeSharedDropout(nn.Dropout):
    """Dropout that drops a channel of an utterance on all frames or on none, of ``(N, T, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, C) -> (N, T, C)``."""
        return x * super().forward(x.new_ones(len(x), 1, x.shape[2])) if self.training and self.p else x


class ConvNext(nn.Module):
    """``x`` plus a depthwise convolution, a layer of ``hidden`` units with SwooshL, and a linear layer of it."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        kernel = CONVNEXT_KERNEL
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.pointwise1 = nn.Conv2d(channels, hidden, 1)
        self.pointwise2 = nn.Conv2d(hidden, channels, 1)
        with torch.no_grad():
            self.pointwise2.weight.mul_(0.01)
        nn.init.uniform_(self.pointwise2.get_parameter("bias"), -0.001, 0.001)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, T, F) -> (N, C, T, F)``."""
        return x + self._units(self.depthwise(x))

    def step(self, x: Tensor) -> Tensor:
        """Return the outputs of all frames of ``x (N, C, T, F)`` but the first three and the last three."""
        kernel, half = self.depthwise, CONVNEXT_KERNEL // 2
        y = nn.functional.conv2d(x, kernel.weight, kernel.bias, padding=(0, half), groups=kernel.groups)
        return x[:, :, half:-half] + self._units(y)

    def _units(self, x: Tensor) -> Tensor:
        return self.pointwise2(swoosh_l(self.pointwise1(x)))


class FrontEnd(nn.Module):
    """Map features of 100 frames a second to vectors of the first stack's width, 50 a second."""

    def __init__(self, config: ZipformerConfig) -> None:
        super().__init__()
        channels, width = config.subsampling_channels, config.widths[0]
        self.isolated = config.isolated
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, FRONT_KERNEL, stride=stride, padding=(0, 1) if index == 0 else 0)
            for index, (inputs, outputs, stride) in enumerate(zip((1, *channels), channels, _STRIDES))
        )
        self.convnext = ConvNext(channels[-1], config.convnext_dim) if config.convnext_dim else None
        self.out = nn.Linear(channels[-1] * config.bins, width)
        self.out_norm = BiasNorm(width, config.stacks[0].counted)
        self.dropout = TimeSharedDropout(config.dropout)

    @staticmethod
    def lengths(lengths: Tensor) -> Tensor:
        """Return the number of frames ``(N,)`` for ``lengths (N,)`` feature frames."""
        return torch.div(lengths - 7, 2, rounding_mode="floor").clamp(min=0)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(N, (T - 7) // 2, width)`` and its lengths ``(N,)`` for ``(N, T, feature_dim)``, T at least 9."""
        x, lengths = self._convolved(features), self.lengths(lengths)
        if self.convnext is not None:
            if self.isolated:  # zeroed, as the convolution's own padding
                x = x.masked_fill(beyond(lengths, x.shape[2])[:, None, :, None], 0.0)
            x = self.convnext(x)
        return self._out(x), lengths

    def step(self, features: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Compute a chunk.

        Args:
            features: ``(N, 2 T + 13, feature_dim)``, of which the last 13 frames are also the first of the next chunk.
            past: the three frames before the chunk, ``(N, C, 3, F)``, after the convolutions.

        Returns:
            ``(N, T, width)``, and the past of the next chunk.
        """
        x = torch.cat([past, self._convolved(features)], dim=2)  # (N, C, 3 + T + 3, F)
        half = past.shape[2]
        past = x[:, :, -2 * half : -half]
        x = x[:, :, half:-half] if self.convnext is None else self.convnext.step(x)
        return self._out(x), past

    def _convolved(self, features: Tensor) -> Tensor:
        """``(N, T, feature_dim) -> (N, C, (T - 7) // 2, F)``."""
        x = features[:, None]
        for convolution in self.convs:
            x = swoosh_r(convolution(x))
        return x

    def _out(self, x: Tensor) -> Tensor:
        """``(N, C, T, F) -> (N, T, width)``."""
        return self.dropout(self.out_norm(self.out(x.transpose(1, 2).flatten(2))))
