"""Unit groups and costs of a Transformer language model.

Unit kinds: ``heads`` (of queries) and ``ffn``; where query heads share keys and values also ``head_groups``: a
key/value head with its query heads; for whole modules: ``attention_module``, ``ffn_module``. On request also ``width``:
the channels of the residual stream.
"""

from __future__ import annotations

from dataclasses import replace

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, Span, UnitGroup
from pruning.models.module_units import (
    attention_groups,
    ffn_groups,
    read_by,
    shared_attention_groups,
    stream_group,
    unit_terms,
)
from pruning.models.transformer_lm_config import FIRST, IN, LAYER, OUT, SECOND, LanguageModelConfig

_ATTENTION, _FFN = (IN, OUT), (FIRST, SECOND)


def unit_groups(config: LanguageModelConfig, width: bool = False) -> list[UnitGroup]:
    """Return the unit groups of the blocks, for the modules that exist; with ``width``, also the residual width."""
    groups: list[UnitGroup] = []
    for index in range(config.num_layers):
        of_layer: list[UnitGroup] = []
        if config.num_heads[index]:
            of_layer += _attention_groups(config, index)
        if config.ffn_dim[index]:
            of_layer += ffn_groups(f"layers.{index}.", "ffn", config.ffn_dim[index], config.d_model, _FFN,
                                   gated=config.gated, biased=config.biased)  # fmt: skip
        groups += [replace(group, layer=index) for group in of_layer]
    return [*groups, _width_group(config)] if width else groups


def _attention_groups(config: LanguageModelConfig, index: int) -> list[UnitGroup]:
    layer, d, size, shared = f"layers.{index}.", config.d_model, config.head_dim, config.shared(index)
    if _is_shared(config, index):
        return shared_attention_groups(layer, shared, size, d, config.biased)
    return attention_groups(layer, len(shared), size, d, biased=config.biased)


def _is_shared(config: LanguageModelConfig, index: int) -> bool:
    """Return whether query heads of a layer share keys and values."""
    return len(config.shared(index)) < config.num_heads[index]


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
    norms.append("norm")
    unbiased = [name for name in writers if name.rpartition(".")[2] not in config.biased]
    unbiased += norms if config.norm != LAYER else []
    group = stream_group("", config.d_model, norms, writers, readers, unbiased=unbiased)
    group = replace(group, slices=(*group.slices, Span("embedding.weight", 1)))
    return group if config.tied else read_by(group, ["output"])


def cost_terms(config: LanguageModelConfig, tokens: int, width: bool = False) -> list[CostTerm]:
    """Return the cost terms of the blocks for a sentence of ``tokens`` tokens; the embedding is not counted.

    The matrix products of attention are counted in full, as kernels compute them, not only the causal half. With
    ``width``, the terms multiply the count of the residual width instead of ``d_model``.
    """
    terms: list[CostTerm] = []
    wide, d = ((WIDTH,), 1) if width else ((), config.d_model)
    norm = 2 if config.norm == LAYER else 1  # vectors
    for index in range(config.num_layers):
        if config.num_heads[index]:
            terms += _attention_terms(config, index, tokens, wide, d)
            own = (int(OUT in config.biased) + norm) * d
            terms.append(CostTerm("attention", (f"layers.{index}.attention", *wide), own, 0))
        if config.ffn_dim[index]:
            module, parts = f"layers.{index}.ffn", 3 if config.gated else 2
            biases = (parts - 1) * int(FIRST in config.biased)
            terms += unit_terms("ffn", (module, f"{module}.hidden"), wide, (parts * d, parts * tokens * d), (biases, 0))
            terms.append(CostTerm("ffn", (module, *wide), (int(SECOND in config.biased) + norm) * d, 0))
    return [*terms, CostTerm("norm", wide, norm * d, 0)]


def _attention_terms(
    config: LanguageModelConfig, index: int, tokens: int, wide: tuple[str, ...], d: int
) -> list[CostTerm]:
    """Return the terms of the heads of a layer; ``wide`` and ``d``: name and size of a channel of the stream."""
    module, h, bias = f"layers.{index}.attention", config.head_dim, int(IN in config.biased)
    products = 2 * tokens * tokens * h
    if not _is_shared(config, index):
        unit = (module, f"{module}.heads")
        return unit_terms("attention", unit, wide, (4 * d * h, 4 * tokens * d * h), (3 * bias * h, products))
    terms: list[CostTerm] = []
    for group in (f"{module}.groups.{number}" for number in range(len(config.shared(index)))):
        of_width = (2 * d * h, 2 * tokens * d * h)  # keys and values; a query and its part of the output layer
        terms += unit_terms("attention", (module, group), wide, of_width, (2 * bias * h, 0))
        terms += unit_terms("attention", (module, group, f"{group}.heads"), wide, of_width, (bias * h, products))
    return terms


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
    shared = tuple(_kept_sharing(config, index, structure) for index in range(config.num_layers))
    hidden = tuple(structure.count(f"layers.{i}.ffn.hidden") if size else 0 for i, size in enumerate(config.ffn_dim))
    d = structure.count(WIDTH) if WIDTH in structure.groups else config.d_model
    return replace(config, d_model=d, num_heads=tuple(map(sum, shared)), ffn_dim=hidden, shared_by=shared)


def _kept_sharing(config: LanguageModelConfig, index: int, structure: Structure) -> tuple[int, ...]:
    """Return the number of query heads of each key/value head that a layer keeps."""
    name, shared = f"layers.{index}.attention", config.shared(index)
    if not shared:
        return ()
    if not _is_shared(config, index):
        return (1,) * structure.count(f"{name}.heads")
    counts = [structure.count(f"{name}.groups.{group}.heads") for group in range(len(shared))]
    return tuple(count for count in counts if count)
