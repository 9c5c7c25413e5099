"""Whisper's features: equal to transformers' extractor, and settings of the silence after the audio."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.speech.data.whisper_features import WhisperFeatureConfig, mel_filters, whisper_features


def audio(seconds: float = 1.7) -> Tensor:
    samples = int(seconds * 16000)
    generator = torch.Generator().manual_seed(1)
    time = torch.arange(samples) / 16000
    return 0.3 * torch.sin(2 * torch.pi * 440 * time) + 0.05 * torch.randn(samples, generator=generator)


@pytest.mark.parametrize("bins", [80, 128])
def test_features_are_those_of_transformers(bins: int) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    theirs = extractor(audio().numpy(), sampling_rate=16000, return_tensors="pt").input_features[0].t()
    ours = whisper_features(audio(), WhisperFeatureConfig(bins))
    assert ours.shape == theirs.shape == (3000, bins)
    assert (ours - theirs).abs().max() < 1e-5
    assert torch.allclose(mel_filters(bins), torch.from_numpy(extractor.mel_filters).float().t(), atol=1e-7)


@pytest.mark.parametrize(("tail", "frames"), [(0, 170), (1, 270), (10, 1170), (30, 3000)])
def test_a_shorter_window_has_the_first_frames(tail: float, frames: int) -> None:
    """But for the last two, which reach beyond the end."""
    whole = whisper_features(audio(), WhisperFeatureConfig())
    part = whisper_features(audio(), WhisperFeatureConfig(tail=tail))
    assert part.shape == (frames, 80) and part.dtype == torch.float32
    assert torch.allclose(part[:-2], whole[: frames - 2], atol=1e-6)


def test_short_audio_has_features() -> None:
    assert whisper_features(torch.ones(1), WhisperFeatureConfig(tail=0)).shape == (2, 80)


@pytest.mark.parametrize("samples", [0, 480001])
def test_audio_that_does_not_fit_is_refused(samples: int) -> None:
    with pytest.raises(UserError, match="does not fit Whisper's window of 30 s"):
        whisper_features(torch.zeros(samples), WhisperFeatureConfig())


def test_other_bins_are_refused() -> None:
    with pytest.raises(UserError, match="bins must be at least 1 and at most 128, got 129"):
        WhisperFeatureConfig(bins=129)


def test_a_network_may_have_another_window() -> None:
    config = WhisperFeatureConfig(8, window=200)
    assert whisper_features(audio(), config).shape == (200, 8) and config.seconds == 2
    with pytest.raises(UserError, match="audio of 2.00006 s does not fit Whisper's window of 2 s"):
        config.frames(32001)
