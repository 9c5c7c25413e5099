"""Names of the ways to narrow a network, and of families of networks. Does not import torch."""

from __future__ import annotations

NARROW = ("units", "width", "depth")
"""What is narrowed in a uniform network, see `pruning.models.uniform.narrowed_config`."""

WHISPER, MOONSHINE = FAMILY_NAMES = ("whisper", "moonshine")
"""Families of encoder-decoders."""
