"""Latency as a cost: what kept units take on one machine, measured, and interpolated between the measured counts.

Fewer multiply-accumulates are not always less time: kernels have their own ideas of shapes, and some parts of a network
wait for memory. The table says what each kind of unit takes at some shares of its size, all its groups cut alike; a
network is taken to be the sum of its groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pruning.core.units import UnitGroup
from pruning.errors import UserError


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of one pass of an encoder.

    Attributes:
        rest: what is left with every kind cut away.
        kinds: kind -> seconds at equally spaced shares of its units, from none to all of them.
        units: all units of each kind of the network that it was measured on.
        setting: how it was measured, for people.
    """

    rest: float
    kinds: Mapping[str, tuple[float, ...]]
    units: Mapping[str, int]
    setting: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.kinds or any(len(values) < 2 for values in self.kinds.values()):
            raise ValueError("a table of latency has at least one kind, and at least two points of each")
        for values in ((self.rest,), *self.kinds.values()):
            if not all(0 <= a <= b < math.inf for a, b in zip((0.0, *values), values)):
                raise ValueError("times must be finite and must not fall with more units")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        kinds = {kind: list(values) for kind, values in self.kinds.items()}
        return {"rest": self.rest, "kinds": kinds, "units": dict(self.units), "setting": dict(self.setting)}

    @classmethod
    def from_dict(cls, value: Any, source: str = "the table") -> LatencyTable:
        """The inverse of `to_dict`.

        Raises:
            UserError: not a table of latency.
        """
        try:
            kinds = {str(kind): tuple(float(v) for v in values) for kind, values in value["kinds"].items()}
            units = {str(kind): int(count) for kind, count in value["units"].items()}
            return cls(float(value["rest"]), kinds, units, dict(value.get("setting", {})))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            remedy = "measure it with pruning.bin.latency"
            raise UserError(f"{source} is no table of latency ({error!r})", remedy) from None


class LatencyModel:
    """Evaluates a table for the groups of a network.

    Args:
        groups: all unit groups of the network.
        table: measured on a network of the same dimensions.

    Raises:
        UserError: the table has no kind that the network has, or another number of units of a kind.
    """

    def __init__(self, groups: Sequence[UnitGroup], table: LatencyTable) -> None:
        position = {group.name: index for index, group in enumerate(groups)}
        parents = {group.parent for group in groups}
        own = [group for group in groups if group.kind in table.kinds and group.name not in parents]
        if not own:
            known = ", ".join(sorted(table.kinds))
            raise UserError(f"the table of latency is about {known}, which the network lacks", "measure this network")
        self.rest = table.rest
        totals: dict[str, int] = {}
        for group in own:
            totals[group.kind] = totals.get(group.kind, 0) + group.size
        for kind, total in totals.items():
            if table.units.get(kind) != total:
                what = f"the table of latency is of a network with {table.units.get(kind)} units of {kind}"
                raise UserError(f"{what}, this one has {total}", "measure this network")
        points = max(len(values) for values in table.kinds.values())
        self._index = torch.tensor([position[group.name] for group in own])
        self._parent = torch.tensor([position.get(group.parent or "", len(groups)) for group in own])
        self._size = torch.tensor([float(group.size) for group in own])
        curves = [_resampled(table.kinds[group.kind], points) * group.size / totals[group.kind] for group in own]
        self._curves = torch.stack(curves)  # (groups, points), seconds

    def seconds(self, counts: Tensor) -> Tensor:
        """Seconds for ``counts (G,)``, kept or expected, a scalar with gradient.

        Between two points a group's time is a straight line; a closed module's units take none.
        """
        device = counts.device
        padded = torch.cat([counts, counts.new_ones(1)])
        shares = padded[self._index.to(device)] * padded[self._parent.to(device)] / self._size.to(counts)
        place = shares.clamp(0.0, 1.0) * (self._curves.shape[1] - 1)
        left = place.detach().floor().clamp(max=self._curves.shape[1] - 2).long()
        curves = self._curves.to(counts)
        low, high = (curves.gather(1, (left + step)[:, None]).squeeze(1) for step in (0, 1))
        return (low + (place - left) * (high - low)).sum() + self.rest


def _resampled(values: Sequence[float], points: int) -> Tensor:
    """The same line at another number of equally spaced points, ``(points,)``."""
    line = torch.tensor(values, dtype=torch.float64)[None, None]
    return torch.nn.functional.interpolate(line, points, mode="linear", align_corners=True)[0, 0]
