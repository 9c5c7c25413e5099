"""Training states are complete or absent; the previous one stays until the new one is complete."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning.errors import UserError
from pruning.experiments import state
from pruning.experiments.state import TrainingState, latest_state, load_state, save_state


def make(epoch: int, batch: int, value: float = 0.0) -> TrainingState:
    tensors = {"task.model.weight": torch.full((2,), value), "optimiser.step.model.weight": torch.tensor(3.0)}
    return TrainingState(epoch, batch, tensors, {"step": 7, "best": None, "loss": 0.1 + 0.2})


def test_written_and_read_is_the_same(tmp_path: Path) -> None:
    path = save_state(tmp_path / "state", make(2, 30, 1.5))
    assert path.name == "epoch-0002-batch-000030" and latest_state(tmp_path / "state") == path
    read = load_state(path)
    assert (read.epoch, read.batch) == (2, 30) and read.numbers["loss"] == 0.1 + 0.2 and read.numbers["best"] is None
    assert torch.equal(read.part("task")["model.weight"], torch.full((2,), 1.5))
    assert list(read.part("optimiser")) == ["step.model.weight"]


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    for epoch, batch in ((1, 5), (1, 999), (2, 0), (10, 3)):
        path = save_state(tmp_path, make(epoch, batch))
        assert list(tmp_path.iterdir()) == [path] and latest_state(tmp_path) == path


def test_no_state_yet(tmp_path: Path) -> None:
    assert latest_state(tmp_path) is None and latest_state(tmp_path / "none") is None


@pytest.mark.parametrize("stage", ["write_tensors", "write_json", "_sync"])
def test_the_one_before_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    before = save_state(tmp_path, make(1, 5))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, stage, full)
    with pytest.raises(OSError, match="No space"):
        save_state(tmp_path, make(1, 10))
    assert list(tmp_path.iterdir()) == [before] and load_state(before).batch == 5


def test_leftovers_of_a_killed_process_are_no_state(tmp_path: Path) -> None:
    path = save_state(tmp_path, make(1, 5))
    (tmp_path / ".tmp-77-epoch-0009-batch-000001").mkdir()
    (tmp_path / "epoch-0009-batch-000000").mkdir()  # a state whose removal was interrupted
    assert latest_state(tmp_path) == path
    newer = save_state(tmp_path, make(1, 6))
    assert list(tmp_path.iterdir()) == [newer]


def test_damaged_states_are_named(tmp_path: Path) -> None:
    path = save_state(tmp_path, make(1, 5))
    whole = (path / "tensors.safetensors").read_bytes()
    (path / "tensors.safetensors").write_bytes(whole[:-3])
    with pytest.raises(UserError, match=r"tensors\.safetensors is not a complete .*; remove "):
        load_state(path)
    (path / "state.json").write_text('{"version": 99}')
    with pytest.raises(UserError, match=r"state\.json is not a training state of version 1"):
        load_state(path)
    (path / "state.json").write_text('{"version": 1')
    with pytest.raises(UserError, match=r"state\.json is not valid JSON"):
        load_state(path)
