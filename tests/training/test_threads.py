"""The number of threads fits the processors that a process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from pruning.training.threads import set_threads


@pytest.fixture(autouse=True)
def same_threads_after() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_more_threads_than_processors_are_cut_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    set_threads(2)
    assert torch.get_num_threads() == 1
    assert "num_threads is 2, but this process may use only 1 processor" in caplog.text


def test_as_many_threads_as_processors_are_used_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    set_threads(2)
    assert torch.get_num_threads() == 2 and not caplog.text
    set_threads(None)
    assert torch.get_num_threads() == 2
