"""Block influence: how much each layer changes the stream (ShortGPT, arXiv 2403.03853, section 3.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core.precision import at_least_float32
from pruning.core.selection import Selection
from pruning.core.units import UnitGroup

_LAYER = re.compile(r".*\blayers\.\d+(?=\.)")


def layer_of(group: UnitGroup) -> str:
    """Return the name of the module that is the layer of a group; empty: the group is in no layer."""
    found = None if group.layer is None else _LAYER.match(group.name)
    return "" if found is None else found[0]


def layers_of(groups: Iterable[UnitGroup]) -> list[str]:
    """Return the names of the layers of groups, in order."""
    return [name for name in dict.fromkeys(map(layer_of, groups)) if name]


def influence(before: Tensor, after: Tensor) -> Tensor:
    """Return 1 - the mean cosine between a layer's inputs and outputs ``(..., D)``, a scalar (equation 1)."""
    before, after = at_least_float32(before), at_least_float32(after)
    return 1 - nn.functional.cosine_similarity(before, after, dim=-1).mean()


@contextmanager
def observed_layers(model: nn.Module, selection: Selection, totals: dict[str, Tensor]) -> Iterator[None]:
    """While open, sum up the influence of each layer in each forward pass.

    Args:
        model: a network that calls its layers as modules, which map a stream, their first input, to the stream.
        selection: the units, whose layers are observed.
        totals: filled with name of a layer -> ``(2,)`` float64: the sum, then the number of calls. Padding frames count
            like the other frames.
    """
    handles = []
    for name in layers_of(selection.chosen):

        def see(_: nn.Module, inputs: tuple[Any, ...], output: Tensor, name: str = name) -> None:
            found = influence(inputs[0].detach(), output.detach()).double()
            counted = torch.stack([found, found.new_ones(())])
            totals[name] = totals[name] + counted if name in totals else counted

        handles.append(model.get_submodule(name).register_forward_hook(see))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
