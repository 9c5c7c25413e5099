"""Reports of a run: weighted means, one line per step, a progress bar only on a terminal."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.training.distributed import World
from pruning.training.progress import MetricsFile, Reporter, TermAverage

WORLD = World(0, 1, torch.device("cpu"))


class TwoProcesses(World):
    """Simulates a second process with the same terms and one more."""

    def gather(self, value: dict) -> list[dict]:
        return [value, {**value, "other": [6.0, 3.0]}, {}]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-100, 100), st.integers(1, 1000)), min_size=1, max_size=8))
def test_means_are_weighted(batches: list[tuple[float, int]]) -> None:
    terms = TermAverage()
    for value, weight in batches:
        terms.add({"loss": torch.tensor(value), "weight": torch.tensor(weight)})
    wanted = sum(value * weight for value, weight in batches) / sum(weight for _, weight in batches)
    assert terms.means(WORLD)["loss"] == pytest.approx(wanted, rel=1e-5, abs=1e-4)
    assert terms.means(WORLD) == {}


def test_terms_that_come_late_or_from_one_process_count_by_their_own_weight() -> None:
    terms = TermAverage()
    terms.add({"loss": torch.tensor(1.0)})
    terms.add({"loss": torch.tensor(3.0), "ctc": torch.tensor(8.0)})
    assert terms.means(TwoProcesses(0, 2, torch.device("cpu"))) == {"loss": 2.0, "ctc": 8.0, "other": 2.0}


def test_half_a_window_survives_saving() -> None:
    whole, first = TermAverage(), TermAverage()
    for value in (0.1, 0.7):
        whole.add({"loss": torch.tensor(value), "weight": torch.tensor(3)})
        first.add({"loss": torch.tensor(value), "weight": torch.tensor(3)})
    second = TermAverage()
    second.load_state(json.loads(json.dumps(first.state())))
    for terms in (whole, second):
        terms.add({"loss": torch.tensor(0.3), "weight": torch.tensor(5)})
    assert whole.means(WORLD) == second.means(WORLD)


def test_the_metrics_file_is_cut_back_to_the_resumed_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, 0)
    first.write({"step": 1})
    size = first.size
    first.write({"step": 2})
    first.close()
    again = MetricsFile(path, size)
    again.write({"step": 2, "again": True})
    again.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}, {"step": 2, "again": True}]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    reporter = Reporter(tmp_path, 0, 4, 0, tensorboard=False, active=True)
    with caplog.at_level(logging.INFO):
        for step in range(1, 5):
            reporter.advance()
            reporter.report("train", {"epoch": 1, "batch": step, "step": step}, {"loss": 0.5 / step})
    reporter.close()
    shown = terminal.getvalue()
    assert "4/4" in shown and "step/s" in shown and "train loss 0.125" in shown


def test_other_processes_are_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reporter = Reporter(tmp_path, 0, 4, 0, tensorboard=True, active=False)
    with caplog.at_level(logging.INFO):
        reporter.advance()
        reporter.report("train", {"epoch": 1, "batch": 1, "step": 1}, {"loss": 0.5})
    reporter.close()
    assert not list(tmp_path.iterdir()) and not caplog.records and reporter.metrics_size == 0
