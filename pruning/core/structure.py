"""Structures: the kept units of every group, as small JSON files that every command reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import torch
from torch import Tensor

from pruning.core.bits import Bits
from pruning.core.units import COMPONENTS, WIDTH, UnitGroup, families
from pruning.errors import UserError


@dataclass(frozen=True)
class KeptUnits:
    """The kept units of one group.

    Attributes:
        kind, size: unit kind and number of units of the group.
        kept: indices of the kept units, ascending: a tuple, or `Bits` if units are single weights.
        scale: factor of each kept unit (soft gates), or None for 1; folded into weights at extraction.
        scores: score of every unit of the group, larger is more worth keeping, or None; needed for rounding.
    """

    kind: str
    size: int
    kept: Sequence[int]
    scale: Optional[tuple[float, ...]] = None
    scores: Optional[tuple[float, ...]] = None

    def mask(self) -> Tensor:
        """Return the mask ``(size,)`` float32: 0 for removed units, the scale for kept units."""
        if isinstance(self.kept, Bits):
            return self.kept.bits.float()
        mask = torch.zeros(self.size)
        if self.kept:
            values = torch.ones(len(self.kept)) if self.scale is None else torch.tensor(self.scale)
            mask[torch.tensor(self.kept)] = values
        return mask

    def with_kept(self, kept: Sequence[int]) -> KeptUnits:
        """Return the same group with other units kept; units that were kept before keep their scale, others get 1."""
        kept = tuple(sorted(kept))
        if self.scale is None:
            return replace(self, kept=kept)
        old = dict(zip(self.kept, self.scale))
        return replace(self, kept=kept, scale=tuple(old.get(unit, 1.0) for unit in kept))


def _all(group: UnitGroup) -> Sequence[int]:
    return Bits(torch.ones(group.size)) if group.single else tuple(range(group.size))


def _kept_units(value: Any, size: int) -> Sequence[int]:
    """Read kept units from a JSON value: a list of indices, or bits."""
    if isinstance(value, Mapping):
        return Bits.from_text(value["bits"], size)
    return tuple(int(unit) for unit in value)


@dataclass(frozen=True)
class Structure:
    """Kept units of every group of a network, by group name."""

    groups: Mapping[str, KeptUnits] = field(default_factory=dict)

    @classmethod
    def dense(cls, groups: Sequence[UnitGroup]) -> Structure:
        """Return the structure that keeps all units."""
        return cls({group.name: KeptUnits(group.kind, group.size, _all(group)) for group in groups})

    @classmethod
    def from_masks(cls, groups: Sequence[UnitGroup], masks: Mapping[str, Tensor]) -> Structure:
        """Build a structure from masks (group name -> ``(size,)``): units with a positive value are kept.

        Groups without a mask are kept whole.
        """
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
        """Return the number of units kept in group ``name``."""
        return len(self.groups[name].kept)

    def masks(self) -> dict[str, Tensor]:
        """Return masks, group name -> ``(size,)``, of all groups that are not kept whole at scale 1."""
        return {
            name: group.mask()
            for name, group in self.groups.items()
            if len(group.kept) < group.size or group.scale is not None
        }

    def after(self, earlier: Structure) -> Structure:
        """Return what both cuts keep of the network before the first one.

        Args:
            earlier: structure that was cut out first; this one was cut out of what it left.
        """
        kept = {name: replace(self.groups[name], size=group.size, scores=None,
                              kept=tuple(group.kept[unit] for unit in self.groups[name].kept))
                if name in self.groups else group for name, group in earlier.groups.items()}  # fmt: skip
        return Structure({**self.groups, **kept})

    def resolved(self, groups: Sequence[UnitGroup]) -> Structure:
        """Close each module whose units are all closed, all units of each closed module, and units without users.

        This removes the bias of an empty module in the masked network as in the extracted one.
        """
        kept = dict(self.groups)
        for module, contents in reversed(families(groups).items()):
            if not any(kept[name].kept for name in contents):
                kept[module] = kept[module].with_kept(())
        for group in groups:
            if group.users and not any(kept[user].kept for user in group.users):
                kept[group.name] = kept[group.name].with_kept(())
        for group in groups:
            if group.parent is not None and not kept[group.parent].kept:
                kept[group.name] = kept[group.name].with_kept(())
        return Structure(kept)

    def rounded(self, multiple: int, groups: Sequence[UnitGroup], kinds: Optional[Sequence[str]] = None) -> Structure:
        """Round the kept counts to the nearest multiple, choosing units by score.

        Components are rounded down. A group that keeps units never becomes empty.

        Args:
            multiple: multiple to round to, e.g. 8 for kernels that need regular shapes.
            groups: unit groups of the network.
            kinds: unit kinds to round; None for every group with at least ``2 * multiple`` units.

        Raises:
            UserError: ``multiple`` is below 1, or a group has no scores to choose units by.
        """
        if multiple < 1:
            raise UserError(f"the multiple to round to must be at least 1, got {multiple}", "give a positive integer")
        result = dict(self.groups)
        for group in groups:
            units = result[group.name]
            chosen = group.kind in kinds if kinds is not None else group.size >= 2 * multiple
            regular = group.kind == WIDTH and group.masks[0].width % multiple == 0  # units of several channels
            if not chosen or regular or group.single or not units.kept or len(units.kept) % multiple == 0:
                continue
            scores = units.scores
            if scores is None:
                raise UserError(f"the structure has no scores for {group.name}", "create it with a pruning command")
            up = 0.0 if group.kind == COMPONENTS else 0.5  # removed components are zero and cannot be restored
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
        """Return the same units at scale 1, as after extraction, which folds the scales into weights."""
        return Structure({name: replace(group, scale=None) for name, group in self.groups.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
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
        """Build a structure from the output of `to_dict`.

        Raises:
            UserError: the value is not a structure, or units are out of range.
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
                raise UserError(f"group {name} of {source} has invalid scales or scores", remedy)
            if not ascending or not in_range or not fits:
                raise UserError(f"lists in group {name} of {source} do not fit its size of {units.size} units", remedy)
            groups[name] = units
        return cls(groups)

    def check_fits(self, groups: Sequence[UnitGroup], source: str = "the structure") -> None:
        """Check that this structure belongs to the network with ``groups``.

        Raises:
            UserError: groups are missing, unknown or of another size, or a group keeps fewer units than its minimum.
        """
        remedy = "use the structure of a network with the same dimensions"
        expected = {group.name: group.size for group in groups}
        for name in expected.keys() ^ self.groups.keys():
            raise UserError(f"the unit group {name} exists only in {source} or only in the network", remedy)
        for name, size in expected.items():
            if self.groups[name].size != size:
                raise UserError(
                    f"{source} has {self.groups[name].size} units in {name}, the network has {size}", remedy
                )
        for group in groups:
            gone = group.parent is not None and not self.count(group.parent)
            gone = gone or (bool(group.users) and not any(map(self.count, group.users)))
            if self.count(group.name) < group.minimum and not gone:
                raise UserError(f"{source} keeps {self.count(group.name)} units in group {group.name}, but at least "
                                f"{group.minimum} must stay", "keep more units in this group")  # fmt: skip

    def lines(self) -> list[str]:
        """Return one printable line per group: ``encoder.layers.0.ffn1.hidden  ffn  312/576``."""
        width = max((len(name) for name in self.groups), default=0)
        return [f"{name:<{width}}  {g.kind:<12} {len(g.kept):>5}/{g.size}" for name, g in self.groups.items()]
