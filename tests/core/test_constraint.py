"""Test ramps, the direction of the Lagrangian, and targets beyond reach."""

from __future__ import annotations

import pytest
import torch

from pruning.core.constraint import ConstraintConfig, Lagrangian, check_reachable, ramp
from pruning.core.cost import CostModel, CostTerm
from pruning.core.gates import GateConfig, HardConcreteGates
from pruning.core.units import UnitGroup
from pruning.errors import UserError


def test_cubic_ramp_has_the_published_values() -> None:
    values = [0.8 * ramp("cubic", k / 10) for k in range(11)]
    expected = [0, 0.217, 0.390, 0.526, 0.627, 0.700, 0.749, 0.778, 0.794, 0.799, 0.8]
    assert values == pytest.approx(expected, abs=5e-4)


def test_linear_ramp_stays_at_its_end() -> None:
    assert [ramp("linear", p) for p in (-1, 0, 0.25, 1, 3)] == [0, 0, 0.25, 1, 1]
    assert [ramp("one_shot", p) for p in (-1, 0, 0.25, 0.99, 1, 3)] == [0, 0, 0, 0, 1, 1]


def test_penalty_formula() -> None:
    lagrangian = Lagrangian({"size": 0.5, "macs": 0.4})
    with torch.no_grad():
        lagrangian.linear.copy_(torch.tensor([2.0, 3.0]))
        lagrangian.quadratic.copy_(torch.tensor([4.0, 5.0]))
    penalty = lagrangian(torch.tensor([0.3, 0.6]), 0.5)
    assert penalty.item() == pytest.approx(2 * 0.05 + 4 * 0.05**2 + 3 * 0.4 + 5 * 0.4**2)


def test_descent_on_gates_and_ascent_on_multipliers_reaches_the_target() -> None:
    groups = [UnitGroup("g", "k", 64, ())]
    costs = CostModel(groups, [CostTerm("k", ("g",), 1, 1)])
    gates, lagrangian = HardConcreteGates(groups, GateConfig(), seed=1), Lagrangian({"size": 0.6})
    descend = torch.optim.Adam(gates.parameters(), lr=0.05)
    ascend = torch.optim.Adam(lagrangian.parameters(), lr=0.05, maximize=True)
    for step in range(600):
        sparsity = costs.sparsity(gates.expected_counts(), "size").reshape(1)
        descend.zero_grad()
        ascend.zero_grad()
        lagrangian(sparsity, ramp("linear", step / 200)).backward()
        descend.step()
        ascend.step()
    assert costs.sparsity(gates.expected_counts(), "size").item() == pytest.approx(0.6, abs=0.02)


def test_a_target_beyond_reach_names_the_maximum() -> None:
    groups = [UnitGroup("g", "k", 8, (), minimum=2)]
    costs = CostModel(groups, [CostTerm("k", ("g",), 1, 1)])
    check_reachable(costs, groups, {"size": 0.75})
    with pytest.raises(UserError, match=r"0.8 in size is beyond reach: at most 0.7500 with the unit kinds k; lower"):
        check_reachable(costs, groups, {"size": 0.8})


@pytest.mark.parametrize(
    "values",
    [
        {"size": 1.0},
        {"size": 0.0},
        {"ramp": "square"},
        {"ramp_share": 0.0},
        {"parts": {"size:k": 1.0}},
        {"seconds": 0.0},
        {"seconds": -1.0},
        {"seconds": float("inf")},
    ],
)
def test_impossible_constraints_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))} must be|give a target"):
        ConstraintConfig(**values)


def test_parts_are_targets_too() -> None:
    config = ConstraintConfig(size=0.0, parts={"size:frontend": 0.3, "size:ffn": 0.0})
    assert config.targets() == {"size:frontend": 0.3}
