"""Test latency as a cost: interpolation, gradients, and a constraint that reaches its target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning import registry
from pruning.bin import latency as command
from pruning.core.constraint import ConstraintConfig
from pruning.core.cost import CostModel
from pruning.core.latency import LatencyModel, LatencyTable
from pruning.core.units import UnitGroup
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import read_json, write_json
from pruning.measure.latency import curve, cut_kind
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from pruning.methods.l0 import Gating, L0Config
from tests.methods.test_l0 import network, optimise

TABLE = LatencyTable(
    0.01,
    {"ffn": (0.0, 0.03, 0.04), "heads": (0.001, 0.021), "subsampling": (0.0, 0.005)},
    {"ffn": 384, "heads": 12, "subsampling": 16},
)


def test_seconds_by_hand() -> None:
    model = network()
    groups = model.unit_groups()
    latency = LatencyModel(groups, TABLE)
    counts = torch.tensor([float(group.size) for group in groups], dtype=torch.float64)
    assert latency.seconds(counts).item() == pytest.approx(0.01 + 0.04 + 0.021 + 0.005)
    index = [group.name for group in groups].index("encoder.layers.1.ffn.hidden")
    counts[index] = 16.0  # a quarter of one of six groups: the middle of the first segment
    expected = 0.01 + (5 * 0.04 + 0.015) / 6 + 0.021 + 0.005
    assert latency.seconds(counts).item() == pytest.approx(expected)
    module = [group.name for group in groups].index("encoder.layers.0.attention")
    counts[module] = 0.0
    assert latency.seconds(counts).item() == pytest.approx(expected - 0.02 / 3), "the time of `rest` remains"


def test_every_module_around_a_group_counts() -> None:
    """Expected counts: a group takes the time of its open units as far as all modules around it are open."""
    groups = [UnitGroup("layer", "layer", 1, ()), UnitGroup("layer.ffn", "ffn_module", 1, (), parent="layer"),
              UnitGroup("layer.ffn.hidden", "ffn", 4, (), parent="layer.ffn")]  # fmt: skip
    latency = LatencyModel(groups, LatencyTable(0.0, {"ffn": (0.0, 1.0)}, {"ffn": 4}))
    assert latency.seconds(torch.tensor([0.5, 0.25, 2.0])).item() == pytest.approx(0.5 * 0.25 * 0.5)


def test_gradients_are_the_slopes() -> None:
    groups = network().unit_groups()
    latency = LatencyModel(groups, TABLE)
    counts = torch.tensor([float(group.size) for group in groups], dtype=torch.float64)
    index = [group.name for group in groups].index("encoder.layers.1.ffn.hidden")
    counts[index] = 40.0
    counts.requires_grad_(True)
    latency.seconds(counts).backward()
    assert counts.grad is not None
    assert counts.grad[index].item() == pytest.approx(0.01 / 32 / 6), "slope of the flatter segment"


def test_a_cost_among_the_others() -> None:
    model = network()
    costs = CostModel(model.unit_groups(), model.cost_terms(1000), TABLE)
    assert costs.costs == ("size", "macs", "latency")
    assert costs.dense["latency"] == pytest.approx(0.076)
    assert costs.sparsity(costs.dense_counts(), "latency").item() == pytest.approx(0.0)
    assert 0.5 < costs.reachable(costs.groups)["latency"] < 1
    timed = {group.kind for group in costs.groups if group.name in costs.groups_of("latency")}
    assert timed == {"ffn", "ffn_module", "heads", "attention_module", "subsampling"}, "not convolutions"


@pytest.fixture
def table(tmp_path: Path) -> str:
    write_json(tmp_path / "latency.json", TABLE.to_dict())
    return str(tmp_path / "latency.json")


def test_gates_and_criteria_come_to_a_target_of_latency(table: str) -> None:
    constraint = ConstraintConfig(size=0.0, latency=0.4, latency_table=table, ramp_share=0.5)
    gating = Gating(network(), L0Config(gate_lr=0.1, multiplier_lr=0.1), constraint, 1000)
    optimise(gating, 60)
    assert gating.costs.structure_sparsity(gating.structure())["latency"] == pytest.approx(0.4, abs=0.01)
    method = CriterionPruning(network(), "magnitude", CriterionConfig(), constraint, 1000)
    method.keep.copy_(method._cut(1.0))
    assert method.costs.structure_sparsity(method.structure())["latency"] == pytest.approx(0.4, abs=0.01)


def test_targets_and_tables_are_checked(table: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="latency needs a latency_table"):
        ConstraintConfig(size=0.0, latency=0.3)
    with pytest.raises(UserError, match="0.95 in latency is beyond reach: at most 0."):
        Gating(network(), L0Config(), ConstraintConfig(size=0, latency=0.95, latency_table=table), 1000)
    with pytest.raises(UserError, match="covers the unit kinds strange, none of which"):
        LatencyModel(network().unit_groups(), LatencyTable(0.0, {"strange": (0.0, 1.0)}, {"strange": 3}))
    with pytest.raises(UserError, match="a network with 384 units of kind ffn, this one has 128; measure"):
        LatencyModel(network().unit_groups()[:10], TABLE)
    for rest, values in ((float("nan"), (0.0, 1.0)), (0.0, (0.0, 0.2, 0.1)), (0.0, (-0.1, 0.2))):
        with pytest.raises(ValueError, match="must not decrease with more units"):
            LatencyTable(rest, {"ffn": values}, {"ffn": 384})
    write_json(tmp_path / "other.json", {"rows": []})
    with pytest.raises(UserError, match="other.json is not a latency table"):
        LatencyTable.from_dict(read_json(tmp_path / "other.json"), "other.json")
    assert LatencyTable.from_dict(TABLE.to_dict()) == TABLE


def test_a_curve_from_what_was_saved() -> None:
    assert curve([0.0, 0.5], [4.0, 1.0], 3) == pytest.approx((0.0, 3.0, 4.0))
    assert curve([0.0, 0.25, 0.5, 0.75], [4.0, 2.0, -1.0, 0.5], 5) == pytest.approx((0.0, 2.0, 4.0, 4.0, 4.0))
    assert curve([0.0], [2.0], 5) == pytest.approx((0.0, 0.5, 1.0, 1.5, 2.0)), "one head: no points in between"


def test_only_shares_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    assert [cut_kind(model, "heads", share)[1] for share in (0.0, 0.1, 0.5)] == [0.0, 0.0, 0.5]
    assert cut_kind(model, "subsampling", 0.0)[1] == pytest.approx(1 / 8), "one must stay"
    small, _ = cut_kind(model, "ffn", 0.25)
    assert small.config.encoder.ffn_dim == (16, 16, 16) and small.config.encoder.num_heads == (4, 4, 4)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pytorch", "onnx"])
def test_the_measured_table(tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    if backend == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    model, threads = network(), torch.get_num_threads()
    header = {"model": registry.describe(model), "tokenizer": {}}
    checkpoint.save_model(checkpoint.best_path(tmp_path / "dense"), model, header)
    command.main(["--network", str(tmp_path / "dense"), "--output", str(tmp_path / "table.json"), "--points", "3",
                  "--repeats", "5", "--seconds", "4", "--backend", backend])  # fmt: skip
    torch.set_num_threads(threads)
    assert "ffn" in capsys.readouterr().out
    found = LatencyTable.from_dict(read_json(tmp_path / "table.json"))
    assert set(found.kinds) == {"subsampling", "ffn", "heads", "conv"}
    assert all(list(values) == sorted(values) and values[0] == 0 for values in found.kinds.values())
    costs = CostModel(model.unit_groups(), model.cost_terms(400), found)
    assert costs.dense["latency"] > 0
