"""icefall's Zipformer, from the modules of a checkout's recipe, in the dimensions of one of ours."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pruning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pruning.models.zipformer_config import ZipformerConfig


def modules(checkout: Path) -> dict[str, ModuleType]:
    """Import the files of the recipe ``zipformer``, which executes the user's own code.

    Raises:
        UserError: the checkout has no such recipe.
    """
    from pruning.models.icefall_encoder import RECIPES, importing_from

    recipe = checkout / RECIPES / "zipformer"
    if not (recipe / "zipformer.py").is_file():
        raise UserError(f"{checkout} has no recipe zipformer of icefall", "give a checkout as --icefall-dir")
    with importing_from(recipe, checkout):
        return {name: importlib.import_module(name) for name in ("zipformer", "subsampling", "scaling")}


def network(config: ZipformerConfig, of: Mapping[str, ModuleType]) -> nn.ModuleDict:
    """Return icefall's front end and encoder with fresh weights.

    Args:
        config: dimensions, the same in all layers of a stack and tied as icefall ties them.
        of: what `modules` returned.

    Raises:
        UserError: icefall cannot build a front end of these dimensions.
    """
    from torch import nn

    first = [stack.layers[0] for stack in config.stacks]
    heads, hidden, kernels = (
        tuple(values[index] for index in first) for values in (config.num_heads, config.ffn2_dim, config.conv_kernel)
    )
    channels = config.subsampling_channels
    if config.convnext_dim != 3 * channels[-1]:
        raise UserError(f"convnext_dim {config.convnext_dim} is not three times {channels[-1]} channels",
                        f"give model.zipformer.convnext_dim={3 * channels[-1]}")  # fmt: skip
    embed = of["subsampling"].Conv2dSubsampling(config.feature_dim, config.widths[0], *channels, dropout=config.dropout)
    encoder = of["zipformer"].Zipformer2(
        2, config.downsampling, config.widths, config.stack_layers, config.widths, config.query_dim[:1],
        config.position_dim[:1], config.value1_dim[:1], heads, hidden, kernels, config.encoding_dim, config.dropout,
    )  # fmt: skip
    return nn.ModuleDict({"encoder_embed": embed, "encoder": encoder})


def set_batch(network: nn.Module, batch: float) -> None:
    """Set the batch at which icefall's schedules are (dropout, skipped layers, Balancer, Whiten)."""
    for module in network.modules():
        if "batch_count" in vars(module):
            vars(module)["batch_count"] = batch


def outputs(network: nn.ModuleDict, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs ``(N, T', D)`` and their lengths ``(N,)`` for features ``(N, T, C)`` and lengths ``(N,)``."""
    import torch

    x, lengths = network["encoder_embed"](features, lengths)
    padding = torch.arange(x.shape[1])[None, :] >= lengths[:, None]
    output, lengths = network["encoder"](x.transpose(0, 1), lengths, padding)
    return output.transpose(0, 1), lengths
