"""Averages of weights equal directly computed means."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.experiments.average import RunningAverage, mean, mean_between


def walk(steps: int, seed: int) -> list[dict[str, Tensor]]:
    """Return the running averages of a random walk, and its weights."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = RunningAverage(model)
    history = []
    for _ in range(steps):
        model(torch.randn(4, 3))
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        average.update(model)
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        history.append({**weights, **{f"average {name}": tensor.clone() for name, tensor in average.tensors.items()}})
    return history


@settings(max_examples=15, deadline=None)
@given(steps=st.integers(1, 30), data=st.data(), seed=st.integers(0, 99))
def test_mean_between_two_running_averages(steps: int, data: st.DataObject, seed: int) -> None:
    history = walk(steps, seed)
    first = data.draw(st.integers(0, steps - 1))

    def average_at(updates: int) -> dict[str, Tensor]:
        source = history[max(updates, 1) - 1]
        return {name[8:]: tensor for name, tensor in source.items() if name.startswith("average ")}

    result = mean_between(average_at(first), first, average_at(steps), steps)
    for name, tensor in result.items():
        if tensor.is_floating_point():
            wanted = torch.stack([moment[name] for moment in history[first:]]).mean(0)
            assert torch.allclose(tensor, wanted, atol=1e-4), name
        else:
            assert torch.equal(tensor, history[-1][name]), name


def test_plain_mean_in_float64() -> None:
    states = [{"w": torch.tensor([float(value)]), "n": torch.tensor(value)} for value in (1, 2, 2**24)]
    result = mean(states)
    assert result["w"].dtype == torch.float32 and result["w"].item() == pytest.approx((3 + 2**24) / 3, rel=1e-7)
    assert result["n"].item() == 2**24


def test_average_survives_saving() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    average, other = RunningAverage(model), RunningAverage(nn.Linear(2, 2))
    average.update(model)
    other.load(average.tensors, average.updates)
    model.weight.data.add_(1.0)
    for running in (average, other):
        running.update(model)
    assert torch.equal(average.tensors["weight"], other.tensors["weight"]) and other.updates == 2


def test_what_cannot_be_averaged_is_refused() -> None:
    one, other, longer = {"w": torch.zeros(2)}, {"v": torch.zeros(2)}, {"w": torch.zeros(3)}
    with pytest.raises(ValueError, match="no update between"):
        mean_between(one, 5, one, 5)
    for different in (other, longer):
        with pytest.raises(ValueError, match="tensor [vw] differs"):
            mean([one, different])
        with pytest.raises(ValueError, match="tensor [vw] differs"):
            mean_between(one, 1, different, 2)
    with pytest.raises(ValueError, match="nothing to average"):
        mean([])
