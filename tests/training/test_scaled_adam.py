"""ScaledAdam against its formulas computed tensor by tensor, its limits, and what it leaves to AdamW."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pruning.training.optimiser import Optimiser, OptimiserConfig
from pruning.training.scaled_adam import LARGEST_RMS, SMALLEST_RMS, ScaledAdam
from pruning.training.schedule import ScheduleConfig
from tests.training.test_optimiser import Module, backward

LR, BETAS, EPS, SCALE_LR = 0.05, (0.8, 0.95), 1e-8, 0.2


def parameters() -> list[nn.Parameter]:
    """Return tensors of several sizes, some of like shape, one of zeros and a single number."""
    torch.manual_seed(0)
    tensors = [torch.randn(3, 4), 0.01 * torch.randn(3, 4), torch.randn(5), torch.zeros(5), torch.tensor(2.0)]
    return [nn.Parameter(tensor.double()) for tensor in tensors]


def of(parameters: list[nn.Parameter], betas: tuple[float, float] = BETAS) -> ScaledAdam:
    return ScaledAdam(parameters, LR, betas, EPS, SCALE_LR)


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters()]


def stepped(parameters: list[nn.Parameter], optimiser: ScaledAdam, step: int) -> None:
    for parameter, gradient in zip(parameters, gradients(step)):
        parameter.grad = gradient
    optimiser.step()


class Formulas:
    """The formulas for one tensor, with lists of all past gradients instead of running averages."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach().clone()
        self.gradients: list[Tensor] = []
        self.of_scale: list[Tensor] = []

    def step(self, gradient: Tensor) -> None:
        self.gradients.append(gradient)
        self.of_scale.append((gradient * self.value).sum())
        if self.value.numel() == 1:
            self.value = self.value - SCALE_LR * LR * self._direction(self.gradients)
            return
        size = math.sqrt(float((self.value**2).mean()))
        scale = SCALE_LR * LR * float(self._direction(self.of_scale))
        scale = min(scale, 0.0) if size < SMALLEST_RMS else scale  # too small a tensor is not scaled down
        change = LR * max(size, SMALLEST_RMS) * self._direction(self.gradients)
        self.value = self.value - change - scale * self.value

    def _direction(self, gradients: list[Tensor]) -> Tensor:
        ages = range(len(gradients) - 1, -1, -1)
        mean = sum((1 - BETAS[0]) * BETAS[0] ** age * g for age, g in zip(ages, gradients))
        square = sum((1 - BETAS[1]) * BETAS[1] ** age * g**2 for age, g in zip(ages, gradients))
        steps = len(gradients)
        correction = math.sqrt(1 - BETAS[1] ** steps) / (1 - BETAS[0] ** steps)
        return correction * torch.as_tensor(mean) / (torch.as_tensor(square).sqrt() + EPS)


def test_steps_are_those_of_the_formulas() -> None:
    tensors = parameters()
    optimiser, expected = of(tensors), [Formulas(tensor) for tensor in tensors]
    for step in range(6):
        stepped(tensors, optimiser, step)
        for formulas, gradient in zip(expected, gradients(step)):
            formulas.step(gradient)
    for tensor, formulas in zip(tensors, expected):
        assert torch.allclose(tensor, formulas.value, rtol=1e-9, atol=1e-15)


def test_relative_changes_do_not_depend_on_the_size_of_a_tensor() -> None:
    small, large = (nn.Parameter(factor * torch.ones(4, 4).double()) for factor in (1e-3, 1.0))
    optimiser = of([small, large])
    small.grad, large.grad = 1e3 * torch.eye(4).double(), torch.eye(4).double()
    optimiser.step()
    assert torch.allclose(1e3 * small, large, rtol=1e-6)


def test_tensors_are_not_scaled_beyond_the_limits() -> None:
    large, small = nn.Parameter(LARGEST_RMS * torch.ones(4)), nn.Parameter(torch.full((4,), 0.5 * SMALLEST_RMS))
    optimiser = of([large, small], betas=(0.0, 0.0))
    for _ in range(30):
        large.grad, small.grad = -torch.ones(4), torch.ones(4)
        optimiser.step()
    # what is left is the step of each entry, from the largest size by LR at most
    assert float(large.detach().square().mean().sqrt()) < LARGEST_RMS * (1 + 2 * LR)
    assert float(small.detach().abs().max()) < 40 * SMALLEST_RMS


def test_state_of_like_shaped_tensors_survives_exactly() -> None:
    module, resumed = Module(), Module()
    optimiser = scaled(module)
    for step in range(3):
        backward(module, 1.0 + step)
        optimiser.step()
        optimiser.zero_grad()
    resumed.load_state_dict(module.state_dict())
    other = scaled(resumed)
    other.load_tensors(optimiser.tensors())
    assert {name.split(".", 1)[0] for name in other.tensors()} == {"step", "exp_avg", "exp_avg_sq", "scale_avg",
                                                                  "scale_avg_sq"}  # fmt: skip
    for one, its in ((module, optimiser), (resumed, other)):
        for _ in range(2):
            backward(one)
            its.step()
            its.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), resumed.parameters()))


def scaled(module: Module, name: str = "scaled_adam") -> Optimiser:
    config = OptimiserConfig(name=name, lr=LR)  # type: ignore[arg-type]
    return Optimiser(config, ScheduleConfig(), module.groups(), module)


def test_gates_and_multipliers_are_left_to_adamw() -> None:
    module, other = Module(), Module()
    for one, optimiser in ((module, scaled(module)), (other, scaled(other, "adamw"))):
        for _ in range(3):
            backward(one)
            optimiser.step()
            optimiser.zero_grad()
        assert ("scale_avg" in optimiser.state[one.linear.weight]) == (one is module)
        assert "scale_avg" not in optimiser.state[one.gate]
    assert torch.equal(module.gate, other.gate) and torch.equal(module.multiplier, other.multiplier)
    assert not torch.equal(module.linear.weight, other.linear.weight)


def test_a_missing_gradient_is_zero() -> None:
    missing, zero = parameters(), parameters()
    missing[0].grad, zero[0].grad = None, torch.zeros_like(zero[0])
    for tensors in (missing, zero):
        tensors[1].grad = torch.ones_like(tensors[1])
        of(tensors[:2]).step()
    assert torch.equal(missing[0], parameters()[0]) and torch.equal(missing[1], zero[1])


@pytest.mark.parametrize("name", ["adamw", "scaled_adam"])
def test_moments_are_changed_in_place(name: str) -> None:
    """Low rank rotates the moments of weights in place, by the state of each parameter."""
    module = Module()
    optimiser = scaled(module, name)
    backward(module)
    optimiser.step()
    optimiser.state[module.linear.weight]["exp_avg"].zero_()
    assert not optimiser.tensors()["exp_avg.linear.weight"].any()
    before = module.linear.weight.detach().clone()
    module.linear.weight.grad = torch.zeros(2, 3)
    module.linear.bias.grad = torch.zeros(2)
    optimiser.settings[0]["weight_decay"] = 0.0
    if name == "scaled_adam":
        optimiser.state[module.linear.weight]["scale_avg"].zero_()
    optimiser.step()
    assert torch.equal(module.linear.weight, before)
