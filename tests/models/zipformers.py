"""Small Zipformers whose dimensions differ in every layer, with weights far from the initial ones."""

from __future__ import annotations

from typing import Any

import torch

from pruning.models.prunable_zipformer import PrunableZipformer
from pruning.models.zipformer_config import ZipformerConfig

SMALL = {
    "widths": (16, 24, 20),
    "stack_layers": (1, 2, 1),
    "downsampling": (1, 2, 4),
    "num_heads": (3, 4, 2, 3),
    "query_dim": (5, 6, 4, 5),
    "position_dim": (2, 3, 2, 3),
    "value1_dim": (3, 4, 5, 3),
    "value2_dim": (4, 3, 2, 3),
    "ffn1_dim": (12, 10, 14, 12),
    "ffn2_dim": (16, 14, 12, 16),
    "ffn3_dim": (18, 20, 16, 18),
    "nonlin_dim": (12, 18, 10, 15),
    "conv1_channels": (16, 14, 12, 20),
    "conv2_channels": (10, 24, 22, 20),
    "conv_kernel": (7, 5, 3),
    "encoding_dim": 8,
    "feature_dim": 20,
    "subsampling_channels": (3, 4, 6),
    "convnext_dim": 15,
    "dropout": 0.0,
}


def small(**others: Any) -> PrunableZipformer:
    """Return a network in evaluation mode; ``others`` replace fields of its configuration."""
    torch.manual_seed(0)
    model = PrunableZipformer(ZipformerConfig(**{**SMALL, **others})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            if name.endswith(("bypass.scale", "bypass_mid.scale", "combiner.scale")):
                parameter.uniform_(0.2, 0.9)
            elif name.endswith("out_proj.weight") or "linear2.weight" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def features(frames: int = 71, others: int = 46, bins: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two utterances of noise, the second one padded."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, frames, bins, generator=generator), torch.tensor([frames, others])
