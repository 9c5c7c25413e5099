"""Latency tables of networks of any make."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning import clock
from pruning.core.declare import linear_units
from pruning.measure.latency import measure_latency
from pruning.measure.timing import WARM_UP


def test_every_timed_call_waits_for_the_device_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, a call returns before its result is computed."""
    waited: list[object] = []
    monkeypatch.setattr(clock, "wait", waited.append)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    measure_latency(network, [linear_units(network, "hidden", ["0"], ["2"])], [torch.randn(2, 4)], points=3, repeats=2)
    networks = 3  # the whole one, and with half and as few of the units as may be
    assert waited == [torch.device("cpu")] * networks * (WARM_UP + 2)
