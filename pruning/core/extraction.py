"""Extraction: cut closed units out of a masked network, which gives a smaller one with the same outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pruning.core.masking import expand_mask
from pruning.core.prunable import plain_groups, plain_state
from pruning.core.structure import Structure
from pruning.core.units import Product, UnitGroup, check_groups
from pruning.core.views import view_of


def cut_tensors(state: Mapping[str, Tensor], groups: Sequence[UnitGroup], structure: Structure) -> dict[str, Tensor]:
    """Fold soft masks into the weights that follow, drop removed modules, and select the kept entries of the rest.

    Args:
        state: ``state_dict`` of the network.
        groups: unit groups of the network.
        structure: units to keep; must be resolved.

    Returns:
        The ``state_dict`` of the smaller network; the tensors are copies.
    """
    shared = {prefix for group in groups for prefix in group.shares}
    for group in groups:
        if structure.count(group.name):
            shared -= set(group.shares)
    removed = (*shared, *(prefix for g in groups if not structure.count(g.name) for prefix in g.removes))
    result = {name: tensor.detach().clone() for name, tensor in state.items() if not name.startswith(removed)}
    masks = structure.masks()
    for group in groups:
        if group.name in masks:
            for span in group.masks:
                if span.tensor in result:
                    tensor = result[span.tensor]
                    result[span.tensor] = tensor * expand_mask(masks[group.name].to(tensor), span, tensor.shape)
    keep_indices: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        kept = structure.groups[group.name].kept
        if len(kept) == group.size or not group.slices:
            continue
        gone = torch.tensor(sorted(set(range(group.size)) - set(kept)), dtype=torch.long)
        for span in group.slices:
            if span.tensor in result and span.dim is not None:
                key = (span.tensor, span.dim)
                keep = keep_indices.setdefault(key, torch.ones(result[span.tensor].shape[span.dim], dtype=torch.bool))
                keep[span.indices(gone)] = False
    for (name, dim), keep in keep_indices.items():
        result[name] = result[name].index_select(dim, torch.nonzero(keep).flatten().to(result[name].device))
    for group in groups:
        if group.product is not None and structure.count(group.name) == group.size:
            _multiply(result, group.product)
    return result


def _multiply(state: dict[str, Tensor], product: Product) -> None:
    """Replace two factors by their product."""
    left, right = state.pop(product.left), state.pop(product.right)
    state[product.whole] = (left.double() @ right.double()).to(left)
    if product.bias in state:
        state[product.whole_bias] = state.pop(product.bias)


def extract(model: nn.Module, structure: Structure) -> nn.Module:
    """Return the smaller network that computes what ``model`` computes under ``structure.masks()``.

    In evaluation mode the outputs agree up to rounding. The new network takes over the training mode and the device of
    ``model`` and shares no memory with it.

    Raises:
        UserError: the structure does not belong to this network.
        RuntimeError: the network's declaration is wrong (names or shapes do not match after cutting).
    """
    prunable = view_of(model, structure)
    groups = prunable.unit_groups()
    check_groups(model, groups)
    structure.check_fits(groups)
    structure = structure.resolved(groups)
    parameter = next(model.parameters())
    small = prunable.shrink(structure).to(dtype=parameter.dtype)
    tensors = cut_tensors(plain_state(model), plain_groups(prunable), structure)
    shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
    for product in (group.product for group in groups if group.product is not None):
        if product.whole in tensors:  # a convolution of kernel size 1 has one more axis than its matrix
            tensors[product.whole] = tensors[product.whole].reshape(shapes[product.whole])
    small.load_state_dict(tensors, strict=True)
    return small.to(device=parameter.device).train(model.training)
