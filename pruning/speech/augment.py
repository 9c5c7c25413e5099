"""SpecAugment (Park et al., 2019) over a padded batch, without a loop over utterances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.errors import UserError


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
    num_feature_masks: int = 2
    features_mask_size: int = 27
    num_frame_masks: int = 10
    frames_mask_size: int = 100
    max_frames_mask_fraction: float = 0.15
    time_warp_factor: int = 80
    probability: float = 0.9

    def __post_init__(self) -> None:
        for name in (
            "num_feature_masks", "features_mask_size", "num_frame_masks", "frames_mask_size", "time_warp_factor",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise UserError(f"spec_augment.{name} is {getattr(self, name)}", "give 0 or more")
        for name in ("max_frames_mask_fraction", "probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"spec_augment.{name} is {getattr(self, name)}", "give a value from 0 to 1")


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
        """(N, T) bool: which frames are masked.

        The number and size of stretches follow lhotse: few enough, and short enough, that all of them together stay
        within the fraction of the utterance even if none overlap.
        """
        config = self.config
        if config.frames_mask_size == 0 or config.num_frame_masks == 0:
            return torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)
        budget = config.max_frames_mask_fraction * lengths  # (N,)
        count = torch.ceil(budget / config.frames_mask_size).clamp(max=config.num_frame_masks)
        largest = torch.floor(budget / count.clamp(min=1)).clamp(max=config.frames_mask_size).to(torch.int64)
        masks = _intervals(config.num_frame_masks, lengths, largest, features.shape[1])  # (N, masks, T)
        used = torch.arange(config.num_frame_masks, device=features.device) < count[:, None]
        return (masks & used[:, :, None]).any(dim=1)

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


def _frames(features: Tensor, index: Tensor) -> Tensor:
    """(N, T, C) frames of ``features`` (N, T, C) at ``index`` (N, T)."""
    return features.gather(1, index[:, :, None].expand(-1, -1, features.shape[2]))


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
