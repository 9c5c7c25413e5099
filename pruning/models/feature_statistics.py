"""Normalisation of features by fixed statistics, which a recipe sets once from its training data."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NormalisedFeatures(nn.Module):
    """Base of encoders that normalise their features.

    The buffers ``feature_mean`` and ``feature_scale`` ``(feature_dim,)`` start as 0 and 1, which leaves features
    unchanged.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(feature_dim))

    @torch.no_grad()
    def set_feature_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Set the statistics by which features are normalised: mean and standard deviation, each ``(feature_dim,)``."""
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(1 / deviation.clamp(min=1e-3))
