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


PUBLISHED = {  # layers of each stack, hidden units of its second feed-forward modules, widths
    "S": ((2, 2, 2, 2, 2, 2), (512, 768, 768, 768, 768, 768), (192, 256, 256, 256, 256, 256)),
    "M": ((2, 2, 3, 4, 3, 2), (512, 768, 1024, 1536, 1024, 768), (192, 256, 384, 512, 384, 256)),
    "L": ((2, 2, 4, 5, 4, 2), (512, 768, 1536, 2048, 1536, 768), (192, 256, 512, 768, 512, 256)),
}
DOWNSAMPLING, HEADS, KERNELS = (1, 2, 4, 8, 4, 2), (4, 4, 4, 8, 4, 4), (31, 31, 15, 15, 15, 31)


def published(size: str, **others: Any) -> ZipformerConfig:
    """Return the dimensions of icefall's published Zipformers."""
    layers, hidden, widths = PUBLISHED[size]
    return ZipformerConfig(
        widths=widths,
        stack_layers=layers,
        downsampling=DOWNSAMPLING,
        num_heads=HEADS,
        ffn1_dim=tuple(3 * count // 4 for count in hidden),
        ffn2_dim=hidden,
        ffn3_dim=tuple(5 * count // 4 for count in hidden),
        nonlin_dim=tuple(3 * width // 4 for width in widths),
        conv1_channels=widths,
        conv2_channels=widths,
        conv_kernel=KERNELS,
        **others,
    )
