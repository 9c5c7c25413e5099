"""Test the cost polynomial, sparsity, reachable sparsity, and the before/after table."""

from __future__ import annotations

import pytest
import torch

from pruning.core.cost import CostModel, CostTerm, summarise
from pruning.core.structure import Structure
from pruning.core.uniform import narrowed, uniform_structure
from pruning.core.units import UnitGroup
from pruning.errors import UserError

GROUPS = [
    UnitGroup("c1", "conv", 4, (), minimum=1),
    UnitGroup("c2", "conv", 6, (), minimum=1),
    UnitGroup("m", "module", 1, ()),
    UnitGroup("m.h", "heads", 3, (), parent="m"),
]
TERMS = [
    CostTerm("front", ("c1",), 9, 900),
    CostTerm("front", ("c1", "c2"), 9, 90),
    CostTerm("block", ("m", "m.h"), 100, 50),
    CostTerm("block", ("m",), 10, 0),
    CostTerm("norm", (), 5, 0),
]


def test_products_of_neighbours() -> None:
    model = CostModel(GROUPS, TERMS)
    assert model.dense == {"size": 9 * 4 + 9 * 24 + 310 + 5, "macs": 3600 + 90 * 24 + 150}
    counts = torch.tensor([2.0, 3.0, 1.0, 2.0])
    assert model.evaluate(counts, "size").item() == 18 + 54 + 210 + 5
    assert model.sparsity(counts, "macs").item() == pytest.approx(1 - (1800 + 540 + 100) / 5910)


def test_gradient_with_respect_to_counts() -> None:
    model = CostModel(GROUPS, TERMS)
    counts = torch.tensor([2.0, 3.0, 1.0, 2.0], requires_grad=True)
    model.evaluate(counts, "size").backward()
    assert counts.grad is not None
    assert counts.grad.tolist() == [9 + 27, 18, 210, 100]


def test_reach_respects_minima_and_closes_emptied_modules() -> None:
    model = CostModel(GROUPS, TERMS)
    everything = model.reachable(GROUPS)
    assert everything["size"] == pytest.approx(1 - (9 + 9 + 5) / 567)
    heads_alone = model.reachable([GROUPS[3]])
    assert heads_alone["size"] == pytest.approx(1 - (36 + 216 + 5) / 567), "a module's bias is removed with its heads"


def test_summary_adds_up() -> None:
    model = CostModel(GROUPS, TERMS)
    rows = summarise(model, {"c1": 2, "c2": 3, "m": 1, "m.h": 2})
    assert [row["kind"] for row in rows] == ["front", "block", "norm"]
    assert sum(row["size before"] for row in rows) == model.dense["size"]  # type: ignore[misc]
    assert sum(row["size after"] for row in rows) == 18 + 54 + 210 + 5  # type: ignore[misc]


def test_uniform_structure_is_the_widest_within_the_budget() -> None:
    model = CostModel(GROUPS, TERMS)
    structure = uniform_structure(GROUPS, model, "size", 300)
    assert model.structure_cost(structure)["size"] <= 300
    wider = narrowed(GROUPS, 0.75)
    assert model.structure_cost(wider)["size"] > 300
    assert structure.count("m") == 1
    with pytest.raises(UserError, match="at least"):
        uniform_structure(GROUPS, model, "size", 20)
    assert uniform_structure(GROUPS, model, "size", 1e9) == Structure.dense(GROUPS)


def test_parts_are_costs_of_their_own() -> None:
    parts = ["size:front", "macs:block+norm"]
    model = CostModel(GROUPS, TERMS, parts=parts)
    assert model.costs == ("size", "macs", *parts)
    assert model.dense["size:front"] == 9 * 4 + 9 * 24 and model.dense["macs:block+norm"] == 150
    counts = torch.tensor([2.0, 3.0, 1.0, 2.0])
    assert model.evaluate(counts, "size:front").item() == 18 + 54
    assert model.sparsity(counts, "macs:block+norm").item() == pytest.approx(1 - 100 / 150)
    assert model.prices("size:front").tolist() == [9 + 54, 36, 0, 0]
    assert model.reachable(GROUPS)["size:front"] == pytest.approx(1 - 18 / 252)
    assert model.apart(parts) == {"size:front": {"c1", "c2"}, "macs:block+norm": {"m", "m.h"}}
    assert model.apart(["size", "size:front"]) is None and model.apart(["size:front"]) == {"size:front": {"c1", "c2"}}


def test_a_part_that_costs_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="the dense network has no 'macs:norm'"):
        CostModel(GROUPS, TERMS, parts=["macs:norm"])


@pytest.mark.parametrize("part", ["size:back", "time:front", "size", "size:"])
def test_parts_that_do_not_exist_are_refused(part: str) -> None:
    with pytest.raises(ValueError, match="each KIND is one of front, block, norm"):
        CostModel(GROUPS, TERMS, parts=[part])


def test_nothing_is_copied_to_the_place_of_the_gates_in_every_step() -> None:
    model = CostModel(GROUPS, TERMS)
    counts = torch.tensor([2.0, 3.0, 1.0, 2.0])
    before = model.sparsity(counts, "macs"), model.evaluate(counts, "size")
    placed = dict(model._placed)
    after = model.sparsity(counts, "macs"), model.evaluate(counts, "size")
    assert before == after and all(model._placed[key] is tensor for key, tensor in placed.items())
    assert len(model._placed) == len(placed)
    assert model.sparsity(counts.double(), "macs").dtype == torch.float64
