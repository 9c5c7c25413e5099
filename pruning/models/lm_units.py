"""Unit groups and costs of a Transformer language model.

Unit kinds: ``heads`` and ``ffn``; for whole modules: ``attention_module``, ``ffn_module``. On request also ``width``:
the channels of the residual stream.
"""

from __future__ import annotations

from dataclasses import replace

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, Span, UnitGroup
from pruning.models.module_units import attention_groups, ffn_groups, read_by, stream_group, unit_terms
from pruning.models.transformer_lm_config import LanguageModelConfig

_ATTENTION, _FFN = ("in_proj", "out_proj"), ("linear1", "linear2")


def unit_groups(config: LanguageModelConfig, width: bool = False) -> list[UnitGroup]:
    """Return the unit groups of the blocks, for the modules that exist; with ``width``, also the residual width."""
    groups: list[UnitGroup] = []
    for index in range(config.num_layers):
        of_layer: list[UnitGroup] = []
        if config.num_heads[index]:
            of_layer += attention_groups(f"layers.{index}.", config.num_heads[index], config.head_dim, config.d_model)
        if config.ffn_dim[index]:
            of_layer += ffn_groups(f"layers.{index}.", "ffn", config.ffn_dim[index], config.d_model)
        groups += [replace(group, layer=index) for group in of_layer]
    return [*groups, _width_group(config)] if width else groups


def _width_group(config: LanguageModelConfig) -> UnitGroup:
    """Return the group of the channels of the residual stream, embedding and output layer included.

    Its masks act on weight and bias of the norms, behind which everything reads the stream. What writes it needs none:
    the norms do not see closed channels.
    """
    readers, writers, norms = [], [], []
    for index in range(config.num_layers):
        for module, sizes, layers in (("attention", config.num_heads, _ATTENTION), ("ffn", config.ffn_dim, _FFN)):
            if sizes[index]:
                name = f"layers.{index}.{module}"
                readers.append(f"{name}.{layers[0]}")
                writers.append(f"{name}.{layers[1]}")
                norms.append(f"{name}_norm")
    group = stream_group("", config.d_model, norms=[*norms, "norm"], writers=writers, readers=readers)
    group = replace(group, slices=(*group.slices, Span("embedding.weight", 1)))
    return group if config.tied else read_by(group, ["output"])


def cost_terms(config: LanguageModelConfig, tokens: int, width: bool = False) -> list[CostTerm]:
    """Return the cost terms of the blocks for a sentence of ``tokens`` tokens; the embedding is not counted.

    The matrix products of attention are counted in full, as kernels compute them, not only the causal half. With
    ``width``, the terms multiply the count of the residual width instead of ``d_model``.
    """
    terms: list[CostTerm] = []
    wide, d = ((WIDTH,), 1) if width else ((), config.d_model)
    h = config.head_dim
    for index in range(config.num_layers):
        if config.num_heads[index]:
            module = f"layers.{index}.attention"
            unit, rest = (module, f"{module}.heads"), (3 * h, 2 * tokens * tokens * h)
            terms += unit_terms("attention", unit, wide, (4 * d * h, 4 * tokens * d * h), rest)
            terms.append(CostTerm("attention", (module, *wide), 3 * d, 0))  # output bias and norm
        if config.ffn_dim[index]:
            module = f"layers.{index}.ffn"
            terms += unit_terms("ffn", (module, f"{module}.hidden"), wide, (2 * d, 2 * tokens * d), (1, 0))
            terms.append(CostTerm("ffn", (module, *wide), 3 * d, 0))
    return [*terms, CostTerm("norm", wide, 2 * d, 0)]


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
    d = structure.count(WIDTH) if WIDTH in structure.groups else config.d_model
    return replace(config, d_model=d, num_heads=heads, ffn_dim=hidden)
