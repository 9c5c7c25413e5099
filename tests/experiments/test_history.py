"""How an experiment came about, as its logs tell: also of experiments that name each other, and of odd commands."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pruning.experiments import checkpoint
from pruning.experiments.history import dense_origin, history
from pruning.files import write_text


def made(place: Path, command: str, **header: object) -> Path:
    """Write an experiment with the log of its command, and a checkpoint with a header."""
    write_text(place / "log" / "train.log", f"# {command}\n#\n")
    checkpoint.save_model(checkpoint.best_path(place), nn.Linear(1, 1), {"model": {}, **header})
    return place


def test_experiments_that_name_each_other(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    made(first, f"finetune --init {second}")
    made(second, f"finetune --teacher {first} --init {second}")
    found = history(first)
    assert found.commands == [f"finetune --teacher {first} --init {second}", f"finetune --init {second}"]
    assert found.origins == [second]


def test_commands_that_cannot_be_split(tmp_path: Path) -> None:
    """Only the first line of a log is read, and a quoted line end leaves a quote without its end there."""
    dense = made(tmp_path / "dense", "import")
    small = made(tmp_path / "small", f"finetune --init {dense} --note 'two")
    assert history(small).commands == ["import", f"finetune --init {dense} --note 'two"]


def test_the_dense_network_is_the_one_that_was_pruned(tmp_path: Path) -> None:
    """Not one that only teaches, nor one in between; checkpoints count as their experiments."""
    assert dense_origin(tmp_path / "none") is None
    dense, large = made(tmp_path / "dense", "import"), made(tmp_path / "large", "import")
    pruned = made(tmp_path / "pruned", f"prune --teacher {checkpoint.best_path(dense)}", found_structure={})
    extracted = made(tmp_path / "extracted", f"extract --pruned {pruned}", structure={})
    tuned = made(tmp_path / "tuned", f"finetune --teacher {large} --init {extracted}", structure={})
    assert dense_origin(tuned) == checkpoint.best_path(dense)
    assert dense_origin(made(tmp_path / "other", f"finetune --init {tmp_path / 'gone'}", structure={})) is None
