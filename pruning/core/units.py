"""Unit groups: what in a network can be removed, said once for every method.

A network that can be pruned declares its groups and its cost beside its own code (see `pruning.core.prunable`). Masks
multiply the *weights that follow* a unit instead of its activations: the mathematics is the same, it works inside fused
attention code where hooks do not fire, and it costs no memory for activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Optional

import torch
from torch import Tensor, nn

COMPONENTS = "components"
"""The kind of the rank-1 components of factored layers."""


@dataclass(frozen=True)
class Span:
    """Where a group's units lie in one tensor: unit ``i`` owns ``width`` entries of ``dim`` from ``offset + i width``.

    Attributes:
        tensor: name of the parameter or buffer in the network's ``state_dict``.
        dim: the axis; None: units are single entries of the tensor, in the order of its memory.
        width: entries that one unit owns, contiguous.
        offset: first entry of unit 0 (the second half of a gated linear unit starts at ``offset = channels``).
    """

    tensor: str
    dim: Optional[int]
    width: int = 1
    offset: int = 0

    def indices(self, units: Tensor) -> Tensor:
        """Entries of ``dim`` that ``units (K,)`` own, ``(K * width,)``, in the order of ``units``."""
        first = units * self.width + self.offset
        return (first[:, None] + torch.arange(self.width, device=units.device)[None, :]).reshape(-1)


@dataclass(frozen=True)
class Product:
    """A matrix that is kept as ``left @ right``, and is one tensor again where nothing of it goes.

    Attributes:
        left, right: names of the factors, ``(out, rank)`` and ``(rank, in)``.
        whole: name of the tensor that takes their place.
        bias, whole_bias: what its bias, if it has one, is called in either form.
    """

    left: str
    right: str
    whole: str
    bias: str
    whole_bias: str


@dataclass(frozen=True)
class UnitGroup:
    """A named set of like units that can be removed from a network.

    Attributes:
        name: unique in its network, e.g. ``encoder.layers.3.attention.heads``.
        kind: what the units are, e.g. ``heads``; methods switch kinds on and off and reports sum over them.
        size: number of units.
        masks: parameters (weights that follow) which a mask of the group multiplies.
        slices: tensors that lose entries when a unit goes.
        parent: name of the module group (size 1) that these units are inside of. A unit is kept when its own gate
            and its module's gate are open.
        minimum: units that must stay.
        removes: prefixes of tensor names that go as a whole when the (single) unit of a module group goes.
        layer: number, from 0, of the layer that it is a part of; None: of none.
        worthwhile: the largest count below ``size`` that saves anything; a group that would keep more is kept whole.
            None: every unit that goes saves something.
        rows: of single entries of a matrix: its outputs, each of which may be ranked on its own.
        product: of the components of a factored matrix: what it becomes when all of them are kept.
        norms: names of `torch.nn.LayerNorm` modules that normalise over exactly these units; while a mask acts, they
            normalise over what it keeps, as they will when the rest is gone.
    """

    name: str
    kind: str
    size: int
    masks: tuple[Span, ...]
    slices: tuple[Span, ...] = ()
    parent: Optional[str] = None
    minimum: int = 0
    removes: tuple[str, ...] = ()
    layer: Optional[int] = None
    worthwhile: Optional[int] = None
    rows: Optional[int] = None
    product: Optional[Product] = None
    norms: tuple[str, ...] = ()

    @property
    def single(self) -> bool:
        """Whether its units are single entries of a tensor."""
        return bool(self.masks) and self.masks[0].dim is None

    def settled(self, count: int) -> int:
        """The count that a network keeps where ``count`` units are to stay."""
        return self.size if self.worthwhile is not None and count > self.worthwhile else count

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.minimum <= self.size:
            raise ValueError(f"{self.name}: size {self.size}, minimum {self.minimum}")
        if self.removes and self.size != 1:
            raise ValueError(f"{self.name}: a group that removes modules has one unit, not {self.size}")


def prefixed(group: UnitGroup, prefix: str) -> UnitGroup:
    """The group of a network that is now a part of another one, under names that begin with ``prefix``."""

    def spans(of: Iterable[Span]) -> tuple[Span, ...]:
        return tuple(replace(span, tensor=f"{prefix}{span.tensor}") for span in of)

    product = group.product
    if product is not None:
        names = {field: f"{prefix}{name}" for field, name in vars(product).items()}
        product = Product(**names)
    return replace(
        group,
        name=f"{prefix}{group.name}",
        masks=spans(group.masks),
        slices=spans(group.slices),
        parent=None if group.parent is None else f"{prefix}{group.parent}",
        removes=tuple(f"{prefix}{name}" for name in group.removes),
        product=product,
        norms=tuple(f"{prefix}{name}" for name in group.norms),
    )


def check_groups(model: nn.Module, groups: Sequence[UnitGroup]) -> None:
    """Check a declaration against the network that it describes.

    Raises:
        ValueError: a name occurs twice, a parent is missing or comes late, a span does not fit its tensor, or a norm
            normalises over something else.
    """
    tensors = model.state_dict()
    seen: set[str] = set()
    for group in groups:
        if group.name in seen:
            raise ValueError(f"unit group {group.name} is declared twice")
        if group.parent is not None and group.parent not in seen:
            raise ValueError(f"{group.name}: its parent {group.parent} is not declared before it")
        seen.add(group.name)
        for span in (*group.masks, *group.slices):
            if span.tensor not in tensors:
                raise ValueError(f"{group.name}: the network has no tensor {span.tensor}")
            shape = tuple(tensors[span.tensor].shape)
            if span.dim is None:
                shape, span = (tensors[span.tensor].numel(),), replace(span, dim=0)
            assert span.dim is not None
            if span.dim >= len(shape) or span.offset + group.size * span.width > shape[span.dim]:
                raise ValueError(f"{group.name}: {group.size} units of {span} exceed the shape {shape}")
        for name in group.norms:
            norm = model.get_submodule(name)
            if not isinstance(norm, nn.LayerNorm) or tuple(norm.normalized_shape) != (group.size,):
                raise ValueError(f"{group.name}: {name} is no LayerNorm over {group.size} units")
        for prefix in group.removes:
            if not any(name.startswith(prefix) for name in tensors):
                raise ValueError(f"{group.name}: no tensor starts with {prefix}")


def unit_kinds(groups: Iterable[UnitGroup]) -> list[str]:
    """Kinds of units, in order; those of whole modules that have units inside are left out."""
    groups = list(groups)
    parents = {group.parent for group in groups}
    return list(dict.fromkeys(group.kind for group in groups if group.name not in parents))


def select_kinds(groups: Iterable[UnitGroup], kinds: Optional[Sequence[str]]) -> list[UnitGroup]:
    """The groups of the given ``kinds`` (all of them for None), in order.

    Raises:
        ValueError: a kind that the network does not have.
    """
    groups = list(groups)
    if kinds is None:
        return groups
    known = {group.kind for group in groups}
    for kind in kinds:
        if kind not in known:
            raise ValueError(f"the network has no units of kind {kind!r}; it has {', '.join(sorted(known))}")
    return [group for group in groups if group.kind in kinds]
