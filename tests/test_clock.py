"""The clock waits for what computes on after a call."""

from __future__ import annotations

import pytest
import torch

from pruning import clock


def test_a_gpu_is_waited_for_before_the_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", events.append)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: events.append("read") or 3.0)
    assert clock.now("cpu") == clock.now(torch.device("cuda", 1)) == clock.now("cuda") == 3.0
    assert events == ["read", torch.device("cuda", 1), "read", "cuda", "read"]
