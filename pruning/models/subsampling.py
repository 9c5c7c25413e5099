"""Convolutional subsampling of features by a factor of 4 in time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning.models.layers import Activation, BasicNorm

KERNEL = 3
SHORTEST = 7  # frames that give one after subsampling; the convolutions take no fewer


def subsampled(length: int, strides: Sequence[int]) -> int:
    """Frames (or frequency bins) left of ``length`` after the convolutions; stride 1 is padded, stride 2 is not."""
    for stride in strides:
        length = length if stride == 1 else (length - 1) // 2
    return max(length, 0)


def beyond(lengths: Tensor, frames: int) -> Tensor:
    """``(N, frames)`` bool, True from each of ``lengths (N,)`` on."""
    return torch.arange(frames, device=lengths.device)[None, :] >= lengths[:, None]


class ConvSubsampling(nn.Module):
    """3 x 3 convolutions over time and frequency, then a projection to the model dimension.

    With strides (2, 2) this is the subsampling of ESPnet's and icefall's first Conformers, with (1, 2, 2) that of
    icefall's later ones.

    Args:
        feature_dim: bins per frame.
        channels: output channels of each convolution.
        strides: 1 or 2 for each; exactly two of them 2.
        d_model: output dimension.
        activation: after each convolution.
        normalised: whether the output goes through a `BasicNorm`.
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
            raise ValueError(f"channels {channels} and strides {strides} do not subsample by 4")
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
        """Subsample.

        Args:
            features: ``(N, T, feature_dim)``, 0 beyond the valid frames.
            lengths: ``(N,)`` valid frames.

        Returns:
            ``(N, T', d_model)`` with ``T' = ((T - 1) // 2 - 1) // 2``, at least 1, and the lengths ``(N,)``, 0 of fewer
            than 7 frames.
        """
        missing = max(0, SHORTEST - features.shape[1])
        x = nn.functional.pad(features, (0, 0, 0, missing)).unsqueeze(1)  # (N, 1, T, F)
        for index, (conv, stride) in enumerate(zip(self.convs, self.strides)):
            if stride == 1 and index > 0:  # its own padding is zeros: so must be what pads the batch
                x = x.masked_fill(beyond(lengths, x.shape[2])[:, None, :, None], 0.0)
            x = self.activation(conv(x))  # (N, C, T', F')
            lengths = lengths if stride == 1 else torch.div(lengths - 1, 2, rounding_mode="floor")
        x = self.out(x.transpose(1, 2).flatten(2))  # (N, T', C F') -> (N, T', d_model)
        return x if self.out_norm is None else self.out_norm(x), lengths.clamp(min=0)
