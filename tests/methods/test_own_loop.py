"""Pruning inside a training loop of one's own: every method meets its target, and extracts what it masked."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.core.constraint import ConstraintConfig
from pruning.core.declare import DeclaredUnits, gated_units, linear_units
from pruning.core.gates import GateConfig
from pruning.core.names import DEPTH
from pruning.errors import UserError
from pruning.experiments.checkpoint import save_model
from pruning.files import write_json
from pruning.measure import timing
from pruning.measure.latency import measure_latency
from pruning.methods.config import PruningConfig
from pruning.methods.criterion import CriterionConfig
from pruning.methods.l0 import L0Config
from pruning.methods.names import METHODS
from pruning.methods.own_loop import OwnLoop, load_extracted

STEPS = 80


class Net(nn.Module):
    """Two pruned places and a batch norm, whose statistics training moves."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(6, 40), nn.BatchNorm1d(40), nn.Linear(40, 8)
        self.both, self.out = nn.Linear(8, 48), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(torch.relu(self.norm(self.up(x))))
        return self.out(nn.functional.glu(self.both(y)))


def declared(model: Net) -> list[DeclaredUnits]:
    return [linear_units(model, "first", ["up"], ["down"], ["norm"]),
            gated_units(model, "second", "both", "both", "out", kind="gated")]  # fmt: skip


def trained(config: PruningConfig, steps: int = STEPS, seed: int = 0) -> tuple[OwnLoop, Net]:
    """A loop that has run for ``steps`` of its steps."""
    torch.manual_seed(seed)
    model = Net()
    loop = OwnLoop(model, declared(model), [torch.randn(1, 6)], config, STEPS)
    optimiser = torch.optim.AdamW(loop.parameter_groups(lr=1e-2, weight_decay=1e-3))
    for _ in range(steps):
        x = torch.randn(32, 6)
        with loop.masked():
            loss = (model(x) - x[:, :3].sin()).square().mean() + loop.penalty()
        loss.backward()
        loop.before_update(lr=1e-2)
        optimiser.step()
        optimiser.zero_grad()
        loop.after_update()
    return loop, model


def configured(method: str, **targets: float) -> PruningConfig:
    parts = {"size:ffn": 0.5, "size:gated": 0.4} if method == "hj-sepsize" else {}
    targets = {} if parts else targets
    constraint = ConstraintConfig(**{"size": 0.0, **targets}, parts=parts, ramp_share=0.4)
    gating = L0Config(GateConfig(initial=1.0), gate_lr=0.2, multiplier_lr=0.2)
    return PruningConfig(method, constraint=constraint, l0=gating, criterion=CriterionConfig(interval=1))


@pytest.mark.parametrize("method", [method for method in METHODS if method != DEPTH])
@pytest.mark.parametrize("cost", ["size", "macs"])
def test_every_method_meets_its_target(method: str, cost: str, tmp_path: Path) -> None:
    if method in ("hj-size", "hj-mac"):
        cost = {"hj-size": "size", "hj-mac": "macs"}[method]
    loop, model = trained(configured(method, **{cost: 0.5}))
    model.eval()
    x = torch.randn(7, 6)
    with torch.no_grad(), loop.masked():
        masked = model(x)
    small = loop.extract()
    assert isinstance(small, Net) and not small.training
    with torch.no_grad():
        assert torch.allclose(small(x), masked, atol=1e-5)
    if method == "hj-sepsize":
        assert abs(loop.sparsity()["size:ffn"] - 0.5) < 0.06 and abs(loop.sparsity()["size:gated"] - 0.4) < 0.06
    else:
        assert abs(loop.sparsity()[cost] - 0.5) <= 0.01
    if cost == "size":
        sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (small, model)]
        assert loop.sparsity()["size"] == pytest.approx(1 - sizes[0] / sizes[1], abs=1e-6)
    loop.save(small, tmp_path / "small.safetensors")
    torch.manual_seed(9)
    again = load_extracted(Net(), tmp_path / "small.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(again(x), small(x))


def test_whole_layers_need_layers() -> None:
    with pytest.raises(UserError, match="the criterion depth needs units in layers, and the network declares none"):
        trained(configured(DEPTH, size=0.5))


def test_a_measured_latency_is_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that gives the dense network 1 s and every quarter of the units 0.2 s, whatever the machine does."""

    def timed(calls: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
        for call in calls:
            call()
        return [[1.0] * repeats, *([0.2 + 0.2 * quarter] * repeats for quarter in range(len(calls) - 1))]

    monkeypatch.setattr(timing, "interleaved", timed)
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(64, 2000), nn.ReLU(), nn.Linear(2000, 64))
    units = [linear_units(wide, "hidden", ["0"], ["2"])]
    x = torch.randn(200, 64)
    table = measure_latency(wide.train(), units, [x], repeats=5)
    assert wide.training and table.kinds["ffn"] == pytest.approx((0.0, 0.2, 0.4, 0.6, 0.8)) and table.rest > 0
    write_json(tmp_path / "latency.json", table.to_dict())
    constraint = ConstraintConfig(size=0.0, latency=0.3, latency_table=str(tmp_path / "latency.json"), ramp="one_shot",
                                  ramp_share=0.5)  # fmt: skip
    loop = OwnLoop(wide, units, [x], PruningConfig("magnitude", constraint=constraint), total_steps=2)
    loop.after_update()
    loop.after_update()
    assert abs(loop.sparsity()["latency"] - 0.3) <= 0.01
    first = loop.extract().get_submodule("0")
    assert isinstance(first, nn.Linear) and first.out_features < 2000


def test_a_loop_that_has_not_ended_extracts_nothing() -> None:
    loop, _ = trained(configured("taylor", size=0.5), steps=10)
    with pytest.raises(UserError, match="10 of 80 steps were made, and the ramp of the target ends at step 32"):
        loop.extract()


@pytest.mark.parametrize(
    ("method", "forgotten", "message"),
    [
        ("l0", "penalty", "the multipliers of the constraint did not move; run the network inside masked"),
        ("l0", "groups", "the multipliers of the constraint did not move"),
        ("hj-size", "penalty", "the multipliers of the constraint did not move"),
        ("taylor", "before", "no step was scored by taylor"),
        ("taylor", "masked", "no step was scored by taylor"),
        ("wanda", "masked", "no step was scored by wanda"),
        ("l0", "after", "after_update was never called"),
        ("magnitude", "after", "after_update was never called"),
    ],
)
def test_a_call_that_was_forgotten_is_told(method: str, forgotten: str, message: str) -> None:
    torch.manual_seed(0)
    model = Net()
    loop = OwnLoop(model, declared(model), [torch.randn(1, 6)], configured(method, size=0.5), STEPS)
    parameters = model.parameters() if forgotten == "groups" else loop.parameter_groups(lr=1e-2)
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(STEPS):
        x = torch.randn(32, 6)
        with contextlib.nullcontext() if forgotten == "masked" else loop.masked():
            loss = model(x).square().mean()
            if forgotten != "penalty":
                loss = loss + loop.penalty()
        loss.backward()
        if forgotten != "before":
            loop.before_update(lr=1e-2)
        optimiser.step()
        optimiser.zero_grad()
        if forgotten != "after":
            loop.after_update()
    with pytest.raises(UserError, match=message):
        loop.extract()


@pytest.mark.parametrize("method", ["taylor", "fisher", "movement", "l0"])
def test_a_step_whose_gradients_overflow_is_not_scored(method: str) -> None:
    """As in the first steps of a GradScaler, which leaves out the step of the optimiser."""
    torch.manual_seed(0)
    model, config = Net(), configured(method, size=0.5)
    config = replace(config, l0=replace(config.l0, gate_steps="kind"))
    loop = OwnLoop(model, declared(model), [torch.randn(1, 6)], config, STEPS)
    optimiser = torch.optim.AdamW(loop.parameter_groups(lr=1e-2))
    for step in range(STEPS):
        x = torch.randn(32, 6)
        with loop.masked():
            loss = (model(x) - x[:, :3].sin()).square().mean() + loop.penalty()
            (loss if step else 1e39 * loss).backward()
        loop.before_update(lr=1e-2)
        if step:
            optimiser.step()
        optimiser.zero_grad()
        loop.after_update()
    for units in loop.structure().groups.values():
        assert units.scores is not None and all(map(math.isfinite, units.scores))


def test_gradients_of_sparse_embeddings_are_told() -> None:
    torch.manual_seed(0)
    words = nn.Sequential(nn.Embedding(9, 6, sparse=True), Net())
    units = [linear_units(words, "first", ["1.up"], ["1.down"], ["1.norm"])]
    loop = OwnLoop(words, units, [torch.tensor([1])], configured("taylor", size=0.2), STEPS)
    with loop.masked():
        words(torch.arange(9)).sum().backward()
    loop.before_update(lr=1e-2)
    assert not loop.pruner.untrained()


@pytest.mark.parametrize("name", ["AdamW", "NAdam", "RAdam", "SGD"])
def test_multipliers_ascend_under_any_optimiser(name: str) -> None:
    """At the first step the target is 0, so the expected sparsity is above it."""
    torch.manual_seed(0)
    model = Net()
    loop = OwnLoop(model, declared(model), [torch.randn(1, 6)], configured("l0", size=0.5), STEPS)
    loop.parameter_groups(lr=1e-2)
    optimiser = getattr(torch.optim, name)(loop.parameter_groups(lr=1e-2), lr=1e-2)
    with loop.masked():
        (model(torch.randn(32, 6)).sum() + loop.penalty()).backward()
    optimiser.step()
    values = loop.log_values()
    assert values["multipliers/size/linear"] > 0 and values["multipliers/size/quadratic"] > 0


def test_gates_that_did_not_reach_the_target_are_told(caplog: pytest.LogCaptureFixture) -> None:
    config = PruningConfig("l0", constraint=ConstraintConfig(ramp_share=0.4))  # rates for many more steps
    loop, _ = trained(config)
    loop.extract()
    assert re.search(r"expected sparsity of 0\.\d\d in size for a target of 0\.50; the rest is", caplog.text)
    assert "sparsity/size/hard" in loop.log_values()


def test_macs_that_cannot_be_counted_are_no_target() -> None:
    class Recurrent(Net):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.GRU(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.recurrent(super().forward(x))[0]

    model = Recurrent()
    OwnLoop(model, declared(model), [torch.randn(1, 6)], configured("taylor", size=0.3), 10)
    with pytest.raises(UserError, match="cannot count the multiply-accumulates of recurrent; set a target"):
        OwnLoop(model, declared(model), [torch.randn(1, 6)], configured("taylor", macs=0.3), 10)


@pytest.mark.parametrize(
    ("method", "settings", "targets", "message"),
    [
        ("magnitude", {"snapshots": (0.2,)}, {}, "an own loop cannot save snapshots; leave them out"),
        ("l0", {"snapshots": (0.2,)}, {}, "snapshots work only with criteria that rank units"),
        ("l0", {"counts_from": "structure.json"}, {}, "counts_from works only with criteria"),
        ("magnitude", {}, {"match": {"macs": 0.3}}, "constraint.match works only with L0 gates"),
        ("hj-sepsize", {}, {"parts": {"size:ffn": 0.5}}, "hj-sepsize needs sizes of at least two parts"),
        ("hj-mac", {}, {}, "hj-mac needs constraint.macs; correct the PruningConfig"),
    ],
)
def test_settings_without_effect_are_refused(
    method: str, settings: dict[str, Any], targets: dict[str, Any], message: str
) -> None:
    model = Net()
    config = PruningConfig(method, constraint=ConstraintConfig(**targets), **settings)
    with pytest.raises(UserError, match=message):
        OwnLoop(model, declared(model), [torch.randn(1, 6)], config, STEPS)


def test_what_is_refused(tmp_path: Path) -> None:
    model = Net()
    example = [torch.randn(1, 6)]
    with pytest.raises(UserError, match="technique low_rank is for networks of this package"):
        OwnLoop(model, declared(model), example, PruningConfig("magnitude", "low_rank"), 10)
    with pytest.raises(UserError, match="total_steps must be at least 1, got 0"):
        OwnLoop(model, declared(model), example, configured("taylor", size=0.5), 0)
    with pytest.raises(UserError, match="sparsity of 0.99 in size"):
        OwnLoop(model, declared(model), example, configured("taylor", size=0.99), 10)
    with pytest.raises(UserError, match="does not exist"):
        load_extracted(Net(), tmp_path / "none.safetensors")
    save_model(tmp_path / "other.safetensors", model, {"model": {"type": "transducer"}})
    with pytest.raises(UserError, match="network of type 'transducer'; load it with pruning.load_network"):
        load_extracted(Net(), tmp_path / "other.safetensors")
    loop, _ = trained(configured("random", size=0.5))
    loop.save(loop.extract(), tmp_path / "small.safetensors")
    other = Net()
    other.up = nn.Linear(7, 40)
    for wrong in (other, nn.Linear(3, 3)):
        with pytest.raises(UserError, match="small.safetensors does not fit this network"):
            load_extracted(wrong, tmp_path / "small.safetensors")
