"""Whisper's features: logarithms of Mel bins (``log_mel_spectrogram`` in ``whisper/audio.py`` of openai/whisper)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Optional

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.limits import Count, NonNegative, Range, check_fields

RATE, HOP, SPAN = 16000, 160, 400
"""Samples per second, samples from frame to frame, and samples per frame."""
_LINEAR_UNTIL, _LINEAR_STEP, _LOG_STEP = 1000.0, 200 / 3, math.log(6.4) / 27
"""Slaney's Mel scale (Auditory Toolbox, 1998): linear up to 1 kHz in steps of 200 / 3 Hz, then logarithmic."""


@dataclass(frozen=True)
class WhisperFeatureConfig:
    """Settings of Whisper's features.

    Attributes:
        bins: number of Mel bins; published networks have 80, or 128 (large-v3 and turbo).
        tail: seconds of silence after the audio, at most up to the end of the window; None: silence up to the end, as
            in training. Shorter features are encoded with the first positions only, which is faster and may cost
            accuracy.
        window: frames of the longest features; published networks have 3000, for 30 s.
    """

    bins: Annotated[int, Range(int, least=1, most=128)] = 80
    tail: Optional[NonNegative] = None
    window: Count = 3000

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def seconds(self) -> float:
        """Seconds of the longest audio."""
        return self.window * HOP / RATE

    def frames(self, audio: int) -> int:
        """Return the number of frames, those of silence included, of the features of ``audio`` samples.

        Raises:
            UserError: the audio is empty, or longer than the window.
        """
        if not 0 < audio <= self.window * HOP:
            raise UserError(f"audio of {audio / RATE:g} s does not fit Whisper's window of {self.seconds:g} s",
                            "give recordings that are not empty, and cut longer ones")  # fmt: skip
        if self.tail is None:
            return self.window
        frames = max(2, math.ceil((audio + self.tail * RATE) / HOP))  # the first frame mirrors half a frame of audio
        return min(self.window, frames)


def whisper_features(audio: Tensor, config: WhisperFeatureConfig) -> Tensor:
    """Compute Whisper's features.

    Args:
        audio: ``(S,)`` samples at 16 kHz, between -1 and 1.
        config: bins and silence after the audio.

    Returns:
        ``(T, bins)`` float32, 100 frames per second; all frames, also those of silence, are input of the network.

    Raises:
        UserError: the audio is empty, or longer than the window.
    """
    silence = config.frames(len(audio)) * HOP - len(audio)
    samples = torch.nn.functional.pad(audio.float(), (0, silence))
    window = torch.hann_window(SPAN, device=audio.device)
    spectrum = torch.stft(samples, SPAN, HOP, window=window, return_complex=True)  # (F, T + 1)
    power = spectrum[:, :-1].abs().square()
    logs = (mel_filters(config.bins).to(power) @ power).clamp(min=1e-10).log10()
    logs = torch.maximum(logs, logs.max() - 8.0)
    return ((logs + 4.0) / 4.0).t().contiguous()


@lru_cache
def mel_filters(bins: int) -> Tensor:
    """Return triangles of equal area over the spectrum, ``(bins, 201)`` float32, as librosa makes them."""
    edges = _hertz(torch.linspace(0, float(_mel(RATE / 2)), bins + 2, dtype=torch.float64))
    frequencies = torch.linspace(0, RATE / 2, SPAN // 2 + 1, dtype=torch.float64)
    below, centre, above = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - below) / (centre - below), (above - frequencies) / (above - centre)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (above - below)).float()


def _mel(hertz: float) -> float:
    """Return the Mel value of a frequency of at least 1 kHz."""
    return _LINEAR_UNTIL / _LINEAR_STEP + math.log(hertz / _LINEAR_UNTIL) / _LOG_STEP


def _hertz(mels: Tensor) -> Tensor:
    """Return the frequencies of Mel values."""
    linear = _LINEAR_UNTIL / _LINEAR_STEP
    return torch.where(mels < linear, mels * _LINEAR_STEP, _LINEAR_UNTIL * torch.exp((mels - linear) * _LOG_STEP))
