"""AdamW over groups: learning rates, clipping, ascent, and exact restoring of its state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.limits import OutOfRange
from pruning.training.optimiser import Optimiser, OptimiserConfig
from pruning.training.schedule import ScheduleConfig
from pruning.training.task import ParameterGroup, weight_groups


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.gate = nn.Parameter(torch.zeros(4))
        self.multiplier = nn.Parameter(torch.zeros(1))

    def groups(self) -> list[ParameterGroup]:
        return [
            *weight_groups([self.linear]),
            ParameterGroup(
                "gates", (self.gate,), lr=0.5, weight_decay=0.0, clip=False, schedule="constant", scaled=False
            ),
            ParameterGroup("multipliers", (self.multiplier,), lr=0.1, weight_decay=0.0, maximize=True, clip=False),
        ]


def make(module: Module, **settings: object) -> Optimiser:
    config = OptimiserConfig(**{"lr": 0.01, "weight_decay": 0.1, **settings})  # type: ignore[arg-type]
    return Optimiser(config, ScheduleConfig("constant", warmup_steps=10), module.groups(), module)


def backward(module: Module, scale: float = 1.0) -> None:
    inputs = torch.ones(5, 3)
    loss = module.linear(inputs).square().sum() + (module.gate.sum() + module.multiplier.sum()) * 100.0
    (loss * scale).backward()


def test_groups_have_their_own_rates_and_decay() -> None:
    module = Module()
    optimiser = make(module)
    optimiser.set_learning_rates(step=4, epoch=1, total_steps=None)
    assert optimiser.learning_rates() == pytest.approx(
        {"weights": 0.005, "vectors": 0.005, "gates": 0.5, "multipliers": 0.05}
    )
    decay = {group.name: s["weight_decay"] for group, s in zip(optimiser.groups, optimiser.settings)}
    assert decay == {"weights": 0.1, "vectors": 0.0, "gates": 0.0, "multipliers": 0.0}
    assert optimiser.groups[0].parameters == (module.linear.weight,)


def test_gates_descend_and_multipliers_ascend_by_the_rate() -> None:
    module = Module()
    optimiser = make(module)
    optimiser.set_learning_rates(100, 1, None)
    backward(module)
    optimiser.step()
    # Adam's first step is the learning rate against (or along) the gradient's sign
    assert torch.allclose(module.gate, torch.full((4,), -0.5))
    assert torch.allclose(module.multiplier, torch.tensor([0.1]))


def test_clip_is_of_the_clipped_groups_alone() -> None:
    module = Module()
    optimiser = make(module, clip_norm=0.25)
    backward(module)
    weights = torch.cat([module.linear.weight.grad.flatten(), module.linear.bias.grad])  # type: ignore[union-attr]
    norm, finite = optimiser.clip_gradients()
    assert finite and norm == pytest.approx(float(weights.norm()))
    after = torch.cat([module.linear.weight.grad.flatten(), module.linear.bias.grad])  # type: ignore[union-attr]
    assert float(after.norm()) == pytest.approx(0.25, rel=1e-3)
    assert torch.equal(module.gate.grad, torch.full((4,), 100.0))


def test_no_clip_leaves_gradients_alone() -> None:
    module = Module()
    optimiser = make(module, clip_norm=None)
    backward(module, 1e3)
    before = module.linear.weight.grad.clone()  # type: ignore[union-attr]
    optimiser.clip_gradients()
    assert torch.equal(before, module.linear.weight.grad)


@pytest.mark.parametrize("key", ["clip_norm", "eps"])
def test_settings_that_would_stop_or_break_the_weights_are_refused(key: str) -> None:
    with pytest.raises(OutOfRange, match=f"{key} must be above 0, got 0"):
        make(Module(), **{key: 0.0})


@pytest.mark.parametrize("name", ["linear.weight", "gate"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_gradients_that_are_not_finite_are_noticed_in_every_group(name: str, value: float) -> None:
    module = Module()
    optimiser = make(module)
    backward(module)
    dict(module.named_parameters())[name].grad.view(-1)[1] = value  # type: ignore[union-attr]
    assert not optimiser.clip_gradients()[1]


def test_state_survives_exactly() -> None:
    straight, resumed = Module(), Module()
    first = make(straight)
    for _ in range(3):
        backward(straight)
        first.step()
        first.zero_grad()
    resumed.load_state_dict(straight.state_dict())
    second = make(resumed)
    second.load_tensors({name: tensor.clone() for name, tensor in first.tensors().items()})
    assert {name.split(".", 1)[0] for name in first.tensors()} == {"step", "exp_avg", "exp_avg_sq"}
    for module, optimiser in ((straight, first), (resumed, second)):
        backward(module)
        optimiser.step()
    for ours, theirs in zip(straight.parameters(), resumed.parameters()):
        assert torch.equal(ours, theirs)


def test_parameters_must_be_in_exactly_one_group() -> None:
    module = Module()
    groups = module.groups()
    options = OptimiserConfig(), ScheduleConfig()
    with pytest.raises(ValueError, match="in no group: gate"):
        Optimiser(*options, [group for group in groups if group.name != "gates"], module)
    with pytest.raises(ValueError, match="gate is in the groups gates and again"):
        Optimiser(*options, [*groups, ParameterGroup("again", (module.gate,))], module)
    with pytest.raises(ValueError, match="not a parameter of the task"):
        Optimiser(*options, [*groups, ParameterGroup("foreign", (nn.Parameter(torch.zeros(1)),))], module)
    with pytest.raises(ValueError, match="have the same name"):
        Optimiser(*options, [*groups[:3], ParameterGroup("gates", (module.multiplier,))], module)
    with pytest.raises(ValueError, match="schedule must be 'weights' or 'constant'"):
        ParameterGroup("x", (), schedule="cosine")


def test_frozen_parameters_need_no_group() -> None:
    module = Module()
    module.gate.requires_grad_(False)
    groups = [group for group in module.groups() if group.name != "gates"]
    assert "gate" not in Optimiser(OptimiserConfig(), ScheduleConfig(), groups, module).names.values()


def test_weight_groups_share_no_parameter_of_tied_modules() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = one.weight
    matrices, vectors = weight_groups([one, other], lr=0.1, prefix="student_")
    assert [id(p) for p in matrices.parameters] == [id(one.weight)] and len(vectors.parameters) == 2
    assert (matrices.name, matrices.lr, vectors.name, vectors.weight_decay) == (
        "student_weights",
        0.1,
        "student_vectors",
        0.0,
    )
