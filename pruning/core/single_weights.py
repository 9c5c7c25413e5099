"""Unstructured pruning: every weight of a network's linear layers is a unit of its own.

A weight that is zero saves no time in dense kernels, and saves memory only in a sparse or compressed file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pruning.core.cost import CostModel, CostTerm
from pruning.core.low_rank import factorable
from pruning.core.prunable import prunable
from pruning.core.structure import Structure
from pruning.core.units import Span, UnitGroup

KIND = "weights"


class SingleWeights:
    """View of a network whose units are single weights; implements `pruning.core.prunable.Prunable`.

    Args:
        model: a network that declares its linear layers.

    Raises:
        UserError: it does not.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self._layers, self._whole = model, factorable(model), prunable(model)

    def unit_groups(self) -> list[UnitGroup]:
        """Return one group for the matrix of each linear layer."""
        groups = []
        for layer in self._layers.linear_layers(1):
            name = f"{layer.name}.weight"
            weight = self.model.get_parameter(name)
            groups.append(UnitGroup(f"{name}s", KIND, weight.numel(), (Span(name, None),), rows=len(weight)))
        return groups

    def cost_terms(self, frames: int) -> list[CostTerm]:
        """Return the network's cost terms with matrices counted by weights: MACs are those of a sparse kernel."""
        whole = CostModel(self._whole.unit_groups(), self._whole.cost_terms(frames))
        constant = whole.by_kind(whole.dense_counts())
        terms = []
        for layer in self._layers.linear_layers(frames):
            weights = self.model.get_parameter(f"{layer.name}.weight").numel()
            constant[layer.kind]["size"] -= weights
            constant[layer.kind]["macs"] -= weights * layer.calls
            terms.append(CostTerm(layer.kind, (f"{layer.name}.weights",), 1, layer.calls))
        return [CostTerm(kind, (), row["size"], row["macs"]) for kind, row in constant.items()] + terms

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the outputs of the network's own probe."""
        return self._whole.probe(generator)

    def shrink(self, structure: Structure) -> nn.Module:
        """Return a network of the same shapes, in which removed weights will be zero."""
        ranks: Mapping[str, int] = getattr(self.model.config, "ranks", {})
        return self._layers.with_ranks(ranks)


def hold_zeros(model: nn.Module) -> None:
    """Block the gradient of the weights of linear layers that are zero, so that they stay zero with any optimiser."""
    for layer in SingleWeights(model).unit_groups():
        weight = model.get_parameter(layer.masks[0].tensor)
        weight.register_hook(_Kept((weight != 0).detach()))


class _Kept:
    """Zeroes the gradient where ``kept`` is False; the first call moves ``kept`` to the device of the gradient."""

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept

    def __call__(self, gradient: Tensor) -> Tensor:
        self.kept = self.kept.to(gradient.device)
        return gradient * self.kept


def is_of_single_weights(structure: Structure) -> bool:
    """Return whether the units of a structure are single weights."""
    return any(group.kind == KIND for group in structure.groups.values())
