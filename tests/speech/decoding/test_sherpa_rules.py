"""The rules of sherpa-onnx: features half a frame later, zeros behind them, and the limit of tokens."""

from __future__ import annotations

import pytest
import torch

from pruning.speech.data.whisper_features import WhisperFeatureConfig, whisper_features
from pruning.speech.decoding import sherpa_rules


@pytest.mark.parametrize("bins", [80, 128])
def test_features_are_those_of_audio_half_a_frame_later(bins: int) -> None:
    """But for the edges, where sherpa-onnx mirrors the audio."""
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(16000, generator=generator) * torch.linspace(0.01, 0.1, 16000)
    audio[8000:8400] *= 20  # the loudest frame, to which all others are relative, is not at an edge
    ours = whisper_features(audio[80:], WhisperFeatureConfig(bins, tail=0.0))
    theirs, kept = sherpa_rules.features(audio, bins)
    assert theirs.shape == (1100, bins) and kept == 100
    assert torch.allclose(ours[2:97], theirs[2:97], atol=1e-4)
    assert not theirs[100:].any() and theirs[:100].all()


@pytest.mark.parametrize(
    ("samples", "kept", "frames"),
    [(80, 1, 1001), (16079, 100, 1100), (400000, 2500, 3000), (471920, 2950, 3000), (480000, 2950, 3000)],
)
def test_frames(samples: int, kept: int, frames: int) -> None:
    found, count = sherpa_rules.features(torch.rand(samples), 80)
    assert (len(found), count) == (frames, kept)


@pytest.mark.parametrize(
    ("frames", "room", "most"),
    [(100, 448, 6), (349, 448, 20), (2950, 448, 177), (2950, 100, 50), (41, 0, 5), (42, 0, 6)],
)
def test_most_tokens(frames: int, room: int, most: int) -> None:
    assert sherpa_rules.most_tokens(frames, room) == most
