"""Names of the ways to narrow a network, and of families of networks. Does not import torch."""

from __future__ import annotations

NARROW = ("units", "width", "depth")
"""What is narrowed in a uniform network, see `pruning.models.uniform.narrowed_config`."""

WHISPER, MOONSHINE = FAMILY_NAMES = ("whisper", "moonshine")
"""Families of encoder-decoders."""

LLAMA, QWEN2 = LLAMA_FAMILY = ("llama", "qwen2")
"""Model types of language models that can be imported; SmolLM2 is a Llama."""
