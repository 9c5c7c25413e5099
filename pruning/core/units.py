"""Unit groups: the parts of a network that can be removed, declared once for all methods.

A network that can be pruned declares its groups and its costs together with its own code (see `pruning.core.prunable`).
Masks multiply the *weights that follow* a unit instead of its activations: the mathematics is the same, it works inside
fused attention code where hooks do not fire, and it needs no memory for activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Optional, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

COMPONENTS = "components"
"""Unit kind of the rank-1 components of factored layers."""
WIDTH = "width"
"""Unit kind of the channels of the residual stream, see `pruning.core.residual_width`."""


@dataclass(frozen=True)
class Span:
    """Location of units in one tensor: unit ``i`` owns ``width`` entries of ``dim`` from ``offset + i width``.

    Attributes:
        tensor: name of the parameter or buffer in the network's ``state_dict``.
        dim: axis of the units; None: units are single entries of the tensor, in memory order.
        width: number of contiguous entries that one unit owns.
        offset: first entry of unit 0 (the second half of a gated linear unit starts at ``offset = channels``).
        repeats, period: how often the entries of all units recur, and after how many entries: dimension ``i`` of
            every head of ``period`` rows is a unit with ``repeats`` = number of heads.
    """

    tensor: str
    dim: Optional[int]
    width: int = 1
    offset: int = 0
    repeats: int = 1
    period: int = 0

    @property
    def entries(self) -> int:
        """Number of entries that one unit owns."""
        return self.width * self.repeats

    def end(self, units: int) -> int:
        """Return the entry after the last one that ``units`` units own."""
        return self.offset + (self.repeats - 1) * self.period + units * self.width

    def indices(self, units: Tensor) -> Tensor:
        """Return the entries of ``dim`` that ``units (K,)`` own, ``(K * entries,)``, in the order of ``units``."""
        first = units * self.width + self.offset
        own = torch.arange(self.width, device=units.device)[None, :]
        again = torch.arange(self.repeats, device=units.device)[:, None] * self.period
        return (first[:, None] + (again + own).reshape(1, -1)).reshape(-1)


@dataclass(frozen=True)
class Product:
    """A matrix that is stored as ``left @ right``, and as one tensor again if all its components are kept.

    Attributes:
        left, right: names of the factors, ``(out, rank)`` and ``(rank, in)``.
        whole: name of the tensor that replaces them.
        bias, whole_bias: names of the bias in the factored and in the whole form; there may be no bias.
    """

    left: str
    right: str
    whole: str
    bias: str
    whole_bias: str


@runtime_checkable
class NormOverUnits(Protocol):
    """A norm that normalises over units and over something else, such as time.

    Attributes:
        units: number of units.
    """

    units: int

    def normalised_over(self, weights: Tensor, *inputs: Tensor) -> Tensor:
        """Apply the norm to the ``inputs`` of its forward method, with units weighted by ``weights (units,)``."""


@dataclass(frozen=True)
class UnitGroup:
    """A named set of like units that can be removed from a network.

    Attributes:
        name: name that is unique in the network, e.g. ``encoder.layers.3.attention.heads``.
        kind: unit kind, e.g. ``heads``; methods switch unit kinds on and off and reports sum over them.
        size: number of units.
        masks: parameters (the weights that follow) that a mask of the group multiplies.
        slices: tensors that lose entries when a unit is removed.
        parent: name of the module group (size 1) that contains these units. A unit is kept if its own gate and its
            module's gate are open. A module may contain several groups, and modules; it is closed when all of them are.
        minimum: number of units that must stay.
        removes: name prefixes of the tensors that are removed with the (single) unit of a module group.
        layer: index, from 0, of the layer that contains the group; None: no layer.
        worthwhile: the largest count below ``size`` that saves anything; a group that would keep more is kept whole.
            None: every removed unit saves something.
        rows: for single entries of a matrix, its number of output rows, each of which may be ranked separately.
        product: for the components of a factored matrix, the matrix that replaces the factors if all are kept.
        norms: names of `torch.nn.LayerNorm` modules, or `NormOverUnits`, that normalise over exactly these units; while
            a mask acts, they normalise over the kept units, as they will after extraction.
        rms_norms: names of modules that divide by a root mean square over exactly these units, closed ones being 0;
            while a mask acts, their mean is over the kept units.
        readers: all weights whose columns read the units, if the masks act elsewhere; empty: the first of ``masks``
            stands for them. Criteria observe them, and repair solves them again.
        users: names of the groups whose units use these units: if all units of all users are removed, so are these.
            Unlike a ``parent``, users stay if these units are removed.
        shares: name prefixes of tensors that several groups share, which are removed with the last of these groups.
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
    rms_norms: tuple[str, ...] = ()
    readers: tuple[Span, ...] = ()
    users: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()

    @property
    def read(self) -> tuple[Span, ...]:
        """Places at which units are read: ``readers``, or the first of ``masks``."""
        return self.readers or self.masks[:1]

    @property
    def single(self) -> bool:
        """Whether the units are single entries of a tensor."""
        return bool(self.masks) and self.masks[0].dim is None

    def settled(self, count: int) -> int:
        """Return the count that the network keeps if ``count`` units are to stay; see ``worthwhile``."""
        return self.size if self.worthwhile is not None and count > self.worthwhile else count

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.minimum <= self.size:
            raise ValueError(f"{self.name}: size must be at least 1 and minimum 0 to size, got size {self.size} and "
                             f"minimum {self.minimum}")  # fmt: skip
        if self.removes and self.size != 1:
            raise ValueError(f"{self.name}: a group that removes modules must have one unit, got {self.size}")


def prefixed(group: UnitGroup, prefix: str) -> UnitGroup:
    """Return the group with all names prefixed, for a network that became a part of another one."""

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
        rms_norms=tuple(f"{prefix}{name}" for name in group.rms_norms),
        readers=spans(group.readers),
        users=tuple(f"{prefix}{name}" for name in group.users),
        shares=tuple(f"{prefix}{name}" for name in group.shares),
    )


def check_groups(model: nn.Module, groups: Sequence[UnitGroup]) -> None:
    """Check the declared groups against the network that they describe.

    Raises:
        ValueError: a name occurs twice, a parent or a user is missing or declared later, a span does not fit its
            tensor, a norm does not exist or does not normalise over the units, or no tensor has a removed prefix.
    """
    tensors = model.state_dict()
    seen: set[str] = set()
    for group in groups:
        if group.name in seen:
            raise ValueError(f"unit group {group.name} is declared twice")
        if group.parent is not None and group.parent not in seen:
            raise ValueError(f"{group.name}: its parent {group.parent} must be declared before it")
        for user in group.users:
            if user not in seen:
                raise ValueError(f"{group.name}: its user {user} must be declared before it")
        seen.add(group.name)
        for span in (*group.masks, *group.slices, *group.readers):
            if span.tensor not in tensors:
                raise ValueError(f"{group.name}: the network has no tensor {span.tensor}")
            shape = tuple(tensors[span.tensor].shape)
            if span.dim is None:
                shape, span = (tensors[span.tensor].numel(),), replace(span, dim=0)
            assert span.dim is not None
            if span.dim >= len(shape) or span.end(group.size) > shape[span.dim]:
                raise ValueError(f"{group.name}: {group.size} units of {span} exceed the shape {shape}")
        for name in group.norms:
            norm = model.get_submodule(name)
            entries = group.size * (group.masks[0].width if group.kind == WIDTH else 1)
            if isinstance(norm, NormOverUnits):
                fits = norm.units == entries
            else:
                fits = isinstance(norm, nn.LayerNorm) and tuple(norm.normalized_shape) == (entries,)
            if not fits:
                raise ValueError(f"{group.name}: {name} is not a LayerNorm over {entries} units")
        modules = dict(model.named_modules()) if group.rms_norms else {}
        for name in group.rms_norms:
            if name not in modules:
                raise ValueError(f"{group.name}: the network has no norm {name}")
        for prefix in (*group.removes, *group.shares):
            if not any(name.startswith(prefix) for name in tensors):
                raise ValueError(f"{group.name}: no tensor starts with {prefix}")


def families(groups: Sequence[UnitGroup]) -> dict[str, list[str]]:
    """Return the groups that each module group contains, by name, in the order of declaration: outer modules first."""
    found: dict[str, list[str]] = {}
    for group in groups:
        if group.parent is not None:
            found.setdefault(group.parent, []).append(group.name)
    order = {group.name: place for place, group in enumerate(groups)}
    return dict(sorted(found.items(), key=lambda family: order[family[0]]))


def unit_kinds(groups: Iterable[UnitGroup]) -> list[str]:
    """Return the unit kinds in order, without those of whole modules and layers that contain other units."""
    groups = list(groups)
    containing = {name for group in groups for name in (group.parent, *group.users)}
    return list(dict.fromkeys(group.kind for group in groups if group.name not in containing))


def select_kinds(groups: Iterable[UnitGroup], kinds: Optional[Sequence[str]]) -> list[UnitGroup]:
    """Return the groups of the given unit kinds in order; None selects all groups.

    Raises:
        ValueError: the network does not have a unit kind of ``kinds``.
    """
    groups = list(groups)
    if kinds is None:
        return groups
    known = {group.kind for group in groups}
    for kind in kinds:
        if kind not in known:
            raise ValueError(f"the network has no units of kind {kind!r}; it has {', '.join(sorted(known))}")
    return [group for group in groups if group.kind in kinds]
