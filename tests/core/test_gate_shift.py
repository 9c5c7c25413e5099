"""A common shift brings the expected sparsity of gates to a target and keeps the differences between gates."""

from __future__ import annotations

import pytest
import torch

from pruning.core.cost import CostModel, CostTerm
from pruning.core.gate_shift import EXACT, GateShift
from pruning.core.gate_steps import KindSteps
from pruning.core.gates import LIMIT, GateConfig, HardConcreteGates
from pruning.core.units import UnitGroup

GROUPS = [UnitGroup("a", "one", 64, ()), UnitGroup("b", "two", 32, ())]
TERMS = [CostTerm("one", ("a",), 1, 5), CostTerm("two", ("b",), 3, 1)]


@pytest.mark.parametrize("target", [0.05, 0.5, 0.97])
@pytest.mark.parametrize("deviation", [0.01, 2.0])
def test_expected_sparsity_is_on_target(target: float, deviation: float) -> None:
    costs = CostModel(GROUPS, TERMS)
    gates = HardConcreteGates(GROUPS, GateConfig(deviation=deviation), seed=1)
    before = gates.log_alpha.detach().clone()
    GateShift(gates, costs, {"size": target}).to({"size": target})
    assert costs.sparsity(gates.expected_counts(), "size").item() == pytest.approx(target, abs=EXACT)
    inside = gates.log_alpha.abs() < LIMIT
    shifts = (before - gates.log_alpha)[inside]
    assert shifts.max().item() == pytest.approx(shifts.min().item(), abs=1e-4)
    GateShift(gates, costs, {"size": 0.01}).to({"size": 0.01})
    assert costs.sparsity(gates.expected_counts(), "size").item() == pytest.approx(0.01, abs=EXACT), "back again"


def test_parts_have_their_own_shifts_and_other_gates_none() -> None:
    parts = {"size:one": 0.3, "size:two": 0.6}
    costs = CostModel(GROUPS, TERMS, None, list(parts))
    gates = HardConcreteGates(GROUPS, GateConfig(), seed=1)
    GateShift(gates, costs, parts).to(parts)
    for part, target in parts.items():
        assert costs.sparsity(gates.expected_counts(), part).item() == pytest.approx(target, abs=EXACT)
    alone = HardConcreteGates(GROUPS, GateConfig(), seed=1)
    before = alone.log_alpha.detach().clone()
    GateShift(alone, costs, {"size:two": 0.6}).to({"size:two": 0.6})
    assert torch.equal(alone.log_alpha[:64], before[:64]) and (alone.log_alpha[64:] < before[64:]).all()
    with pytest.raises(ValueError, match="size, macs depend on the same units"):
        GateShift(gates, costs, {"size": 0.5, "macs": 0.5})


@pytest.mark.parametrize("target", [1.0, -1.0])
def test_a_target_beyond_the_limits_is_approached(target: float) -> None:
    gates = HardConcreteGates(GROUPS, GateConfig(), seed=1)
    GateShift(gates, CostModel(GROUPS, TERMS), {"size": target}).to({"size": target})
    assert gates.log_alpha.abs().min().item() == pytest.approx(LIMIT)


def test_gates_start_from_ranks() -> None:
    scores = torch.arange(96.0).flip(0)
    scores[:64] *= 100
    by_kind = HardConcreteGates(GROUPS, GateConfig(start_range=(1.0, 7.0)))
    by_kind.start_from(scores)
    assert by_kind.log_alpha[[0, 63, 64, 95]].tolist() == pytest.approx([7.0, 1.0, 7.0, 1.0])
    assert by_kind.log_alpha[:64].diff().tolist() == pytest.approx([-6 / 63] * 63, abs=1e-4)
    together = HardConcreteGates(GROUPS, GateConfig(start_within="network"))
    together.start_from(scores)
    assert together.log_alpha[[0, 95]].tolist() == pytest.approx([7.0, 1.0])
    assert together.log_alpha[:64].min() > together.log_alpha[64:].max()
    alone = HardConcreteGates([UnitGroup("a", "one", 1, ())], GateConfig())
    alone.start_from(torch.zeros(1))
    assert alone.log_alpha.tolist() == [7.0]


@pytest.mark.parametrize(
    "values", [{"start_range": (7.0, 1.0)}, {"start_range": (1.0,)}, {"start_range": (-30.0, 7.0)}, {"start": "fisher"}]
)
def test_starts_without_meaning_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="start"):
        GateConfig(**values)


def test_steps_by_kind_are_in_proportion_to_gradients() -> None:
    """In plain loops, over three steps."""
    gates, generator = HardConcreteGates(GROUPS, GateConfig(), seed=1), torch.Generator().manual_seed(0)
    steps, alpha = KindSteps(gates.units), torch.zeros(96)
    expected, momentum, square = [0.0] * 96, [0.0] * 96, [0.0, 0.0]
    for made in range(1, 4):
        gradient = torch.randn(96, generator=generator)
        gradient[64:] *= 43
        steps.move(alpha, gradient, 0.1)
        for kind, part in enumerate((range(64), range(64, 96))):
            mean = sum(float(gradient[i]) ** 2 for i in part) / len(part)
            square[kind] = 0.98 * square[kind] + 0.02 * mean
            for i in part:
                momentum[i] = 0.9 * momentum[i] + 0.1 * float(gradient[i])
                root = (square[kind] / (1 - 0.98**made)) ** 0.5
                expected[i] -= 0.1 * momentum[i] / (1 - 0.9**made) / root
    assert alpha.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
