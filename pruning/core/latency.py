"""Latency as a cost: time of the kept units on one machine, interpolated between measured counts.

Fewer multiply-accumulates do not always take less time: kernels are tuned to certain shapes, and some parts of a
network are bound by memory. The table gives the time of each unit kind at several shares of its size, with all groups
of the kind cut to the same share. The latency of a network is modelled as the sum over its groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pruning.core.units import UnitGroup
from pruning.errors import UserError


@dataclass(frozen=True)
class LatencyTable:
    """Time of one forward pass of an encoder, in seconds.

    Attributes:
        rest: seconds that remain if the units of all kinds are removed.
        kinds: unit kind -> seconds at equally spaced shares of its units, from none to all.
        units: unit kind -> number of units in the network that was measured.
        setting: how the table was measured, for information only.
    """

    rest: float
    kinds: Mapping[str, tuple[float, ...]]
    units: Mapping[str, int]
    setting: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.kinds or any(len(values) < 2 for values in self.kinds.values()):
            raise ValueError("a latency table needs at least one unit kind and at least two points per kind")
        for values in ((self.rest,), *self.kinds.values()):
            if not all(0 <= a <= b < math.inf for a, b in zip((0.0, *values), values)):
                raise ValueError("times must be finite, at least 0, and must not decrease with more units")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        kinds = {kind: list(values) for kind, values in self.kinds.items()}
        return {"rest": self.rest, "kinds": kinds, "units": dict(self.units), "setting": dict(self.setting)}

    @classmethod
    def from_dict(cls, value: Any, source: str = "the table") -> LatencyTable:
        """Build a table from the output of `to_dict`.

        Raises:
            UserError: the value is not a latency table.
        """
        try:
            kinds = {str(kind): tuple(float(v) for v in values) for kind, values in value["kinds"].items()}
            units = {str(kind): int(count) for kind, count in value["units"].items()}
            return cls(float(value["rest"]), kinds, units, dict(value.get("setting", {})))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            remedy = "measure it with pruning.bin.latency"
            raise UserError(f"{source} is not a latency table ({error!r})", remedy) from None


class LatencyModel:
    """Evaluates a latency table for the groups of a network.

    Args:
        groups: all unit groups of the network.
        table: table measured on a network of the same dimensions.

    Attributes:
        rest: seconds that remain if all units are removed.
        timed: names of the groups whose counts change the time.

    Raises:
        UserError: the table and the network have no unit kind in common, or differ in the number of units of a kind.
    """

    def __init__(self, groups: Sequence[UnitGroup], table: LatencyTable) -> None:
        position = {group.name: index for index, group in enumerate(groups)}
        parents = {group.parent for group in groups}
        own = [group for group in groups if group.kind in table.kinds and group.name not in parents]
        if not own:
            known = ", ".join(sorted(table.kinds))
            raise UserError(f"the latency table covers the unit kinds {known}, none of which the network has",
                            "measure this network")  # fmt: skip
        self.rest = table.rest
        totals: dict[str, int] = {}
        for group in own:
            totals[group.kind] = totals.get(group.kind, 0) + group.size
        for kind, total in totals.items():
            if table.units.get(kind) != total:
                what = f"the latency table was measured on a network with {table.units.get(kind)} units of kind {kind}"
                raise UserError(f"{what}, this one has {total}", "measure this network")
        points = max(len(values) for values in table.kinds.values())
        self._index = torch.tensor([position[group.name] for group in own])
        by_name = {group.name: group for group in groups}
        around = [[one.name for one in _around(group, by_name)] for group in own]
        self.timed = {group.name for group in own}.union(*around)
        chains = [[position[name] for name in names] for names in around]
        longest = max(map(len, chains))
        rows = [chain + [len(groups)] * (longest - len(chain)) for chain in chains]
        self._around = torch.tensor(rows, dtype=torch.long).view(len(own), longest)
        self._size = torch.tensor([float(group.size) for group in own])
        curves = [_resampled(table.kinds[group.kind], points) * group.size / totals[group.kind] for group in own]
        self._curves = torch.stack(curves)  # (groups, points), seconds

    def seconds(self, counts: Tensor) -> Tensor:
        """Return the seconds for ``counts (G,)``, kept or expected, a scalar with gradient.

        The time of a group is linear between two points; the units of a closed module take no time.
        """
        device = counts.device
        padded = torch.cat([counts, counts.new_ones(1)])
        inside = padded[self._around.to(device)].prod(dim=1)  # whether the modules around a group are open
        shares = padded[self._index.to(device)] * inside / self._size.to(counts)
        place = shares.clamp(0.0, 1.0) * (self._curves.shape[1] - 1)
        left = place.detach().floor().clamp(max=self._curves.shape[1] - 2).long()
        curves = self._curves.to(counts)
        low, high = (curves.gather(1, (left + step)[:, None]).squeeze(1) for step in (0, 1))
        return (low + (place - left) * (high - low)).sum() + self.rest


def _around(group: UnitGroup, by_name: Mapping[str, UnitGroup]) -> Iterator[UnitGroup]:
    """Yield the modules that contain a group, from the inside out."""
    while group.parent is not None:
        group = by_name[group.parent]
        yield group


def _resampled(values: Sequence[float], points: int) -> Tensor:
    """Interpolate ``values`` linearly at ``points`` equally spaced points, ``(points,)``."""
    line = torch.tensor(values, dtype=torch.float64)[None, None]
    return torch.nn.functional.interpolate(line, points, mode="linear", align_corners=True)[0, 0]
