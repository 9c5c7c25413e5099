"""SpecAugment (Park et al., 2019), and its like for samples, over a padded batch, without a loop over utterances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.limits import Natural, NonNegative, Share, check_fields


@dataclass(frozen=True)
class SpecAugmentConfig:
    """SpecAugment, with the settings of lhotse and icefall as defaults.

    Attributes:
        enabled: whether training features are augmented at all.
        num_feature_masks: bands of channels masked in each utterance.
        features_mask_size: a band has 0 to so many channels.
        num_frame_masks: at most so many stretches of time masked in each utterance.
        frames_mask_size: a stretch has 0 to so many frames.
        max_frames_mask_fraction: all stretches together have at most this fraction of the utterance's frames.
        time_warp_factor: the point that is moved in time moves by up to so many frames; 0: no warping.
        probability: of masking, and of warping, per utterance.
    """

    enabled: bool = True
    num_feature_masks: Natural = 2
    features_mask_size: Natural = 27
    num_frame_masks: Natural = 10
    frames_mask_size: Natural = 100
    max_frames_mask_fraction: Share = 0.15
    time_warp_factor: Natural = 80
    probability: Share = 0.9

    def __post_init__(self) -> None:
        check_fields(self)


class SpecAugment(nn.Module):
    """Warps time and masks bands and stretches; all randomness is torch's global generator of the features' device.

    Masked values become the mean of their utterance. Padding is neither read nor changed.
    """

    def __init__(self, config: SpecAugmentConfig) -> None:
        super().__init__()
        self.config = config

    @torch.no_grad()
    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            features: (N, T, C) padded features.
            lengths: (N,) frames of each utterance.

        Returns:
            (N, T, C), a new tensor; the input itself when augmentation is not enabled.
        """
        if not self.config.enabled:
            return features
        lengths = lengths.to(features.device)
        valid = torch.arange(features.shape[1], device=features.device) < lengths[:, None]  # (N, T)
        warped = self._warp_time(features, lengths) if self.config.time_warp_factor > 0 else features
        total = (warped * valid[:, :, None]).sum(dim=(1, 2))
        mean = total / (lengths * features.shape[2]).clamp(min=1)  # (N,)
        masked = self._frame_masks(features, lengths)[:, :, None] | self._feature_masks(features)[:, None, :]
        masked &= valid[:, :, None] & self._chosen(features)[:, None, None]
        return torch.where(masked, mean[:, None, None].to(features.dtype), warped)

    def _chosen(self, features: Tensor) -> Tensor:
        """(N,) bool: which utterances are augmented."""
        return torch.rand(features.shape[0], device=features.device) < self.config.probability

    def _feature_masks(self, features: Tensor) -> Tensor:
        """(N, C) bool: which channels are masked."""
        batch, _, channels = features.shape
        largest = torch.full((batch,), min(self.config.features_mask_size, channels), device=features.device)
        sizes = torch.full((batch,), channels, device=features.device)
        masks = _intervals(self.config.num_feature_masks, sizes, largest, channels)  # (N, masks, C)
        return masks.any(dim=1)

    def _frame_masks(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(N, T) bool: which frames are masked."""
        config = self.config
        return _stretches(config.num_frame_masks, config.frames_mask_size, config.max_frames_mask_fraction, lengths,
                          features.shape[1])  # fmt: skip

    def _warp_time(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(N, T, C): one random point of each utterance moved in time, both sides stretched linearly to fit.

        Utterances too short to move a point by ``time_warp_factor`` stay as they are, as in lhotse.
        """
        factor = self.config.time_warp_factor
        batch, frames, _ = features.shape
        device = features.device
        chosen = self._chosen(features) & (lengths > 2 * factor + 2)
        room = (lengths - 2 * factor - 1).clamp(min=1)
        source = factor + 1 + torch.floor(torch.rand(batch, device=device) * room)  # the point that moves
        target = source + torch.randint(-factor, factor + 1, (batch,), device=device)  # where to
        target = torch.maximum(torch.minimum(target, lengths - 1.0), torch.ones_like(target))
        time = torch.arange(frames, device=device, dtype=torch.float32)[None, :]  # (1, T)
        last = (lengths - 1).clamp(min=1)[:, None].float()
        source, target = source[:, None], target[:, None]
        after = source + (time - target) * (last - source) / (last - target).clamp(min=1)
        position = torch.where(time <= target, time * source / target, after)
        position = torch.where(chosen[:, None] & (time < last), position, time)  # padding and the last frame stay
        left = position.floor().clamp(0, frames - 1)
        weight = (position - left)[:, :, None].to(features.dtype)
        left_index = left.to(torch.int64)
        right_index = (left_index + 1).clamp(max=frames - 1)
        return torch.lerp(_frames(features, left_index), _frames(features, right_index), weight)


@dataclass(frozen=True)
class SampleAugmentConfig:
    """Masks of samples: stretches of silence and bands of frequency that are missing.

    Attributes:
        enabled: whether training audio is augmented at all.
        num_time_masks: at most so many stretches in each utterance.
        time_mask_seconds: a stretch is up to so long.
        max_time_mask_fraction: all stretches together are at most this fraction of the utterance.
        num_band_masks: bands in each utterance.
        band_mask_share: a band is up to this share of all frequencies.
        probability: of masking, per utterance.
    """

    enabled: bool = False
    num_time_masks: Natural = 10
    time_mask_seconds: NonNegative = 0.2
    max_time_mask_fraction: Share = 0.15
    num_band_masks: Natural = 1
    band_mask_share: Share = 0.1
    probability: Share = 0.9

    def __post_init__(self) -> None:
        check_fields(self)


_GRID, _BANDS = 0.01, 256  # seconds and bands, to which masks are drawn


class SampleAugment(nn.Module):
    """Silences stretches and takes bands out; all randomness is torch's global generator of the samples' device.

    For networks that hear samples, whatever they make of them: the chunks and frequencies that SpeechBrain drops, on a
    grid of 10 ms and 1/256 of the frequencies. Padding is neither read nor changed.

    Args:
        config: of the masks.
        sampling_rate: in Hz.
    """

    def __init__(self, config: SampleAugmentConfig, sampling_rate: int) -> None:
        super().__init__()
        self.config, self.sampling_rate = config, sampling_rate

    @torch.no_grad()
    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            audio: (N, S) padded samples.
            lengths: (N,) samples of each utterance.

        Returns:
            (N, S), a new tensor; the input itself when augmentation is not enabled.
        """
        config = self.config
        if not config.enabled:
            return audio
        lengths = lengths.to(audio.device)
        valid = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        heard = audio.masked_fill(~valid, 0.0)
        if config.num_band_masks and config.band_mask_share:
            heard = self._without_bands(heard)
        block = max(1, round(_GRID * self.sampling_rate))
        blocks = -(-audio.shape[1] // block)
        silent = _stretches(config.num_time_masks, config.time_mask_seconds / _GRID, config.max_time_mask_fraction,
                            torch.div(lengths + block - 1, block, rounding_mode="floor"), blocks)  # fmt: skip
        silent = silent.repeat_interleave(block, dim=1)[:, : audio.shape[1]]
        chosen = torch.rand(audio.shape[0], device=audio.device) < config.probability
        return torch.where(valid & chosen[:, None], heard.masked_fill(silent, 0.0), audio)

    def _without_bands(self, audio: Tensor) -> Tensor:
        """``(N, S)`` with random bands taken out of the spectrum of the whole."""
        size = torch.full((audio.shape[0],), _BANDS, device=audio.device)
        largest = torch.full_like(size, round(self.config.band_mask_share * _BANDS))
        gone = _intervals(self.config.num_band_masks, size, largest, _BANDS).any(dim=1)  # (N, bands)
        spectrum = torch.fft.rfft(audio.float())
        band = torch.arange(spectrum.shape[1], device=audio.device) * _BANDS // spectrum.shape[1]
        return torch.fft.irfft(spectrum.masked_fill(gone[:, band], 0.0), n=audio.shape[1]).to(audio.dtype)


def _frames(features: Tensor, index: Tensor) -> Tensor:
    """(N, T, C) frames of ``features`` (N, T, C) at ``index`` (N, T)."""
    return features.gather(1, index[:, :, None].expand(-1, -1, features.shape[2]))


def _stretches(count: int, size: float, fraction: float, lengths: Tensor, length: int) -> Tensor:
    """Random stretches of time, ``(N, length)`` bool.

    Their number and size follow lhotse: few enough, and short enough, that all of them together stay within the
    fraction of the utterance even if none overlap.

    Args:
        count: the most for each utterance.
        size: the most of each.
        fraction: of an utterance that all of them may cover.
        lengths: (N,) of the utterances.
        length: of the result.
    """
    if count == 0 or size == 0:
        return torch.zeros(len(lengths), length, dtype=torch.bool, device=lengths.device)
    budget = fraction * lengths  # (N,)
    number = torch.ceil(budget / size).clamp(max=count)
    largest = torch.floor(budget / number.clamp(min=1)).clamp(max=size).to(torch.int64)
    masks = _intervals(count, lengths, largest, length)  # (N, count, length)
    used = torch.arange(count, device=lengths.device) < number[:, None]
    return (masks & used[:, :, None]).any(dim=1)


def _intervals(count: int, sizes: Tensor, largest: Tensor, length: int) -> Tensor:
    """Random intervals.

    Args:
        count: intervals for each utterance.
        sizes: (N,) each interval lies in [0, size).
        largest: (N,) the width is uniform in 0..largest.
        length: of the result.

    Returns:
        (N, count, length) bool.
    """
    device = sizes.device
    width = torch.floor(torch.rand(len(sizes), count, device=device) * (largest[:, None] + 1))
    start = torch.floor(torch.rand(len(sizes), count, device=device) * (sizes[:, None] - width + 1).clamp(min=1))
    position = torch.arange(length, device=device)
    return (position >= start[:, :, None]) & (position < (start + width)[:, :, None])
