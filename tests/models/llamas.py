"""Small networks of the Llama family for tests, as Hugging Face describes them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from pruning.models.rotary import RotaryScaling
from pruning.models.transformer_lm import TransformerLM
from pruning.models.transformer_lm_config import LanguageModelConfig

CONFIG = LanguageModelConfig(
    d_model=32, num_layers=3, head_dim=6, num_heads=(6, 5, 3), ffn_dim=(20, 16, 12), vocab_size=23, dropout=0.0,
    shared_by=((3, 3), (1, 3, 1), (1, 1, 1)), norm="rms", norm_eps=1e-5, gated=True, activation="silu",
    biased=("in_proj",), rotary_base=500.0, rotary_scaling=RotaryScaling("llama3", 8.0, 1.0, 4.0, 32),
)  # fmt: skip
"""Dimensions per layer as pruning leaves them: a layer that shares keys and values unequally, and one that does not."""


def network(**changes: Any) -> TransformerLM:
    """Return a network with random weights, norms and biases too, so that nothing cancels."""
    torch.manual_seed(0)
    model = TransformerLM(dataclasses.replace(CONFIG, **changes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def sentences(n: int = 3, length: int = 9) -> Tensor:
    """Return random tokens ``(n, length)``."""
    return torch.randint(CONFIG.vocab_size, (n, length), generator=torch.Generator().manual_seed(1))
