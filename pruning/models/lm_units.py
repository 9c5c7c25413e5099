"""Unit groups and costs of a Transformer language model.

Unit kinds: ``heads`` and ``ffn``; for whole modules: ``attention_module``, ``ffn_module``.
"""

from __future__ import annotations

from dataclasses import replace

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.models.module_units import attention_groups, ffn_groups
from pruning.models.transformer_lm_config import LanguageModelConfig

_ATTENTION, _FFN = ("in_proj", "out_proj"), ("linear1", "linear2")


def unit_groups(config: LanguageModelConfig) -> list[UnitGroup]:
    """Return the unit groups of the blocks, for the modules that exist."""
    groups: list[UnitGroup] = []
    for index in range(config.num_layers):
        of_layer: list[UnitGroup] = []
        if config.num_heads[index]:
            of_layer += attention_groups(f"layers.{index}.", config.num_heads[index], config.head_dim, config.d_model)
        if config.ffn_dim[index]:
            of_layer += ffn_groups(f"layers.{index}.", "ffn", config.ffn_dim[index], config.d_model)
        groups += [replace(group, layer=index) for group in of_layer]
    return groups


def cost_terms(config: LanguageModelConfig, tokens: int) -> list[CostTerm]:
    """Return the cost terms of the blocks for a sentence of ``tokens`` tokens; the embedding is not counted.

    The matrix products of attention are counted in full, as kernels compute them, not only the causal half.
    """
    terms: list[CostTerm] = []
    d, h = config.d_model, config.head_dim
    for index in range(config.num_layers):
        if config.num_heads[index]:
            module = f"layers.{index}.attention"
            macs = 4 * tokens * d * h + 2 * tokens * tokens * h
            terms.append(CostTerm("attention", (module, f"{module}.heads"), 4 * d * h + 3 * h, macs))
            terms.append(CostTerm("attention", (module,), 3 * d, 0))  # output bias and norm
        if config.ffn_dim[index]:
            module = f"layers.{index}.ffn"
            terms.append(CostTerm("ffn", (module, f"{module}.hidden"), 2 * d + 1, 2 * tokens * d))
            terms.append(CostTerm("ffn", (module,), 3 * d, 0))
    return [*terms, CostTerm("norm", (), 2 * d, 0)]


def linear_layers(config: LanguageModelConfig, tokens: int) -> list[LinearLayer]:
    """Return the linear layers of the blocks."""
    layers = []
    for index in range(config.num_layers):
        prefix = f"layers.{index}."
        if config.num_heads[index]:
            layers += [LinearLayer(f"{prefix}attention.{name}", "attention", tokens) for name in _ATTENTION]
        if config.ffn_dim[index]:
            layers += [LinearLayer(f"{prefix}ffn.{name}", "ffn", tokens) for name in _FFN]
    return layers


def shrink(config: LanguageModelConfig, structure: Structure) -> LanguageModelConfig:
    """Return the configuration of the network that ``structure`` leaves."""

    def kept(sizes: tuple[int, ...], group: str) -> tuple[int, ...]:
        return tuple(structure.count(f"layers.{i}.{group}") if size else 0 for i, size in enumerate(sizes))

    heads, hidden = kept(config.num_heads, "attention.heads"), kept(config.ffn_dim, "ffn.hidden")
    return replace(config, num_heads=heads, ffn_dim=hidden)
