"""Size and computation of a network as a polynomial in the kept counts of its unit groups.

Every part of the network contributes ``coefficient x product of counts``: the weight between two pruned convolutions
costs ``kernel x kept_1 x kept_2``, an attention head inside a module ``module x head``. Gates are independent, so
evaluating the polynomial at the expected counts gives the exact expected cost.
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
from pruning.core.units import UnitGroup, families


@dataclass(frozen=True)
class CostTerm:
    """One term of a network's cost.

    Attributes:
        kind: part of the network under which reports list the term: ``subsampling``, ``attention``, ``ffn``,
            ``convolution``, ...
        groups: names of the unit groups whose kept counts are multiplied; empty for a constant term.
        parameters: number of parameters per unit of the product.
        macs: multiply-accumulates per unit of the product, at the input length that the terms were made for.
        limit: upper bound of the product: a factored matrix above its break-even rank is stored dense.
    """

    kind: str
    groups: tuple[str, ...]
    parameters: float
    macs: float
    limit: float = math.inf


class CostModel:
    """Evaluates `CostTerm`s for hard or expected counts.

    Args:
        groups: all unit groups of the network.
        terms: cost terms of the network.
        latency: measured latency table, to have latency as a third cost; None for no latency.
        parts: additional costs of parts of the network, given by kinds of terms: ``size:frontend``,
            ``macs:attention+ffn``. ``encoder`` stands for all kinds that begin with ``encoder_``.

    Attributes:
        costs: names of the costs: ``size``, ``macs``, ``latency`` (seconds) if there is a table, and ``parts``.
        dense: cost -> its value for the dense network.

    Raises:
        ValueError: a part names a kind that no term has or a cost other than size and MACs, or its cost is 0.
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
        one = len(self.groups)  # index of a constant count of 1, which pads short products
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
                raise ValueError(f"the dense network has no {part!r}: its cost is 0")

    def _of_part(self, part: str) -> Tensor:
        """Return the coefficients of the cost that ``part`` names, 0 for terms of other kinds."""
        cost, _, named = part.partition(":")
        kinds = named.split("+")
        known = list(dict.fromkeys(term.kind for term in self.terms))
        inside = [any(term.kind == kind or term.kind.startswith(f"{kind}_") for kind in kinds) for term in self.terms]
        for kind in kinds:
            if cost not in COSTS or not any(one == kind or one.startswith(f"{kind}_") for one in known):
                raise ValueError(f"{part!r} is not of the form COST:KIND+KIND, where COST is {' or '.join(COSTS)} "
                                 f"and each KIND is one of {', '.join(known)}")  # fmt: skip
        return self._coefficients[cost] * torch.tensor(inside)

    def apart(self, costs: Sequence[str]) -> Optional[dict[str, set[str]]]:
        """Return the names of the groups that each cost depends on, or None if two costs share a group."""
        found: dict[str, set[str]] = {}
        for cost in costs:
            names = self.groups_of(cost)
            if any(names & others for others in found.values()):
                return None
            found[cost] = names
        return found

    def groups_of(self, cost: str) -> set[str]:
        """Return the names of the groups that a cost depends on."""
        if cost == LATENCY and self._latency is not None:
            return set(self._latency.timed)
        return {name for term, coefficient in zip(self.terms, self._coefficients[cost].tolist()) if coefficient
                for name in term.groups}  # fmt: skip

    def dense_counts(self) -> Tensor:
        """Return the counts of the dense network, ``(G,)``."""
        return torch.tensor([group.size for group in self.groups], dtype=torch.float64)

    def counts(self, structure: Structure) -> Tensor:
        """Return the counts that ``structure`` keeps, ``(G,)``."""
        return torch.tensor([structure.count(group.name) for group in self.groups], dtype=torch.float64)

    def products(self, counts: Tensor) -> Tensor:
        """Return the product of counts of each term, ``(len(terms),)``, computed in at least float32."""
        products = self._unlimited(at_least_float32(counts))
        return products if self._limits is None else torch.minimum(products, self._limits.to(products))

    def _unlimited(self, counts: Tensor) -> Tensor:
        padded = torch.cat([counts, counts.new_ones(1)])
        return padded[self._at("index", self._index, counts.device, torch.long)].prod(dim=1)

    def _at(self, name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return ``tensor`` on ``device`` as ``dtype``, cached: a training step would wait for every copy to a GPU."""
        key = name, device, dtype
        if key not in self._placed:
            self._placed[key] = tensor.to(device, dtype)
        return self._placed[key]

    def prices(self, cost: str) -> Tensor:
        """Return the cost of one more unit of each group in the dense network, ``(G,)`` float64, without limits."""
        with torch.enable_grad():
            counts = self.dense_counts().requires_grad_(True)
            if cost == LATENCY and self._latency is not None:
                total = self._latency.seconds(counts)
            else:
                total = (self._unlimited(counts) * self._coefficients[cost]).sum()
            (prices,) = torch.autograd.grad(total, counts)
        return prices

    def evaluate(self, counts: Tensor, cost: str) -> Tensor:
        """Return a cost for ``counts (G,)``, kept or expected, a scalar with gradient.

        Args:
            counts: number of units kept in each group, in the order of ``groups``.
            cost: ``size`` (parameters), ``macs``, ``latency`` (seconds) if there is a table, or one of ``parts``.
        """
        if cost == LATENCY and self._latency is not None:
            return self._latency.seconds(at_least_float32(counts))
        products = self.products(counts)
        coefficients = self._at(cost, self._coefficients[cost], products.device, products.dtype)
        return (products * coefficients).sum()  # not a matrix product: autocast would compute that in half precision

    def sparsity(self, counts: Tensor, cost: str) -> Tensor:
        """Return ``1 - cost / dense cost``, a scalar with gradient."""
        if cost == LATENCY:
            return 1 - self.evaluate(counts, cost) / self.dense[cost]
        products = self.products(counts)
        share = self._coefficients[cost] / self.dense[cost]  # normalise in float64 before the sum in float32
        return 1 - (products * self._at(f"{cost} / dense", share, products.device, products.dtype)).sum()

    def structure_cost(self, structure: Structure) -> dict[str, float]:
        """Return each cost of the network that ``structure`` keeps."""
        counts = self.counts(structure)
        return {cost: self.evaluate(counts, cost).item() for cost in self.costs}

    def structure_sparsity(self, structure: Structure) -> dict[str, float]:
        """Return the hard sparsity of ``structure`` in each cost."""
        counts = self.counts(structure)
        return {cost: self.sparsity(counts, cost).item() for cost in self.costs}

    def by_kind(self, counts: Tensor) -> dict[str, dict[str, float]]:
        """Return the parameters and MACs of each kind of term for ``counts (G,)``."""
        products = self.products(counts)
        table: dict[str, dict[str, float]] = {}
        for cost in COSTS:
            values = (products * self._coefficients[cost].to(products)).tolist()
            for term, value in zip(self.terms, values):
                row = table.setdefault(term.kind, dict.fromkeys(COSTS, 0.0))
                row[cost] += value
        return table

    def reachable(self, enabled: Sequence[UnitGroup]) -> dict[str, float]:
        """Return the sparsity of each cost if all units of the ``enabled`` groups are closed, down to their minima."""
        closed = {group.name: float(group.minimum) for group in enabled}
        for module, contents in reversed(families(self.groups).items()):  # closed if all that it contains is closed
            if not any(closed.get(name, 1.0) for name in contents):
                closed[module] = 0.0
        counts = torch.tensor([closed.get(group.name, float(group.size)) for group in self.groups], dtype=torch.float64)
        return {cost: self.sparsity(counts, cost).item() for cost in self.costs}


def summarise(model: CostModel, kept: Mapping[str, float]) -> list[dict[str, object]]:
    """Return the rows of a before/after table: kind, parameters and MACs before and after, share removed.

    Args:
        model: cost model of the dense network.
        kept: group name -> number of units kept.
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
