"""Size and computation of a network as a polynomial in the kept counts of its unit groups.

Every part of a network that is pruned contributes ``coefficient x product of counts``: the weight between two pruned
convolutions costs ``kernel x kept_1 x kept_2``, an attention head inside a module ``module x head``. Gates are
independent, so putting expected counts into the polynomial gives the exact expected cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from pruning.core.latency import LatencyModel, LatencyTable
from pruning.core.names import COSTS, LATENCY, MACS, SIZE
from pruning.core.precision import at_least_float32
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup


@dataclass(frozen=True)
class CostTerm:
    """A part of a network's cost.

    Attributes:
        kind: where it is reported: ``subsampling``, ``attention``, ``ffn``, ``convolution``, ...
        groups: names of the unit groups whose kept counts multiply; empty for what always stays.
        parameters: parameters per product of units.
        macs: multiply-accumulates per product of units, at the audio length that the terms were made for.
        limit: the product counts at most this much: a factored matrix is stored dense beyond its break-even rank.
    """

    kind: str
    groups: tuple[str, ...]
    parameters: float
    macs: float
    limit: float = math.inf


class CostModel:
    """Evaluates `CostTerm`s for hard or expected counts.

    Args:
        groups: the network's unit groups, all of them.
        terms: the network's cost terms.
        latency: what kept counts take on a machine, where latency is a cost too.
        parts: costs of parts of the network besides: ``size:frontend``, ``macs:attention+ffn``, of kinds of terms.

    Attributes:
        costs: ``size``, ``macs``, with a table ``latency`` (seconds), and ``parts``.
        dense: cost -> that of the whole network.

    Raises:
        ValueError: a part names a kind that no term has, is of another cost, or costs nothing.
    """

    def __init__(
        self,
        groups: Sequence[UnitGroup],
        terms: Sequence[CostTerm],
        latency: Optional[LatencyTable] = None,
        parts: Sequence[str] = (),
    ) -> None:
        self.groups = list(groups)
        self.costs = (*COSTS, *(() if latency is None else (LATENCY,)), *parts)
        self._latency = None if latency is None else LatencyModel(self.groups, latency)
        self.terms = list(terms)
        position = {group.name: index for index, group in enumerate(self.groups)}
        one = len(self.groups)  # an index that always counts 1 fills short products
        width = max((len(term.groups) for term in self.terms), default=0) or 1
        rows = [[position[name] for name in term.groups] + [one] * (width - len(term.groups)) for term in self.terms]
        self._index = torch.tensor(rows, dtype=torch.long)
        limits = torch.tensor([term.limit for term in self.terms], dtype=torch.float64)
        self._limits = limits if bool(limits.isfinite().any()) else None
        self._coefficients = {
            SIZE: torch.tensor([term.parameters for term in self.terms], dtype=torch.float64),
            MACS: torch.tensor([term.macs for term in self.terms], dtype=torch.float64),
        }
        self._coefficients |= {part: self._of_part(part) for part in parts}
        self._placed: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self.dense = {cost: self.evaluate(self.dense_counts(), cost).item() for cost in self.costs}
        for part in parts:
            if not self.dense[part] > 0:
                raise ValueError(f"{part!r} is 0 in the whole network: nothing of it can go")

    def _of_part(self, part: str) -> Tensor:
        """Coefficients of a cost, but 0 for terms of other kinds."""
        cost, _, named = part.partition(":")
        kinds = named.split("+")
        known = list(dict.fromkeys(term.kind for term in self.terms))
        for kind in kinds:
            if cost not in COSTS or kind not in known:
                raise ValueError(f"{part!r} is not {' or '.join(COSTS)}, a colon and kinds among {', '.join(known)}, "
                                 "joined by +")  # fmt: skip
        inside = torch.tensor([term.kind in kinds for term in self.terms])
        return self._coefficients[cost] * inside

    def apart(self, costs: Sequence[str]) -> Optional[dict[str, set[str]]]:
        """By cost, the groups that it depends on, if no group is of two of them; else None."""
        if len(costs) < 2 or LATENCY in costs:
            return None
        found: dict[str, set[str]] = {}
        for cost in costs:
            names = {name for term, coefficient in zip(self.terms, self._coefficients[cost].tolist()) if coefficient
                     for name in term.groups}  # fmt: skip
            if any(names & others for others in found.values()):
                return None
            found[cost] = names
        return found

    def dense_counts(self) -> Tensor:
        """Counts of the whole network, ``(G,)``."""
        return torch.tensor([group.size for group in self.groups], dtype=torch.float64)

    def counts(self, structure: Structure) -> Tensor:
        """Counts that a structure keeps, ``(G,)``."""
        return torch.tensor([structure.count(group.name) for group in self.groups], dtype=torch.float64)

    def products(self, counts: Tensor) -> Tensor:
        """Product of counts of every term, ``(len(terms),)``; computed in at least float32."""
        products = self._unlimited(at_least_float32(counts))
        return products if self._limits is None else torch.minimum(products, self._limits.to(products))

    def _unlimited(self, counts: Tensor) -> Tensor:
        padded = torch.cat([counts, counts.new_ones(1)])
        return padded[self._at("index", self._index, counts.device, torch.long)].prod(dim=1)

    def _at(self, name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """``tensor`` as it is needed there, copied once: a training step would wait for every copy to a GPU."""
        key = name, device, dtype
        if key not in self._placed:
            self._placed[key] = tensor.to(device, dtype)
        return self._placed[key]

    def prices(self, cost: str) -> Tensor:
        """What one more unit of each group costs in the whole network, limits apart, ``(G,)`` float64."""
        with torch.enable_grad():
            counts = self.dense_counts().requires_grad_(True)
            if cost == LATENCY and self._latency is not None:
                total = self._latency.seconds(counts)
            else:
                total = (self._unlimited(counts) * self._coefficients[cost]).sum()
            (prices,) = torch.autograd.grad(total, counts)
        return prices

    def evaluate(self, counts: Tensor, cost: str) -> Tensor:
        """Cost for ``counts (G,)`` (kept, or expected to be kept), a scalar with gradient.

        Args:
            counts: units kept of each group, in the order of ``groups``.
            cost: ``size`` (parameters), ``macs``, with a table ``latency`` (seconds), or one of ``parts``.
        """
        if cost == LATENCY and self._latency is not None:
            return self._latency.seconds(at_least_float32(counts))
        products = self.products(counts)
        coefficients = self._at(cost, self._coefficients[cost], products.device, products.dtype)
        return (products * coefficients).sum()  # autocast would make half of a matrix product

    def sparsity(self, counts: Tensor, cost: str) -> Tensor:
        """``1 - cost / dense cost`` (method A), a scalar with gradient."""
        if cost == LATENCY:
            return 1 - self.evaluate(counts, cost) / self.dense[cost]
        products = self.products(counts)
        share = self._coefficients[cost] / self.dense[cost]  # normalised in float64 before any float32 sum
        return 1 - (products * self._at(f"{cost} / dense", share, products.device, products.dtype)).sum()

    def structure_cost(self, structure: Structure) -> dict[str, float]:
        """Parameters and MACs that ``structure`` leaves."""
        counts = self.counts(structure)
        return {cost: self.evaluate(counts, cost).item() for cost in self.costs}

    def structure_sparsity(self, structure: Structure) -> dict[str, float]:
        """Hard sparsity of ``structure`` in size and MACs."""
        counts = self.counts(structure)
        return {cost: self.sparsity(counts, cost).item() for cost in self.costs}

    def by_kind(self, counts: Tensor) -> dict[str, dict[str, float]]:
        """Parameters and MACs of each kind of term for ``counts (G,)``."""
        products = self.products(counts)
        table: dict[str, dict[str, float]] = {}
        for cost in COSTS:
            values = (products * self._coefficients[cost].to(products)).tolist()
            for term, value in zip(self.terms, values):
                row = table.setdefault(term.kind, dict.fromkeys(COSTS, 0.0))
                row[cost] += value
        return table

    def reachable(self, enabled: Sequence[UnitGroup]) -> dict[str, float]:
        """Largest sparsity that closing every unit of the ``enabled`` groups, down to their minima, can give."""
        closed = {group.name: float(group.minimum) for group in enabled}
        parents = {group.parent for group in enabled if group.parent is not None and group.minimum == 0}
        for group in self.groups:  # a module whose units are all closed is closed
            if group.name in parents:
                closed[group.name] = 0.0
        counts = torch.tensor([closed.get(group.name, float(group.size)) for group in self.groups], dtype=torch.float64)
        return {cost: self.sparsity(counts, cost).item() for cost in self.costs}


def summarise(model: CostModel, kept: Mapping[str, float]) -> list[dict[str, object]]:
    """Rows of a before/after table: kind, parameters and MACs dense and kept, share removed.

    Args:
        model: the dense network's cost.
        kept: group name -> units kept.
    """
    counts = torch.tensor([float(kept[group.name]) for group in model.groups], dtype=torch.float64)
    before, after = model.by_kind(model.dense_counts()), model.by_kind(counts)
    rows: list[dict[str, object]] = []
    for kind, dense in before.items():
        row: dict[str, object] = {"kind": kind}
        for cost in COSTS:
            row[f"{cost} before"], row[f"{cost} after"] = dense[cost], after[kind][cost]
            row[f"{cost} removed"] = 1 - after[kind][cost] / dense[cost] if dense[cost] else 0.0
        rows.append(row)
    return rows
