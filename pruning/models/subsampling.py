"""Convolutional subsampling of features by a factor of 4 in time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning.models.layers import Activation, BasicNorm

KERNEL = 3
SHORTEST = 7  # minimum number of frames, which gives one frame after subsampling


def subsampled(length: int, strides: Sequence[int]) -> int:
    """Return the number of frames or bins after the convolutions; those of stride 1 are padded, of stride 2 not."""
    for stride in strides:
        length = length if stride == 1 else (length - 1) // 2
    return max(length, 0)


def beyond(lengths: Tensor, frames: int) -> Tensor:
    """Return a mask ``(N, frames)`` bool that is True on frames at and after ``lengths (N,)``."""
    return torch.arange(frames, device=lengths.device)[None, :] >= lengths[:, None]


class ConvSubsampling(nn.Module):
    """3 x 3 convolutions over time and frequency, then a projection to the model dimension.

    With strides (2, 2) this is the subsampling of ESPnet's and icefall's first Conformers, with (1, 2, 2) that of
    icefall's later Conformers.

    Args:
        feature_dim: number of bins per frame.
        channels: number of output channels of each convolution.
        strides: stride of each convolution, 1 or 2; exactly two of them must be 2.
        d_model: output dimension.
        activation: activation after each convolution.
        normalised: whether a `BasicNorm` is applied to the output.
    """

    def __init__(
        self,
        feature_dim: int,
        channels: Sequence[int],
        strides: Sequence[int],
        d_model: int,
        activation: Activation = torch.relu,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) != len(strides) or list(strides).count(2) != 2 or any(s not in (1, 2) for s in strides):
            raise ValueError(f"channels {channels} and strides {strides} do not subsample by 4: give one stride "
                             "of 1 or 2 per convolution, exactly two of them 2")  # fmt: skip
        self.strides = tuple(strides)
        self.activation = activation
        inputs = (1, *channels[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, KERNEL, stride=s, padding=1 if s == 1 else 0) for i, o, s in zip(inputs, channels, strides)
        )
        self.bins = subsampled(feature_dim, strides)
        self.out = nn.Linear(channels[-1] * self.bins, d_model)
        self.out_norm = BasicNorm(learned=False) if normalised else None

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Subsample features.

        Args:
            features: ``(N, T, feature_dim)``, 0 beyond the valid frames.
            lengths: ``(N,)`` valid frames.

        Returns:
            ``(N, T', d_model)`` with ``T' = ((T - 1) // 2 - 1) // 2``, at least 1, and the lengths ``(N,)``, which are
            0 for fewer than 7 frames.
        """
        missing = max(0, SHORTEST - features.shape[1])
        x = nn.functional.pad(features, (0, 0, 0, missing)).unsqueeze(1)  # (N, 1, T, F)
        for index, (conv, stride) in enumerate(zip(self.convs, self.strides)):
            if stride == 1 and index > 0:  # zero the batch padding, as the convolution's own
                x = x.masked_fill(beyond(lengths, x.shape[2])[:, None, :, None], 0.0)
            x = self.activation(conv(x))  # (N, C, T', F')
            lengths = lengths if stride == 1 else torch.div(lengths - 1, 2, rounding_mode="floor")
        x = self.out(x.transpose(1, 2).flatten(2))  # (N, T', C F') -> (N, T', d_model)
        return x if self.out_norm is None else self.out_norm(x), lengths.clamp(min=0)
