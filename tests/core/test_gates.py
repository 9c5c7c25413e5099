"""Test hard-concrete gates against the published formulas, Monte Carlo sampling, and the evaluation rule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.core.cost import CostModel, CostTerm
from pruning.core.gates import LIMIT, GateConfig, HardConcreteGates
from pruning.core.units import UnitGroup


def groups() -> list[UnitGroup]:
    return [
        UnitGroup("m", "module", 1, ()),
        UnitGroup("m.units", "units", 40, (), parent="m"),
        UnitGroup("free", "other", 12, (), minimum=2),
    ]


def costs() -> CostModel:
    terms = [
        CostTerm("a", ("m", "m.units"), 7, 11),
        CostTerm("a", ("m",), 3, 0),
        CostTerm("b", ("free",), 5, 20),
        CostTerm("b", (), 2, 0),
    ]
    return CostModel(groups(), terms)


@pytest.mark.parametrize(
    ("alpha", "positive", "one", "mean"), [(0.0, 0.8318, 0.1682, 0.50), (2.5, 0.9837, 0.7112, 0.9059)]
)
def test_values_of_the_distribution(alpha: float, positive: float, one: float, mean: float) -> None:
    gates = HardConcreteGates([UnitGroup("g", "k", 200_000, ())], GateConfig(initial=alpha, deviation=0.0))
    assert gates.open_probability()[0].item() == pytest.approx(positive, abs=1e-4)
    torch.manual_seed(0)
    z = gates.sample()
    assert (z > 0).float().mean().item() == pytest.approx(positive, abs=4e-3)
    assert (z == 1).float().mean().item() == pytest.approx(one, abs=4e-3)
    assert z.mean().item() == pytest.approx(mean, abs=4e-3)


def test_gates_start_nearly_open() -> None:
    """With a drop rate of .5, modules times units would start the student with a quarter of the teacher's signal."""
    gates = HardConcreteGates([UnitGroup("g", "k", 20_000, ())], GateConfig())
    assert gates.log_alpha.mean().item() == pytest.approx(3.0, abs=1e-3)
    assert gates.log_alpha.std().item() == pytest.approx(0.01, rel=0.05)
    assert gates.open_probability().min().item() > 0.98


@pytest.mark.parametrize(("alpha", "positive"), [(math.log(100), 0.9980), (-math.log(100), 0.0471)])
def test_probability_at_the_usual_clamp(alpha: float, positive: float) -> None:
    gates = HardConcreteGates([UnitGroup("g", "k", 1, ())], GateConfig(initial=alpha, deviation=0.0))
    assert gates.open_probability().item() == pytest.approx(positive, abs=5e-5)


def test_gradient_of_a_sample_reaches_log_alpha() -> None:
    gates = HardConcreteGates(groups(), GateConfig(initial=0.0))
    torch.manual_seed(0)
    gates.sample().sum().backward()
    assert gates.log_alpha.grad is not None
    assert (gates.log_alpha.grad > 0).any()


def test_limit_leaves_a_gradient_beyond_it() -> None:
    gates = HardConcreteGates(groups(), GateConfig())
    gates.log_alpha.data.fill_(50.0)
    gates.limit()
    assert gates.log_alpha.max().item() == LIMIT
    gates.open_probability().sum().backward()
    assert (gates.log_alpha.grad > 0).all()


def test_expected_counts_sum_the_probabilities_and_keep_ungated_groups_whole() -> None:
    gates = HardConcreteGates(groups(), GateConfig(kinds=("units",), initial=0.0, deviation=0.0))
    assert gates.expected_counts().tolist() == pytest.approx([1.0, 40 * 0.83182, 12.0], rel=1e-4)


def test_expected_cost_is_the_mean_cost_of_independent_gates() -> None:
    """Compare the polynomial at expected counts with Monte Carlo sampling of gates."""
    gates, model = HardConcreteGates(groups(), GateConfig(initial=-1.0, deviation=1.0)), costs()
    expected = model.evaluate(gates.expected_counts(), "macs").item()
    torch.manual_seed(0)
    total, draws = 0.0, 4000
    for _ in range(draws):
        opened = (gates.sample() > 0).double()
        module, units, free = opened[0], opened[1:41].sum(), opened[41:].sum()
        total += (11 * module * units + 20 * free).item()
    assert total / draws == pytest.approx(expected, rel=0.02)


def test_rule_closes_the_smallest_of_each_group() -> None:
    gates = HardConcreteGates(groups(), GateConfig())
    with torch.no_grad():
        gates.log_alpha.fill_(8.0)
        gates.log_alpha[[3, 7, 20]] = -8.0
        gates.log_alpha[41:] = -8.0
    keep = gates.rule()
    assert (~keep[1:41]).nonzero().flatten().tolist() == [2, 6, 19]
    assert keep[41:].sum() == 2, "a group never falls below its minimum"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    mean=st.floats(-4, 6),
    spread=st.floats(0.01, 4),
    target=st.floats(0.05, 0.9),
    cost=st.sampled_from(["size", "macs"]),
)
def test_fitted_structure_meets_any_reachable_target(
    seed: int, mean: float, spread: float, target: float, cost: str
) -> None:
    gates, model = HardConcreteGates(groups(), GateConfig(initial=mean, deviation=spread), seed), costs()
    target = min(target, model.reachable(gates.units.chosen)[cost])
    structure = gates.structure(gates.fitted(model, {cost: target}))
    one_unit = max(7, 5) / model.dense["size"] if cost == "size" else 20 / model.dense["macs"]
    reached = model.structure_sparsity(structure)[cost]
    closed_module = structure.count("m") == 0
    assert reached == pytest.approx(target, abs=one_unit + 1e-6) or closed_module
    assert structure.count("free") >= 2
    counts = gates.units.hard_counts(gates.fitted(model, {cost: target}))
    assert counts.tolist() == [structure.count(group.name) for group in gates.units.groups]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), mean=st.floats(-4, 6), spread=st.floats(0.01, 4), target=st.floats(0.05, 0.95))
def test_modules_alone_meet_a_target_as_nearly_as_a_module_allows(
    seed: int, mean: float, spread: float, target: float
) -> None:
    groups, terms = [], [CostTerm("rest", (), 9, 9)]
    for index in range(6):
        name = f"m{index}"
        groups += [UnitGroup(name, "module", 1, ()), UnitGroup(f"{name}.units", "units", 4, (), parent=name)]
        terms += [CostTerm("a", (name, f"{name}.units"), 20 + index, 1), CostTerm("a", (name,), 3, 0)]
    model = CostModel(groups, terms)
    gates = HardConcreteGates(groups, GateConfig(kinds=("module",), initial=mean, deviation=spread), seed)
    structure = gates.structure(gates.fitted(model, {"size": target}))
    largest = (4 * 25 + 3) / model.dense["size"]
    assert model.structure_sparsity(structure)["size"] == pytest.approx(target, abs=largest / 2 + 1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(0.1, 0.8), macs=st.floats(0.1, 0.8))
def test_of_two_targets_the_harder_one_is_met_and_none_is_missed(seed: int, size: float, macs: float) -> None:
    gates, model = HardConcreteGates(groups(), GateConfig(initial=1.0, deviation=2.0), seed), costs()
    reached = model.structure_sparsity(gates.structure(gates.fitted(model, {"size": size, "macs": macs})))
    one_unit = max(20 / model.dense["macs"], 7 / model.dense["size"])
    assert min(reached["size"] - size, reached["macs"] - macs) == pytest.approx(0.0, abs=one_unit + 1e-6)


@pytest.mark.parametrize(
    ("size", "macs", "closed"),
    [(0.5, 0.5, ""), (0.6, 0.3, ""), (0.4, 0.7, ""), (0.7, 0.65, ""), (0.4, 0.3, "c"), (0.3, 0.2, "a"),
     (0.5, 0.7, "ac")],
)  # fmt: skip
def test_two_targets_are_both_met_where_units_allow_it(size: float, macs: float, closed: str) -> None:
    """Undecided gates do not determine which cost is cut: in their order alone, one of the two costs overshoots.

    Gates that the rule closed are opened again if it cut one cost too much and the other too little.
    """
    fine = [UnitGroup("a", "a", 300, ()), UnitGroup("b", "b", 900, ()), UnitGroup("c", "c", 200, ())]
    terms = [CostTerm("a", ("a",), 10, 3), CostTerm("b", ("b",), 4, 4), CostTerm("c", ("c",), 1, 20)]
    model, gates = CostModel(fine, terms), HardConcreteGates(fine, GateConfig())
    with torch.no_grad():
        for name in closed:
            gates.masks(gates.log_alpha)[name].sub_(8.0)
    reached = model.structure_sparsity(gates.structure(gates.fitted(model, {"size": size, "macs": macs})))
    assert reached["size"] == pytest.approx(size, abs=0.01)
    assert reached["macs"] == pytest.approx(macs, abs=0.01)


def test_targets_that_no_structure_meets_together_are_not_missed() -> None:
    """Each unit has the same share of both costs."""
    alike = [UnitGroup("a", "a", 100, ())]
    model, gates = CostModel(alike, [CostTerm("a", ("a",), 2, 3)]), HardConcreteGates(alike, GateConfig())
    reached = model.structure_sparsity(gates.structure(gates.fitted(model, {"size": 0.3, "macs": 0.6})))
    assert reached == pytest.approx({"size": 0.6, "macs": 0.6})


def test_soft_scales_are_the_published_ones_and_can_be_switched_off() -> None:
    soft = HardConcreteGates(groups(), GateConfig(initial=2.0, deviation=0.0)).structure()
    factor = 1 / (1 + math.exp(-0.8 * 2.0 * 1.5))
    assert soft.groups["free"].scale == pytest.approx([factor] * 12)
    assert HardConcreteGates(groups(), GateConfig(soft="one")).structure().groups["free"].scale is None


@pytest.mark.parametrize(
    "values",
    [{"initial": math.nan}, {"initial": 50.0}, {"start_range": (-30.0, 30.0)}, {"deviation": -0.1}, {"left": 0.0},
     {"right": 1.0}, {"temperature": 0.0}, {"soft": "half"}],
)  # fmt: skip
def test_settings_without_meaning_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))} must be "):
        GateConfig(**values)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no units of kind 'hedas'; it has module, other, units"):
        HardConcreteGates(groups(), GateConfig(kinds=("hedas",)))
