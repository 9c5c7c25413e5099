"""Turn scores into the order in which units are removed: over the network, equally in every group, or by layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Optional

import torch
from torch import Tensor

from pruning.core.block_influence import layer_of
from pruning.core.cost import CostModel
from pruning.core.selection import Selection

RANKINGS = ("global", "group", "layers", "row")
NORMALISATIONS = ("none", "group", "cost", "root_cost")
_CHEAPEST = 1e-4  # lower bound of a price, relative to the mean price
_APART = 1e-9  # largest relative change of a score, far below the steps of float32
_OFF_ZERO = 1e-200  # what keeps zeros apart


def untied(scores: Tensor, seed: int) -> Tensor:
    """Return scores ``(U,)`` as float64 in which equal ones differ, in an order that ``seed`` draws.

    Weights that were dequantised from a few bits have few values, and many are zero: without a draw, the first ones of
    the network would go before all others of their value. The order of different float32 values stays.
    """
    draw = torch.rand(len(scores), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    draw = draw.to(scores.device)
    return scores.double() * (1 + _APART * draw) + _OFF_ZERO * draw


def normalised(
    scores: Tensor, selection: Selection, costs: CostModel, cost: str, how: str, price_power: float = 1.0
) -> Tensor:
    """Return scores ``(U,)`` that are comparable between groups.

    Args:
        scores: scores of the units, ``(U,)``.
        selection: the units.
        costs: cost model of the network.
        cost: cost by which ``cost`` and ``root_cost`` divide.
        how: what to divide by. ``none``: nothing; ``group``: the root mean square of the group's scores (arXiv
            1611.06440, section 2.2, uses the L2 norm, which favours small groups), or that of all groups of one unit of
            the same kind for a group of one unit; ``cost``: the cost of the unit alone in the dense network, so that
            the score is a value per parameter or operation (of two units with the same negative score the cheaper one
            stays); ``root_cost``: the square root of that.
        price_power: exponent with which a score grows with its number of weights; 1/2 for an L2 norm.
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
    factor = known.clamp(min=_CHEAPEST * float(known.mean())) ** price_power  # also for units that save nothing
    return torch.where(scores < 0, scores * factor, scores / factor)


def _rms(values: Tensor) -> Tensor:
    return values.pow(2).mean().sqrt().clamp(min=1e-30)


def positions(scores: Tensor, selection: Selection) -> Tensor:
    """Return the rank of each unit in its group, ``(U,)`` float64; 0 is the best score."""
    parts = []
    for part in selection.split(scores).values():
        places = part.argsort(descending=True, stable=True).argsort()
        parts.append(places.double())
    return torch.cat(parts)


def group_order(scores: Tensor, selection: Selection) -> Tensor:
    """Return an order ``(U,)`` that narrows every group to the same share: a uniform network, units chosen by score.

    The best unit of each group is removed after all others, so that no module of a uniform network is empty.
    """
    sizes = torch.cat([torch.full((size,), float(size), dtype=torch.float64) for size in selection.sizes])
    places = positions(scores, selection)
    return torch.where(places == 0, torch.ones_like(sizes), -(places + 0.5) / sizes)


def row_order(scores: Tensor, selection: Selection) -> Tensor:
    """Return an order ``(U,)`` in which every output row of a matrix loses the same share of its weights.

    See arXiv 2306.11695, section 3. Units that are not single weights follow `group_order`.
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
    """Select the best units of each group, ``(U,)`` bool; ``counts`` maps group names to the number of units."""
    wanted = torch.cat(
        [
            torch.full((group.size,), float(counts.get(group.name, group.size)), dtype=torch.float64)
            for group in selection.chosen
        ]
    )
    return positions(scores, selection) < wanted


def evened(keep: Tensor, order: Tensor, selection: Selection, inside: Tensor) -> Tensor:
    """Return ``keep (U,)`` with as many units in each group as the smallest of its kind and size keeps.

    Args:
        keep: the kept units, ``(U,)`` bool.
        order: the units with larger values are kept, ``(U,)``.
        selection: the units.
        inside: ``(U,)`` bool, units of the groups that are evened; the others stay as they are.
    """
    counts = [int(part.sum()) for part in keep.split(selection.sizes)]
    among = [bool(part.any()) for part in inside.split(selection.sizes)]
    least: dict[tuple[str, int], int] = {}
    for group, count, evens in zip(selection.chosen, counts, among):
        if evens:
            least[group.kind, group.size] = min(count, least.get((group.kind, group.size), count))
    wanted = {group.name: least[group.kind, group.size] for group, evens in zip(selection.chosen, among) if evens}
    return with_counts(order, selection, wanted) & keep


def drop_order(layers: int) -> list[int]:
    """Return the order in which a part's layers are dropped: every other one from the top, first and last at the end.

    LayerDrop (arXiv 1909.11556, section 3.3) drops every other layer at inference.
    """
    inner = list(range(layers - 2, 0, -2)) + list(range(layers - 3, 0, -2))
    return inner + [layer for layer in (0, layers - 1) if layer not in inner and layer < layers][: layers - len(inner)]


def drop_order_of_parts(parts: Iterable[Sequence[int]]) -> list[int]:
    """Return the order in which the layers of parts, such as encoder and decoder, are dropped.

    Each part follows its own `drop_order` and loses layers in proportion to its number of layers; the first and the
    last layer of every part go at the end.

    Args:
        parts: numbers of the layers of each part, ascending.
    """
    turns = []
    for layers in parts:
        order, ends = drop_order(len(layers)), (0, len(layers) - 1)
        turns += [(place in ends, (turn + 0.5) / len(order), layers[place]) for turn, place in enumerate(order)]
    return [layer for _, _, layer in sorted(turns)]


def layer_order(scores: Tensor, selection: Selection) -> Tensor:
    """Return an order ``(U,)`` that drops whole layers; the best units of the last layer to be dropped may stay.

    Units outside layers are removed last.
    """
    parts: dict[str, set[int]] = {}
    for group in selection.chosen:
        if group.layer is not None:
            parts.setdefault(layer_of(group).rpartition(".")[0], set()).add(group.layer)
    return _by_layers(drop_order_of_parts(map(sorted, parts.values())), scores, selection)


def influence_order(influences: Tensor, scores: Tensor, selection: Selection) -> Tensor:
    """Return an order ``(U,)`` that drops the layers of least influence first, see `layer_order`.

    Args:
        influences: score of the layer of each unit, ``(U,)``.
        scores: scores of the units, which order those of a layer, ``(U,)``.
        selection: the units.
    """
    of_layer = {group.layer: float(part[0]) for group, part in zip(selection.chosen, influences.split(selection.sizes))
                if group.layer is not None}  # fmt: skip
    return _by_layers(sorted(of_layer, key=lambda layer: of_layer[layer]), scores, selection)


def _by_layers(order: Sequence[int], scores: Tensor, selection: Selection) -> Tensor:
    """Return an order ``(U,)`` that removes layers in ``order``, then what is outside layers."""
    turn: dict[Optional[int], float] = {layer: float(place) for place, layer in enumerate(order)}
    within = scores.argsort(stable=True).argsort().double() / max(1, scores.numel())
    of_unit = [torch.full((size,), turn.get(group.layer, float(len(order))), dtype=torch.float64)
               for group, size in zip(selection.chosen, selection.sizes)]  # fmt: skip
    return torch.cat(of_unit) + within


def interpolated(selection: Selection, counts: Mapping[str, int], share: float) -> dict[str, int]:
    """Interpolate the count of each group between all of its units (share 0) and ``counts`` (share 1)."""
    return {
        group.name: round(group.size - share * (group.size - counts.get(group.name, group.size)))
        for group in selection.chosen
    }


def last(scores: Tensor, keep: Tensor) -> Tensor:
    """Return scores ``(U,)`` in which units outside ``keep (U,)`` bool score below all others."""
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
    """Return the order ``(U,)`` for `Selection.fitted`; units with larger values are kept longer.

    Args:
        scores: scores of the units, ``(U,)``.
        selection: the units.
        costs: cost model of the network.
        cost: cost that a normalisation by cost divides by.
        ranking: one of `RANKINGS`.
        normalisation: one of `NORMALISATIONS`.
        keep: ``(U,)`` bool; units that are closed for good rank last, also within their groups.
        price_power: see `normalised`.
    """
    scores = last(normalised(scores, selection, costs, cost, normalisation, price_power), keep)
    if ranking == "group":
        return group_order(scores, selection)
    if ranking == "row":
        return row_order(scores, selection)
    return layer_order(scores, selection) if ranking == "layers" else scores
