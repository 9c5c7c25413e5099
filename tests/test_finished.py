"""Records of finished commands are valid only for the same command line and unchanged files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pruning import finished
from pruning.finished import Record


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Make an experiment, its inputs, and the record of the command."""
    (tmp_path / "exp").mkdir()
    for name in ("exp/.done", "exp/best.safetensors", "train.yaml"):
        (tmp_path / name).write_text(name)
    record(tmp_path).write([tmp_path / "train.yaml", tmp_path / "exp", tmp_path / "nothing"], [tmp_path / "exp"])
    return tmp_path


def record(place: Path, *words: str) -> Record:
    return Record(place / "exp", "train", ["--config", "train.yaml", *words])


def test_the_same_command_has_ended(place: Path) -> None:
    assert record(place).holds()
    (place / "exp/.lock").write_text("process 1")
    (place / "exp/log").mkdir()
    assert record(place).holds(), "other files in the directory do not matter"


def replace(place: Path) -> None:
    """Replace a file by one of the same size and modification time."""
    path = place / "train.yaml"
    found = path.stat()
    while path.stat().st_ctime_ns == found.st_ctime_ns:  # the clock of a file system is coarse
        path.write_text("other.yaml")
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file written again": lambda place: (place / "exp/best.safetensors").write_text("longer than it was before"),
    "the done mark gone": lambda place: (place / "exp/.done").unlink(),
    "a file that was not there": lambda place: (place / "nothing").write_text(""),
    "the same size and time": replace,
    "no record": lambda place: record(place).path.unlink(),
    "a damaged record": lambda place: record(place).path.write_text('{"files": [1]}'),
    "half a record": lambda place: record(place).path.write_bytes(record(place).path.read_bytes()[:40]),
    "a record of nothing": lambda place: record(place).path.write_text('{"files": {}, "code": ""}'),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_has_changed_is_looked_at(place: Path, what: str) -> None:
    CHANGES[what](place)
    assert not record(place).holds()


def test_another_command_line_is_another_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not record(place, "trainer.seed=2").holds()
    assert not Record(place / "exp", "prune", ["--config", "train.yaml"]).holds()
    monkeypatch.chdir(place)
    assert not record(place).holds(), "relative paths name other files there"


def test_what_was_written_while_the_command_ran_is_looked_at(place: Path) -> None:
    """A configuration edited during its run is not that of the run; files that the run wrote do not matter."""
    again = record(place, "again")
    path = place / "train.yaml"
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns in (before, again._began) or path.stat().st_ctime_ns < again._began:
        path.write_text("edited")
    again.write([path], [place / "exp"])
    assert not again.path.exists()
    (place / "exp/best.safetensors").write_text("made by the run")
    other = record(place, "other")
    other.write([place / "exp/.done"], [place / "exp"])
    assert other.holds()


def test_other_code_looks_for_itself(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "_code", lambda: "of another version")
    assert not record(place).holds()


def test_paths_among_options(place: Path) -> None:
    options = argparse.Namespace(config=str(place / "train.yaml"), cuts=[place / "exp", place / "gone"], seed=1,
                                 lang=None, name="", overrides=["trainer.seed=2"])  # fmt: skip
    assert list(finished.paths_of(options)) == [place / "train.yaml", place / "exp"]
