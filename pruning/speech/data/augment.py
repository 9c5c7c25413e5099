"""SpecAugment (Park et al., 2019) and an equivalent for samples, vectorised over a padded batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn

from pruning.limits import Natural, NonNegative, Share, check_fields


@dataclass(frozen=True)
class SpecAugmentConfig:
    """SpecAugment, with the defaults of lhotse and icefall.

    Attributes:
        enabled: whether training features are augmented.
        num_feature_masks: number of channel bands masked in each utterance.
        features_mask_size: maximum number of channels in a band; the minimum is 0.
        num_frame_masks: maximum number of time masks in each utterance.
        frames_mask_size: maximum number of frames in a time mask; the minimum is 0.
        max_frames_mask_fraction: maximum fraction of an utterance's frames covered by all time masks together.
        time_warp_factor: maximum number of frames by which the warped point moves; 0: no warping.
        probability: probability of masking, and of warping, for each utterance.
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
    """Warp time and mask channel bands and stretches of time; draws from torch's global generator of the device.

    Padding is neither used nor changed.

    Args:
        config: settings of the masks.
        value: value of what is masked; None: the mean of the utterance.
    """

    def __init__(self, config: SpecAugmentConfig, value: Optional[float] = None) -> None:
        super().__init__()
        self.config, self.value = config, value

    @torch.no_grad()
    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            features: (N, T, C) padded features.
            lengths: (N,) number of frames of each utterance.

        Returns:
            (N, T, C), a new tensor, or the input itself if augmentation is disabled.
        """
        if not self.config.enabled:
            return features
        lengths = lengths.to(features.device)
        valid = torch.arange(features.shape[1], device=features.device) < lengths[:, None]  # (N, T)
        warped = self._warp_time(features, lengths) if self.config.time_warp_factor > 0 else features
        value = self._values(warped, lengths, valid)
        masked = self._frame_masks(features, lengths)[:, :, None] | self._feature_masks(features)[:, None, :]
        masked &= valid[:, :, None] & self._chosen(features)[:, None, None]
        return torch.where(masked, value[:, None, None].to(features.dtype), warped)

    def _values(self, features: Tensor, lengths: Tensor, valid: Tensor) -> Tensor:
        """Return the value of each utterance for masks, ``(N,)``; the mean is that of its ``valid (N, T)`` frames."""
        if self.value is not None:
            return features.new_full(lengths.shape, self.value)
        total = (features * valid[:, :, None]).sum(dim=(1, 2))
        return total / (lengths * features.shape[2]).clamp(min=1)

    def _chosen(self, features: Tensor) -> Tensor:
        """Return which utterances are augmented, (N,) bool."""
        return torch.rand(features.shape[0], device=features.device) < self.config.probability

    def _feature_masks(self, features: Tensor) -> Tensor:
        """Return which channels are masked, (N, C) bool."""
        batch, _, channels = features.shape
        largest = torch.full((batch,), min(self.config.features_mask_size, channels), device=features.device)
        sizes = torch.full((batch,), channels, device=features.device)
        masks = _intervals(self.config.num_feature_masks, sizes, largest, channels)  # (N, masks, C)
        return masks.any(dim=1)

    def _frame_masks(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return which frames are masked, (N, T) bool."""
        config = self.config
        return _stretches(config.num_frame_masks, config.frames_mask_size, config.max_frames_mask_fraction, lengths,
                          features.shape[1])  # fmt: skip

    def _warp_time(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Move one random point of each utterance in time and stretch both sides linearly to fit; (N, T, C).

        Utterances too short to move a point by ``time_warp_factor`` are not warped, as in lhotse.
        """
        factor = self.config.time_warp_factor
        batch, frames, _ = features.shape
        device = features.device
        chosen = self._chosen(features) & (lengths > 2 * factor + 2)
        room = (lengths - 2 * factor - 1).clamp(min=1)
        source = factor + 1 + torch.floor(torch.rand(batch, device=device) * room)  # the point that moves
        target = source + torch.randint(-factor, factor + 1, (batch,), device=device)  # its new position
        target = torch.maximum(torch.minimum(target, lengths - 1.0), torch.ones_like(target))
        time = torch.arange(frames, device=device, dtype=torch.float32)[None, :]  # (1, T)
        last = (lengths - 1).clamp(min=1)[:, None].float()
        source, target = source[:, None], target[:, None]
        after = source + (time - target) * (last - source) / (last - target).clamp(min=1)
        position = torch.where(time <= target, time * source / target, after)
        position = torch.where(
            chosen[:, None] & (time < last), position, time
        )  # padding and the last frame do not move
        left = position.floor().clamp(0, frames - 1)
        weight = (position - left)[:, :, None].to(features.dtype)
        left_index = left.to(torch.int64)
        right_index = (left_index + 1).clamp(max=frames - 1)
        return torch.lerp(_frames(features, left_index), _frames(features, right_index), weight)


@dataclass(frozen=True)
class SampleAugmentConfig:
    """Masks of samples: stretches of silence and missing frequency bands.

    Attributes:
        enabled: whether training audio is augmented.
        num_time_masks: maximum number of silent stretches in each utterance.
        time_mask_seconds: maximum duration of a stretch in seconds.
        max_time_mask_fraction: maximum fraction of an utterance covered by all stretches together.
        num_band_masks: number of missing bands in each utterance.
        band_mask_share: maximum share of all frequencies in a band.
        probability: probability of masking for each utterance.
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


_GRID, _BANDS = 0.01, 256  # resolution of the masks: seconds, and number of bands


class SampleAugment(nn.Module):
    """Silence stretches of time and remove frequency bands; draws from torch's global generator of the device.

    For networks that take samples as input: the chunk and frequency dropping of SpeechBrain, on a grid of 10 ms and
    1/256 of the frequencies. Padding is neither used nor changed.

    Args:
        config: settings of the masks.
        sampling_rate: sampling rate in Hz.
    """

    def __init__(self, config: SampleAugmentConfig, sampling_rate: int) -> None:
        super().__init__()
        self.config, self.sampling_rate = config, sampling_rate

    @torch.no_grad()
    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            audio: (N, S) padded samples.
            lengths: (N,) number of samples of each utterance.

        Returns:
            (N, S), a new tensor, or the input itself if augmentation is disabled.
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
        """Return ``(N, S)`` samples without random bands of the spectrum of the whole utterance."""
        size = torch.full((audio.shape[0],), _BANDS, device=audio.device)
        largest = torch.full_like(size, round(self.config.band_mask_share * _BANDS))
        gone = _intervals(self.config.num_band_masks, size, largest, _BANDS).any(dim=1)  # (N, bands)
        spectrum = torch.fft.rfft(audio.float())
        band = torch.arange(spectrum.shape[1], device=audio.device) * _BANDS // spectrum.shape[1]
        return torch.fft.irfft(spectrum.masked_fill(gone[:, band], 0.0), n=audio.shape[1]).to(audio.dtype)


def _frames(features: Tensor, index: Tensor) -> Tensor:
    """Return the frames of ``features`` (N, T, C) at ``index`` (N, T), (N, T, C)."""
    return features.gather(1, index[:, :, None].expand(-1, -1, features.shape[2]))


def _stretches(count: int, size: float, fraction: float, lengths: Tensor, length: int) -> Tensor:
    """Return random stretches of time, ``(N, length)`` bool.

    Their number and size follow lhotse: they are few and short enough that all of them together stay within the
    fraction of the utterance even if none overlap.

    Args:
        count: maximum number of stretches per utterance.
        size: maximum length of a stretch.
        fraction: maximum fraction of an utterance that all stretches may cover.
        lengths: (N,) lengths of the utterances.
        length: length of the result.
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
    """Return random intervals.

    Args:
        count: number of intervals per utterance.
        sizes: (N,); each interval lies in [0, size).
        largest: (N,); the width is uniform in 0..largest.
        length: length of the result.

    Returns:
        (N, count, length) bool.
    """
    device = sizes.device
    width = torch.floor(torch.rand(len(sizes), count, device=device) * (largest[:, None] + 1))
    start = torch.floor(torch.rand(len(sizes), count, device=device) * (sizes[:, None] - width + 1).clamp(min=1))
    position = torch.arange(length, device=device)
    return (position >= start[:, :, None]) & (position < (start + width)[:, :, None])
