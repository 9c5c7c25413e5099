from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pruning.tasks.spectrum import SpectrumLoss, filter_bank

HOP, RATE = 320, 16000


def audio(samples: int, count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, samples, generator=torch.Generator().manual_seed(seed)).cumsum(1) / 10


def test_targets_are_the_features_of_lhotse() -> None:
    """They equal the features that recipes compute from recordings, at the encoder's frame rate."""
    from lhotse import Fbank, FbankConfig

    heard = audio(16000)
    found = SpectrumLoss(4, RATE, HOP).targets(heard)
    extractor = Fbank(FbankConfig(num_mel_bins=80, frame_shift=HOP / RATE))
    for row, one in zip(found, heard):
        assert np.allclose(extractor.extract(one.numpy(), RATE), row.numpy(), atol=1e-3)
    assert filter_bank(RATE, HOP, 80, "cpu") is filter_bank(RATE, HOP, 80, "cpu")


def test_one_is_what_a_constant_has_and_padding_has_no_part() -> None:
    torch.manual_seed(0)
    loss = SpectrumLoss(6, RATE, HOP, bins=8)
    heard, x, lengths = audio(6400), torch.randn(2, 19, 6), torch.tensor([19, 11])
    with torch.no_grad():
        before = loss(x, lengths, heard)
        x[1, 11:] = math.nan
        assert torch.equal(loss(x, lengths, heard), before)
        loss.output.weight.zero_()
        loss.output.bias.zero_()
        assert loss(x, lengths, heard).item() == pytest.approx(1.0, abs=1e-5)


def test_frames_that_hold_the_spectrum_tell_it() -> None:
    """The deviations equal those computed with numpy, frame by frame."""
    loss = SpectrumLoss(8, RATE, HOP, bins=8)
    heard, lengths = audio(6400), torch.tensor([19, 11])
    targets = loss.targets(heard)
    kept = np.concatenate([targets[0, :19].numpy(), targets[1, :11].numpy()])
    mean, deviation = kept.mean(axis=0), np.maximum(kept.std(axis=0), 0.1)
    with torch.no_grad():
        loss.output.weight.copy_(torch.diag(torch.from_numpy(1 / deviation)))
        loss.output.bias.copy_(torch.from_numpy(-mean / deviation))
        assert loss(targets, lengths, heard).item() < 1e-6
        shifted = loss(targets + 1.0, lengths, heard).item()
    assert shifted == pytest.approx(float((1 / deviation**2).mean()), rel=1e-3)
