"""SpecAugment: what it masks, how much, and what it leaves unchanged."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.errors import UserError
from pruning.speech.data.augment import SampleAugment, SampleAugmentConfig, SpecAugment, SpecAugmentConfig


def batch(lengths: list[int], channels: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(len(lengths), max(lengths), channels) + 5, torch.tensor(lengths)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    factor=st.sampled_from([0, 5, 80]),
    size=st.integers(0, 120),
)
def test_padding_is_neither_read_nor_changed(lengths: list[int], seed: int, factor: int, size: int) -> None:
    features, sizes = batch(lengths)
    augment = SpecAugment(SpecAugmentConfig(time_warp_factor=factor, frames_mask_size=size))
    padding = torch.arange(features.shape[1]) >= sizes[:, None]
    poisoned = features.masked_fill(padding[:, :, None], 1e6)
    torch.manual_seed(seed)
    clean = augment(features, sizes)
    torch.manual_seed(seed)
    other = augment(poisoned, sizes)
    assert torch.equal(clean[padding], features[padding])
    assert torch.equal(other[padding], poisoned[padding])
    assert torch.allclose(clean[~padding], other[~padding], atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(20, 1500), seed=st.integers(0, 1000))
def test_masked_time_stays_within_its_fraction(length: int, seed: int) -> None:
    features, sizes = batch([length])
    config = SpecAugmentConfig(num_feature_masks=0, time_warp_factor=0, probability=1.0)
    torch.manual_seed(seed)
    changed = (SpecAugment(config)(features, sizes) != features).all(dim=2)
    assert changed.sum() <= config.max_frames_mask_fraction * length


def test_masked_channels_are_bands_filled_with_the_mean() -> None:
    features, sizes = batch([200] * 200)
    config = SpecAugmentConfig(num_feature_masks=1, num_frame_masks=0, time_warp_factor=0, probability=1.0)
    result = SpecAugment(config)(features, sizes)
    changed = (result != features).float().mean(dim=1)  # (N, C); a value may equal the mean by chance
    masked = changed > 0.5
    assert (changed[masked] > 0.95).all() and (changed[~masked] == 0).all()
    widths = masked.sum(dim=1)
    edges = (masked[:, 1:] != masked[:, :-1]).sum(dim=1)
    assert (edges <= 2).all(), "one band each"
    assert widths.max() == 27 and widths.min() == 0
    assert abs(widths.float().mean().item() - 13.5) < 2
    mean = features.mean(dim=(1, 2))
    for index in range(200):
        assert torch.allclose(result[index][:, masked[index]], mean[index])


def test_frame_masks_reach_both_ends() -> None:
    features, sizes = batch([300] * 4000, channels=2)
    config = SpecAugmentConfig(num_feature_masks=0, time_warp_factor=0, probability=1.0)
    changed = (SpecAugment(config)(features, sizes) != features).all(dim=2)
    assert changed.any(dim=0).all()


def test_probability_decides_per_utterance() -> None:
    features, sizes = batch([300] * 400)
    augment = SpecAugment(SpecAugmentConfig(time_warp_factor=0, probability=0.5, features_mask_size=80))
    changed = (augment(features, sizes) != features).any(dim=2).any(dim=1).float().mean().item()
    assert 0.4 < changed < 0.6


def test_warping_moves_time_and_keeps_order() -> None:
    ramp = torch.arange(400, dtype=torch.float32)[None, :, None].repeat(50, 1, 3)
    sizes = torch.full((50,), 400)
    config = SpecAugmentConfig(num_feature_masks=0, num_frame_masks=0, probability=1.0)
    warped = SpecAugment(config)(ramp, sizes)
    steps = warped[:, 1:, 0] - warped[:, :-1, 0]
    assert (steps >= 0).all(), "time never runs backwards"
    assert torch.equal(warped[:, 0], ramp[:, 0]) and torch.equal(warped[:, -1], ramp[:, -1])
    moved = (warped - ramp).abs().amax(dim=(1, 2))
    assert (moved <= 80 + 1).all() and (moved > 5).float().mean() > 0.5


def test_short_utterances_are_not_warped() -> None:
    features, sizes = batch([162, 100])
    config = SpecAugmentConfig(num_feature_masks=0, num_frame_masks=0, probability=1.0)
    assert torch.equal(SpecAugment(config)(features, sizes), features)


def test_the_global_generator_decides() -> None:
    features, sizes = batch([300, 250])
    augment = SpecAugment(SpecAugmentConfig())
    torch.manual_seed(3)
    first = augment(features, sizes)
    torch.manual_seed(3)
    assert torch.equal(augment(features, sizes), first)
    assert not torch.equal(augment(features, sizes), first)


def test_disabled_returns_its_input() -> None:
    features, sizes = batch([30])
    assert SpecAugment(SpecAugmentConfig(enabled=False))(features, sizes) is features


@pytest.mark.parametrize("setting", [{"probability": 1.5}, {"num_frame_masks": -1}, {"max_frames_mask_fraction": -0.1}])
def test_impossible_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        SpecAugmentConfig(**setting)  # type: ignore[arg-type]


def audio(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(len(lengths), max(lengths)), torch.tensor(lengths)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_samples_padding_is_neither_read_nor_changed(lengths: list[int], seed: int) -> None:
    samples, sizes = audio(lengths)
    augment = SampleAugment(SampleAugmentConfig(enabled=True), 16000)
    padding = torch.arange(samples.shape[1]) >= sizes[:, None]
    poisoned = samples.masked_fill(padding, 1e6)
    torch.manual_seed(seed)
    clean = augment(samples, sizes)
    torch.manual_seed(seed)
    other = augment(poisoned, sizes)
    assert torch.equal(other[padding], poisoned[padding])
    assert torch.allclose(clean[~padding], other[~padding], atol=1e-4)


def test_stretches_are_silent_and_few() -> None:
    samples, sizes = audio([32000] * 40)
    config = SampleAugmentConfig(enabled=True, num_band_masks=0, probability=1.0)
    silent = SampleAugment(config, 16000)(samples, sizes) == 0
    assert silent.any() and silent.float().mean(dim=1).max() <= config.max_time_mask_fraction + 0.01
    runs = silent[:, : 32000 - 32000 % 160].view(40, -1, 160)
    assert (runs.all(dim=2) | ~runs.any(dim=2)).all(), "on a grid of 10 ms"


def test_a_band_is_missing() -> None:
    samples, sizes = audio([16000] * 30)
    config = SampleAugmentConfig(enabled=True, num_time_masks=0, band_mask_share=0.2, probability=1.0)
    found = SampleAugment(config, 16000)(samples, sizes)
    before, after = (torch.fft.rfft(each).abs() for each in (samples, found))
    gone = after < 1e-3 * before.mean()
    assert 0.05 < gone.float().mean() < 0.15 and gone.float().mean(dim=1).max() <= 0.21
    torch.testing.assert_close(after[~gone], before[~gone], rtol=1e-3, atol=1e-2)


def test_samples_stay_where_nothing_is_asked_for() -> None:
    samples, sizes = audio([3000, 2000])
    assert SampleAugment(SampleAugmentConfig(), 16000)(samples, sizes) is samples
    never = SampleAugmentConfig(enabled=True, probability=0.0)
    assert torch.equal(SampleAugment(never, 16000)(samples, sizes), samples)
    with pytest.raises(UserError, match="probability must be at least 0 and at most 1, got 2.0"):
        SampleAugmentConfig(probability=2.0)


def test_masks_may_have_a_value_of_their_own() -> None:
    """Which depends neither on the utterance nor on the silence behind it."""
    features, sizes = batch([400, 300])
    torch.manual_seed(3)
    by_mean = SpecAugment(SpecAugmentConfig(time_warp_factor=0))(features, sizes)
    torch.manual_seed(3)
    by_value = SpecAugment(SpecAugmentConfig(time_warp_factor=0), 0.0)(features, sizes)
    assert (by_value[by_mean != features] == 0.0).all() and torch.equal(by_value != features, by_mean != features)
