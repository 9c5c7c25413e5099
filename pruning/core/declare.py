"""Declare the units of any network from outside: which layers write them, and which layers read them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from torch import Tensor, nn

from pruning.core.units import Span, UnitGroup

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class DeclaredUnits:
    """A unit group, and what changes in the network beside its tensors when units go.

    Attributes:
        group: the units.
        counts: dotted names of attributes of modules that hold the number of units, such as ``attention.num_heads``.
        products: names of the layers that make queries and keys, if the units are heads of attention; None: the units
            take part only in products with weights.
        product_width: multiply-accumulates of one head for one query and one key: the width of a key and of a value.
    """

    group: UnitGroup
    counts: tuple[str, ...] = ()
    products: Optional[tuple[str, str]] = None
    product_width: int = 0


def linear_units(
    model: nn.Module,
    name: str,
    writers: Sequence[str],
    readers: Sequence[str],
    between: Sequence[str] = (),
    kind: str = "ffn",
    minimum: int = 1,
    layer: Optional[int] = None,
) -> DeclaredUnits:
    """Declare the hidden units between linear layers.

    Args:
        model: the network.
        name: name of the group, unique in the network.
        writers: names of the layers whose outputs are the units.
        readers: names of the layers whose inputs are the units. A reader may have several inputs for each unit, one
            after the other, as a linear layer behind a flattened convolution does.
        between: names of layers that work on each unit alone: batch norms, depthwise convolutions; or layer norms over
            just these units.
        kind: unit kind, by which methods and reports name the group.
        minimum: number of units that must stay.
        layer: number of the layer that the group belongs to, from 0, for the ranking by layers.

    Raises:
        ValueError: a layer does not exist, or its shape does not fit the others.
    """
    size = _outputs(model, writers[0]) if writers and not isinstance(writers, str) else 0
    return _between(model, name, kind, size, 1, writers, readers, between, minimum, layer)


def conv_channels(
    model: nn.Module,
    name: str,
    writers: Sequence[str],
    readers: Sequence[str],
    between: Sequence[str] = (),
    kind: str = "convolution",
    minimum: int = 1,
    layer: Optional[int] = None,
) -> DeclaredUnits:
    """Declare the channels between convolutions, or between a convolution and a linear layer.

    Arguments and errors are those of `linear_units`.
    """
    return linear_units(model, name, writers, readers, between, kind, minimum, layer)


def gated_units(
    model: nn.Module,
    name: str,
    gate: str,
    value: str,
    reader: str,
    kind: str = "ffn",
    minimum: int = 1,
    layer: Optional[int] = None,
) -> DeclaredUnits:
    """Declare the units of a gated pair, ``reader(activation(gate(x)) * value(x))``.

    Args:
        model: the network.
        name: name of the group, unique in the network.
        gate: name of the layer that makes the gates.
        value: name of the layer that makes the values; the same name as ``gate`` for one layer that makes both, the
            units of the one half before those of the other (as `torch.nn.functional.glu` splits them).
        reader: name of the layer that reads the products.
        kind: unit kind, by which methods and reports name the group.
        minimum: number of units that must stay.
        layer: number of the layer that the group belongs to, from 0, for the ranking by layers.

    Raises:
        ValueError: a layer does not exist, or its shape does not fit the others.
    """
    if gate != value:
        return linear_units(model, name, [gate, value], [reader], (), kind, minimum, layer)
    outputs = _outputs(model, gate)
    if outputs % 2:
        raise ValueError(f"{name}: {gate} has {outputs} outputs, which are not two equal halves")
    size = outputs // 2
    slices = [*_spans(model, gate, 0, 1), *_spans(model, gate, 0, 1, offset=size)]
    masks = _read(model, name, reader, size)
    return DeclaredUnits(UnitGroup(name, kind, size, tuple(masks), (*slices, *masks), minimum=minimum, layer=layer))


def attention_heads(
    model: nn.Module,
    name: str,
    num_heads: int,
    query: str,
    key: str,
    value: str,
    output: str,
    counts: Sequence[str],
    kind: str = "heads",
    minimum: int = 1,
    layer: Optional[int] = None,
) -> DeclaredUnits:
    """Declare the heads of an attention module whose projections are linear layers of their own.

    Args:
        model: the network.
        name: name of the group, unique in the network.
        num_heads: number of heads.
        query, key, value: names of the layers that make queries, keys and values, head after head.
        output: name of the layer that reads what the heads give, head after head.
        counts: dotted names of the attributes that hold the number of heads, which the module reshapes by. The module
            must keep the width of a head as it is when heads go.
        kind: unit kind, by which methods and reports name the group.
        minimum: number of heads that must stay.
        layer: number of the layer that the group belongs to, from 0, for the ranking by layers.

    Raises:
        ValueError: a layer does not exist, its shape does not fit the others, or an attribute is not ``num_heads``.
    """
    if _outputs(model, query) != _outputs(model, key):
        raise ValueError(f"{name}: {query} and {key} differ in width")
    width = (_outputs(model, key) + _outputs(model, value)) // num_heads
    for count in counts:
        owner, _, attribute = count.rpartition(".")
        if getattr(_module(model, owner), attribute, None) != num_heads:
            raise ValueError(f"{name}: {count} is not {num_heads}, the number of heads")
    found = _between(model, name, kind, num_heads, None, [query, key, value], [output], (), minimum, layer)
    return DeclaredUnits(found.group, tuple(counts), (query, key), width)


def _between(
    model: nn.Module,
    name: str,
    kind: str,
    size: int,
    width: Optional[int],
    writers: Sequence[str],
    readers: Sequence[str],
    between: Sequence[str],
    minimum: int,
    layer: Optional[int],
) -> DeclaredUnits:
    """Units that ``writers`` make, ``width`` outputs each (None: as many as their outputs divide into)."""
    if isinstance(writers, str) or isinstance(readers, str) or isinstance(between, str):
        raise ValueError(f"{name}: writers, readers and between are lists of names, got a string")
    if not writers or not readers:
        raise ValueError(f"{name}: name at least one layer that writes the units and one that reads them")
    slices: list[Span] = []
    norms: list[str] = []
    for writer in writers:
        outputs = _outputs(model, writer)
        if outputs % size or width not in (None, outputs // size):
            raise ValueError(f"{name}: {writer} has {outputs} outputs, not {size} units of {width or 'equal'} width")
        slices += _spans(model, writer, 0, outputs // size)
    for place in between:
        slices += _spans(model, place, 0, 1)
        if _outputs(model, place) != size:
            raise ValueError(f"{name}: {place} works on {_outputs(model, place)} units, not {size}")
        module = _module(model, place)
        if isinstance(module, nn.LayerNorm):
            norms.append(place)
        if isinstance(module, nn.GroupNorm) and module.num_groups != size:
            raise ValueError(f"{name}: {place} normalises several units together, so that none can go alone")
    masks = [span for reader in readers for span in _read(model, name, reader, size)]
    return DeclaredUnits(
        UnitGroup(name, kind, size, tuple(masks), (*slices, *masks), None, minimum, layer=layer, norms=tuple(norms))
    )


def _read(model: nn.Module, name: str, reader: str, size: int) -> list[Span]:
    """Where the units lie in the weight of a layer that reads them."""
    weight = _weight(model, reader)
    if weight.dim() < 2 or getattr(_module(model, reader), "groups", 1) != 1:
        raise ValueError(f"{name}: {reader} has no weight of outputs times inputs")
    dim = 0 if getattr(_module(model, reader), "transposed", False) else 1
    if weight.shape[dim] % size:
        raise ValueError(f"{name}: {reader} has {weight.shape[dim]} inputs, which {size} units do not divide")
    return [Span(f"{reader}.weight", dim, weight.shape[dim] // size)]


def _spans(model: nn.Module, layer: str, dim: int, width: int, offset: int = 0) -> list[Span]:
    """Where the units that a layer makes lie in its tensors."""
    module = _module(model, layer)
    names = ["weight", "bias"]
    if isinstance(module, _NORMS):
        names += ["running_mean", "running_var"]
    if getattr(module, "transposed", False):
        dim = 1
    return [
        Span(f"{layer}.{name}", dim if name == "weight" else 0, width, offset)
        for name in names
        if getattr(module, name, None) is not None
    ]


def _outputs(model: nn.Module, layer: str) -> int:
    module = _module(model, layer)
    weight = _weight(model, layer)
    return weight.shape[1] if getattr(module, "transposed", False) else weight.shape[0]


def _weight(model: nn.Module, layer: str) -> Tensor:
    weight = getattr(_module(model, layer), "weight", None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"{layer} has no weight; name a linear layer, a convolution or a norm")
    return weight


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        close = difflib.get_close_matches(name, [known for known, _ in model.named_modules()], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"the network has no module {name}{hint}") from None
