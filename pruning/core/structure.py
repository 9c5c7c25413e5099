"""A structure: which units of every group are kept. Small, JSON, printable, roundable, and fed back to any command."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import torch
from torch import Tensor

from pruning.core.bits import Bits
from pruning.core.units import COMPONENTS, UnitGroup
from pruning.errors import UserError


@dataclass(frozen=True)
class KeptUnits:
    """The kept units of one group.

    Attributes:
        kind, size: as in the group.
        kept: indices of the kept units, ascending: a tuple, or `Bits` where units are single weights.
        scale: factor of each kept unit (soft gates), or None for 1; folded into weights at extraction.
        scores: a score of every unit of the group, larger is more worth keeping, or None; rounding needs it.
    """

    kind: str
    size: int
    kept: Sequence[int]
    scale: Optional[tuple[float, ...]] = None
    scores: Optional[tuple[float, ...]] = None

    def mask(self) -> Tensor:
        """``(size,)`` float32: 0 for removed units, the scale for kept ones."""
        if isinstance(self.kept, Bits):
            return self.kept.bits.float()
        mask = torch.zeros(self.size)
        if self.kept:
            values = torch.ones(len(self.kept)) if self.scale is None else torch.tensor(self.scale)
            mask[torch.tensor(self.kept)] = values
        return mask

    def with_kept(self, kept: Sequence[int]) -> KeptUnits:
        """The same group with other units kept; a unit that was kept before keeps its scale, others get 1."""
        kept = tuple(sorted(kept))
        if self.scale is None:
            return replace(self, kept=kept)
        old = dict(zip(self.kept, self.scale))
        return replace(self, kept=kept, scale=tuple(old.get(unit, 1.0) for unit in kept))


def _all(group: UnitGroup) -> Sequence[int]:
    return Bits(torch.ones(group.size)) if group.single else tuple(range(group.size))


def _kept_units(value: Any, size: int) -> Sequence[int]:
    """Of a JSON value: a list of indices, or bits."""
    if isinstance(value, Mapping):
        return Bits.from_text(value["bits"], size)
    return tuple(int(unit) for unit in value)


@dataclass(frozen=True)
class Structure:
    """Kept units of every group of a network, by group name."""

    groups: Mapping[str, KeptUnits] = field(default_factory=dict)

    @classmethod
    def dense(cls, groups: Sequence[UnitGroup]) -> Structure:
        """Everything kept."""
        return cls({group.name: KeptUnits(group.kind, group.size, _all(group)) for group in groups})

    @classmethod
    def from_masks(cls, groups: Sequence[UnitGroup], masks: Mapping[str, Tensor]) -> Structure:
        """The structure of 0/positive ``masks`` (group name -> ``(size,)``); groups without a mask are kept whole."""
        kept: dict[str, KeptUnits] = {}
        for group in groups:
            mask = masks.get(group.name)
            if mask is None:
                kept[group.name] = KeptUnits(group.kind, group.size, _all(group))
                continue
            units = [int(unit) for unit in torch.nonzero(mask > 0).flatten()]
            scale = tuple(float(mask[unit]) for unit in units)
            kept[group.name] = KeptUnits(
                group.kind, group.size, tuple(units), None if all(s == 1.0 for s in scale) else scale
            )
        return cls(kept).resolved(groups)

    def count(self, name: str) -> int:
        """Units kept of group ``name``."""
        return len(self.groups[name].kept)

    def masks(self) -> dict[str, Tensor]:
        """Masks of all groups that are not kept whole at scale 1, group name -> ``(size,)``."""
        return {
            name: group.mask()
            for name, group in self.groups.items()
            if len(group.kept) < group.size or group.scale is not None
        }

    def resolved(self, groups: Sequence[UnitGroup]) -> Structure:
        """Close a module whose units are all closed, and the units of a closed module.

        So the bias of an emptied module goes with it, in the masked network as in the extracted one.
        """
        kept = dict(self.groups)
        for group in groups:
            if group.parent is not None and not kept[group.name].kept:
                kept[group.parent] = kept[group.parent].with_kept(())
        for group in groups:
            if group.parent is not None and not kept[group.parent].kept:
                kept[group.name] = kept[group.name].with_kept(())
        return Structure(kept)

    def rounded(self, multiple: int, groups: Sequence[UnitGroup], kinds: Optional[Sequence[str]] = None) -> Structure:
        """Kept counts rounded to the nearest multiple, by score, of components down; a kept group never to nothing.

        Args:
            multiple: e.g. 8, for kernels that like regular shapes.
            groups: the network's groups.
            kinds: kinds to round; None for every kind whose groups have at least ``2 * multiple`` units.

        Raises:
            UserError: a group has no scores to choose units by.
        """
        if multiple < 1:
            raise UserError(f"cannot round to multiples of {multiple}", "give a positive whole number")
        result = dict(self.groups)
        for group in groups:
            units = result[group.name]
            chosen = group.kind in kinds if kinds is not None else group.size >= 2 * multiple
            if not chosen or group.single or not units.kept or len(units.kept) % multiple == 0:
                continue
            scores = units.scores
            if scores is None:
                raise UserError(f"the structure has no scores for {group.name}", "make it with a pruning command")
            up = 0.0 if group.kind == COMPONENTS else 0.5  # components that went are zero, and cannot come back
            count = max(multiple, int(len(units.kept) / multiple + up) * multiple)
            if group.kind == COMPONENTS and (count > len(units.kept) or len(units.kept) == units.size):
                continue
            count = min(count, units.size)
            order = sorted(range(units.size), key=lambda unit: (unit not in units.kept, -scores[unit]))
            if count <= len(units.kept):
                order = sorted(units.kept, key=lambda unit: -scores[unit])
            result[group.name] = units.with_kept(order[:count])
        return Structure(result).resolved(groups)

    def without_scale(self) -> Structure:
        """The same units at scale 1 (after extraction has folded the scales into weights)."""
        return Structure({name: replace(group, scale=None) for name, group in self.groups.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        result: dict[str, Any] = {}
        for name, group in self.groups.items():
            kept = {"bits": group.kept.to_text()} if isinstance(group.kept, Bits) else list(group.kept)
            row: dict[str, Any] = {"kind": group.kind, "size": group.size, "kept": kept}
            if group.scale is not None:
                row["scale"] = list(group.scale)
            if group.scores is not None:
                row["scores"] = [float(f"{score:.6g}") for score in group.scores]
            result[name] = row
        return {"groups": result}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], source: str = "the structure") -> Structure:
        """The inverse of `to_dict`.

        Raises:
            UserError: not a structure, or units out of range.
        """
        remedy = "give a structure.json written by a pruning command"
        if not isinstance(value, Mapping) or not isinstance(value.get("groups"), Mapping):
            raise UserError(f"{source} has no 'groups'", remedy)
        groups: dict[str, KeptUnits] = {}
        for name, row in value["groups"].items():
            try:
                kept = _kept_units(row["kept"], int(row["size"]))
                scale = tuple(float(s) for s in row["scale"]) if "scale" in row else None
                scores = tuple(float(s) for s in row["scores"]) if "scores" in row else None
                units = KeptUnits(str(row["kind"]), int(row["size"]), kept, scale, scores)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"group {name} of {source} is malformed ({error!r})", remedy) from None
            fits = (scale is None or len(scale) == len(kept)) and (scores is None or len(scores) == units.size)
            in_range = not kept or 0 <= kept[0] <= kept[-1] < units.size
            ascending = isinstance(kept, Bits) or list(kept) == sorted(set(kept))
            if any(not 0 < factor < math.inf for factor in scale or ()) or any(map(math.isnan, scores or ())):
                raise UserError(f"group {name} of {source} has scales or scores that are none", remedy)
            if not ascending or not in_range or not fits:
                raise UserError(f"group {name} of {source} keeps units that do not fit its size {units.size}", remedy)
            groups[name] = units
        return cls(groups)

    def check_fits(self, groups: Sequence[UnitGroup], source: str = "the structure") -> None:
        """Check that this is a structure of the network with ``groups``.

        Raises:
            UserError: groups are missing, unknown, or of another size; or fewer units are kept than must be.
        """
        remedy = "use the structure of a network with the same dimensions"
        expected = {group.name: group.size for group in groups}
        for name in expected.keys() ^ self.groups.keys():
            raise UserError(f"{source} and the network differ in the unit group {name}", remedy)
        for name, size in expected.items():
            if self.groups[name].size != size:
                raise UserError(f"{source} has {self.groups[name].size} units in {name}, the network {size}", remedy)
        for group in groups:
            gone = group.parent is not None and not self.count(group.parent)
            if self.count(group.name) < group.minimum and not gone:
                raise UserError(f"{source} keeps {self.count(group.name)} units in {group.name}, where at least "
                                f"{group.minimum} must stay", "keep more of them")  # fmt: skip

    def lines(self) -> list[str]:
        """One line a group, for people: ``encoder.layers.0.ffn1.hidden  ffn  312/576``."""
        width = max((len(name) for name in self.groups), default=0)
        return [f"{name:<{width}}  {g.kind:<12} {len(g.kept):>5}/{g.size}" for name, g in self.groups.items()]
