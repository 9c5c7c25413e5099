"""From scores to an order in which units go: over the whole network, alike in every group, or layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import torch
from torch import Tensor

from pruning.core.cost import CostModel
from pruning.core.selection import Selection

RANKINGS = ("global", "group", "layers", "row")
NORMALISATIONS = ("none", "group", "cost", "root_cost")
_CHEAPEST = 1e-4  # of the mean price


def normalised(
    scores: Tensor, selection: Selection, costs: CostModel, cost: str, how: str, price_power: float = 1.0
) -> Tensor:
    """Scores ``(U,)`` made comparable between groups.

    Args:
        scores: of the units.
        selection: the units.
        costs: of the network.
        cost: which cost ``how = "cost"`` divides by.
        how: ``none``; ``group``: by the root mean square of the group's scores (arXiv 1611.06440, section 2.2, has the
            L2 norm, which favours small groups), of all groups of its kind for a group of one unit; ``cost``: by what
            the unit alone costs in the dense network, so that the score is a price per parameter or operation (of two
            units with the same negative score the cheaper one stays); ``root_cost``: by the square root of that.
        price_power: how a score grows with the weights that it is of: 1/2 for an L2 norm.
    """
    if how == "none":
        return scores
    if how == "group":
        parts = selection.split(scores)
        alone: dict[str, list[Tensor]] = {}
        for group in selection.chosen:
            if group.size == 1:
                alone.setdefault(group.kind, []).append(parts[group.name])
        scale = {group.name: _rms(torch.cat(alone[group.kind]) if group.size == 1 else parts[group.name])
                 for group in selection.chosen}  # fmt: skip
        return torch.cat([part / scale[name] for name, part in parts.items()])
    known = costs.prices(cost)[selection.member]
    price_power = price_power if how == "cost" else price_power / 2
    factor = known.clamp(min=_CHEAPEST * float(known.mean())) ** price_power  # of a unit that saves nothing, too
    return torch.where(scores < 0, scores * factor, scores / factor)


def _rms(values: Tensor) -> Tensor:
    return values.pow(2).mean().sqrt().clamp(min=1e-30)


def positions(scores: Tensor, selection: Selection) -> Tensor:
    """Place of each unit in its group, ``(U,)`` float64: 0 for the best score."""
    parts = []
    for part in selection.split(scores).values():
        places = part.argsort(descending=True, stable=True).argsort()
        parts.append(places.double())
    return torch.cat(parts)


def group_order(scores: Tensor, selection: Selection) -> Tensor:
    """An order ``(U,)`` that narrows every group to the same share: a uniform network, its units chosen by score.

    The best unit of a group goes after all others: no module of a uniform network is empty.
    """
    sizes = torch.cat([torch.full((size,), float(size), dtype=torch.float64) for size in selection.sizes])
    places = positions(scores, selection)
    return torch.where(places == 0, torch.ones_like(sizes), -(places + 0.5) / sizes)


def row_order(scores: Tensor, selection: Selection) -> Tensor:
    """An order ``(U,)`` in which every output row of a matrix loses the same share of its weights (arXiv 2306.11695,
    section 3); where units are no single weights, `group_order`.
    """
    whole = group_order(scores, selection)
    parts = []
    for group, part, otherwise in zip(selection.chosen, scores.split(selection.sizes), whole.split(selection.sizes)):
        if group.rows is None:
            parts.append(otherwise)
            continue
        places = part.view(group.rows, -1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        parts.append((-(places.double() + 0.5) / places.shape[1]).flatten())
    return torch.cat(parts)


def with_counts(scores: Tensor, selection: Selection, counts: Mapping[str, int]) -> Tensor:
    """The best units of each group, as many as ``counts`` says by group name: ``(U,)`` bool."""
    wanted = torch.cat(
        [
            torch.full((group.size,), float(counts.get(group.name, group.size)), dtype=torch.float64)
            for group in selection.chosen
        ]
    )
    return positions(scores, selection) < wanted


def drop_order(layers: int) -> list[int]:
    """Layers in the order in which they are dropped: every other one from the top, the first and the last at the end.

    Every other layer is what LayerDrop (arXiv 1909.11556, section 3.3) drops at inference.
    """
    inner = list(range(layers - 2, 0, -2)) + list(range(layers - 3, 0, -2))
    return inner + [layer for layer in (0, layers - 1) if layer not in inner and layer < layers][: layers - len(inner)]


def layer_order(scores: Tensor, selection: Selection) -> Tensor:
    """An order ``(U,)`` that drops whole layers; of the last one that goes, the best units may stay.

    Units outside layers go last.
    """
    layers: list[Optional[int]] = [group.layer for group in selection.chosen]
    known = [layer for layer in layers if layer is not None]
    order = drop_order(max(known) + 1) if known else []
    turn = {layer: float(place) for place, layer in enumerate(order)}
    within = scores.argsort(stable=True).argsort().double() / max(1, scores.numel())
    of_unit = [
        torch.full((size,), float(len(order)) if layer is None else turn[layer], dtype=torch.float64)
        for layer, size in zip(layers, selection.sizes)
    ]
    return torch.cat(of_unit) + within


def interpolated(selection: Selection, counts: Mapping[str, int], share: float) -> dict[str, int]:
    """Counts of each group on the way from all of its units (share 0) to ``counts`` (share 1)."""
    return {
        group.name: round(group.size - share * (group.size - counts.get(group.name, group.size)))
        for group in selection.chosen
    }


def last(scores: Tensor, keep: Tensor) -> Tensor:
    """Scores ``(U,)`` with those of closed units below all others; ``keep (U,)`` bool."""
    return scores.masked_fill(~keep, float(scores.min()) - 1.0)


def ordered(
    scores: Tensor,
    selection: Selection,
    costs: CostModel,
    cost: str,
    ranking: str,
    normalisation: str,
    keep: Tensor,
    price_power: float = 1.0,
) -> Tensor:
    """The order ``(U,)`` in which units are kept, larger is longer, for `Selection.fitted`.

    Args:
        scores: of the units.
        selection: the units.
        costs, cost: of the network, and which counts, for a normalisation by cost.
        ranking: one of `RANKINGS`.
        normalisation: one of `NORMALISATIONS`.
        keep: ``(U,)`` bool; units that are closed for good come last, in their groups too.
        price_power: see `normalised`.
    """
    scores = last(normalised(scores, selection, costs, cost, normalisation, price_power), keep)
    if ranking == "group":
        return group_order(scores, selection)
    if ranking == "row":
        return row_order(scores, selection)
    return layer_order(scores, selection) if ranking == "layers" else scores
