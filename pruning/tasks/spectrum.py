"""What a frontend of fresh weights finds its filters by: telling the spectrum of what it hears."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core.distillation import frame_mask
from pruning.core.precision import at_least_float32

_LEAST_DEVIATION = 0.1  # of log-energies, natural: a channel that is (nearly) constant is not blown up


class SpectrumLoss(nn.Module):
    """Squared error of log-Mel energies that a linear layer predicts from each frame, as a worker of PASE does (arXiv
    1904.03416, section 2.2). By CTC alone an encoder of samples had not left the blanks after 480 steps of 40 s; with
    this beside it, at a weight of 1, within some 300 steps of 20 s (two rates of learning, one trial each).

    Args:
        dim: of the frames.
        sampling_rate: of the audio, in hertz.
        hop: samples from one frame to the next.
        bins: Mel channels.
    """

    def __init__(self, dim: int, sampling_rate: int, hop: int, bins: int = 80) -> None:
        super().__init__()
        self.sampling_rate, self.hop, self.bins = sampling_rate, hop, bins
        self.output = nn.Linear(dim, bins)

    def forward(self, x: Tensor, lengths: Tensor, audio: Tensor) -> Tensor:
        """The mean over frames and channels, a scalar; 1 is what a constant prediction has.

        Args:
            x: ``(N, T, D)``.
            lengths: frames of each, ``(N,)``.
            audio: samples that the frames should tell of, ``(N, S)``.
        """
        with torch.autocast(x.device.type, enabled=False):
            goal = self.targets(audio)
            frames = min(x.shape[1], goal.shape[1])
            heard = frame_mask(lengths.clamp(max=frames), frames)
            goal = goal[:, :frames][heard]
            deviation = goal.std(dim=0, unbiased=False).clamp(min=_LEAST_DEVIATION)
            goal = (goal - goal.mean(dim=0)) / deviation
            return (self.output(at_least_float32(x[:, :frames][heard])) - goal).square().mean()

    @torch.no_grad()
    def targets(self, audio: Tensor) -> Tensor:
        """Log-Mel energies ``(N, T, bins)``, one frame every ``hop`` samples, of ``audio (N, S)``."""
        return filter_bank(self.sampling_rate, self.hop, self.bins, str(audio.device))(at_least_float32(audio))


@lru_cache(maxsize=4)
def filter_bank(sampling_rate: int, hop: int, bins: int, device: str) -> Any:
    """From samples ``(N, S)`` to log-Mel energies ``(N, T, bins)``, as lhotse computes features."""
    from lhotse.features.kaldi.layers import Wav2LogFilterBank

    bank: Any = Wav2LogFilterBank(sampling_rate, frame_shift=hop / sampling_rate, num_filters=bins)
    return bank.to(device).eval()
