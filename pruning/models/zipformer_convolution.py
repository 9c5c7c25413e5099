"""The convolution module of Zipformers, and its form for streaming, which sees whole chunks but nothing later."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor, nn

from pruning.models.conformer import depthwise_convolution
from pruning.models.layers import scaled_linear
from pruning.models.subsampling import beyond
from pruning.models.swoosh import swoosh_r
from pruning.models.zipformer_attention import extended


class ChunkedConvolution(nn.Module):
    """A depthwise convolution over the past, and one within chunks of frames.

    The second is multiplied by ``1 + left + right``: learned corrections ``edges (2, channels, kernel)`` of the first
    and the last ``kernel`` frames of a chunk, which lack neighbours.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.past = nn.Conv1d(channels, channels, (kernel + 1) // 2, groups=channels)
        self.within = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.edges = nn.Parameter(torch.zeros(2, channels, kernel))
        for convolution in (self.past, self.within):
            nn.init.uniform_(convolution.get_parameter("bias"), -0.1, 0.1)

    @property
    def reach(self) -> int:
        """Number of past frames that the convolution sees."""
        return self.edges.shape[2] // 2

    def forward(self, x: Tensor, chunk: int, lengths: Optional[Tensor]) -> Tensor:
        """Convolve.

        Args:
            x: ``(N, T, C)``, 0 on padding frames.
            chunk: number of frames of a chunk; 0: one chunk.
            lengths: valid frames, ``(N,)``: an utterance shorter than a chunk ends its chunk. None: the batch as a
                whole is as long as its longest utterance.

        Returns:
            ``(N, T, C)``.
        """
        n, frames, channels = x.shape
        chunk = chunk if 0 < chunk <= frames else frames
        sizes = (
            torch.full((1,), chunk, dtype=torch.int64, device=x.device) if lengths is None else lengths.clamp(1, chunk)
        )
        past = depthwise_convolution(nn.functional.pad(x, (0, 0, self.reach, 0)), self.past)
        whole = nn.functional.pad(x, (0, 0, 0, -frames % chunk)).view(-1, chunk, channels)
        within = depthwise_convolution(whole, self.within).reshape(n, -1, chunk, channels)
        within = within * self.correction(sizes, chunk)[:, None]
        return past + within.flatten(1, 2)[:, :frames]

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs of a chunk ``x (N, T, C)``, and the last ``reach`` frames of ``past (N, reach, C)`` and it."""
        both, past = extended(past, x)
        longer = int(x.shape[1]) - self.edges.shape[2]  # a constant, also of a trace
        left, right = (nn.functional.pad(edge, beside) for edge, beside in zip(self.edges, ((0, longer), (longer, 0))))
        within = depthwise_convolution(x, self.within) * (1.0 + left + right).T
        return depthwise_convolution(both, self.past) + within, past

    def correction(self, sizes: Tensor, frames: int) -> Tensor:
        """Return the factors of the first ``frames`` frames of chunks of ``sizes (S,)`` frames, ``(S, frames, C)``."""
        left, right = nn.functional.pad(self.edges, (1, 0)).transpose(1, 2)  # (1 + kernel, C), beginning with 0
        kernel = self.edges.shape[2]
        from_left = torch.arange(frames, device=sizes.device)
        from_right = from_left[None, :] - (sizes[:, None] - kernel)  # place among the last ``kernel`` frames
        places = [
            torch.where((place >= 0) & (place < kernel), place + 1, torch.zeros_like(place))
            for place in (from_left, from_right)
        ]
        return 1.0 + left[places[0]] + right[places[1]]


class ConvolutionModule(nn.Module):
    """Gated linear unit, depthwise convolution, SwooshR, linear layer."""

    def __init__(self, width: int, channels: int, kernel: int, causal: bool) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 2 * channels)
        self.chunked = ChunkedConvolution(channels, kernel) if causal else None
        self.depthwise = None
        if not causal:
            self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.out_proj = scaled_linear(channels, width, 0.05)

    def forward(self, x: Tensor, lengths: Tensor, chunk: int = 0, isolated: bool = True) -> Tensor:
        """Apply the module.

        Args:
            x: ``(N, T, width)``.
            lengths: ``(N,)`` valid frames; later ones are zeroed.
            chunk, isolated: number of frames of a chunk, and whether utterances end theirs, for streaming.

        Returns:
            ``(N, T, width)``.
        """
        y = self.gated(x).masked_fill(beyond(lengths, x.shape[1])[:, :, None], 0.0)
        if self.depthwise is not None:
            y = depthwise_convolution(y, self.depthwise)
        else:
            assert self.chunked is not None
            y = self.chunked(y, chunk, lengths if isolated else None)
        return self.out_proj(swoosh_r(y))

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs of a chunk ``x (N, T, width)``, and the new past ``(N, reach, channels)``."""
        assert self.chunked is not None
        y, past = self.chunked.step(self.gated(x), past)
        return self.out_proj(swoosh_r(y)), past

    def gated(self, x: Tensor) -> Tensor:
        """``(N, T, width)`` -> input of the convolution ``(N, T, channels)``."""
        return nn.functional.glu(self.in_proj(x), dim=2)
