"""Choice of icefall's files by its options, and their average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.importers.icefall_checkpoint import Choice, load
from tests.icefall import networks

# the file contains a path, which newer torch does not load by default
TRUSTING: dict[str, Any] = {"weights_only": False} if torch.__version__ >= "2" else {}
PERIOD, BATCHES = 3, 10  # batches between updates of the running average, and per epoch


def weights(batch: int) -> Tensor:
    """Return the weights of a training after ``batch`` batches."""
    return torch.randn(3, generator=torch.Generator().manual_seed(batch)).double()


def write(directory: Path, name: str, batch: int, average: bool = True, module: str = "") -> None:
    """Write a checkpoint like icefall after ``batch`` batches."""
    seen = [weights(number) for number in range(PERIOD, batch + 1, PERIOD)]
    found: dict[str, Any] = {
        "model": {f"{module}w": weights(batch).float(), f"{module}count": torch.tensor(batch)},
        "optimizer": {"lr": 0.1}, "scheduler": None, "grad_scaler": None, "sampler": None,
        "batch_idx_train": batch, "average_period": PERIOD,
        "exp_dir": Path("exp"), "vocab_size": 30,
    }  # fmt: skip
    if average:
        found["model_avg"] = {"w": torch.stack(seen).mean(dim=0).float(), "count": torch.tensor(batch)}
    torch.save(found, directory / name)


@pytest.fixture()
def exp(tmp_path: Path) -> Path:
    for epoch in range(1, 6):
        write(tmp_path, f"epoch-{epoch}.pt", epoch * BATCHES)
    for batch in (8, 16, 24, 32):
        write(tmp_path, f"checkpoint-{batch}.pt", batch)
    (tmp_path / "checkpoint-best.pt").touch()
    return tmp_path


def mean(*batches: int) -> Tensor:
    return torch.stack([weights(batch) for batch in batches]).mean(dim=0)


@pytest.mark.parametrize(
    ("choice", "batches", "files"),
    [
        (Choice(epoch=4, avg=1, use_averaged_model=False), [40], ["epoch-4.pt"]),
        (Choice(epoch=4, avg=3, use_averaged_model=False), [20, 30, 40], [f"epoch-{n}.pt" for n in (2, 3, 4)]),
        (Choice(iteration=25, avg=2, use_averaged_model=False), [16, 24], ["checkpoint-16.pt", "checkpoint-24.pt"]),
        (Choice(epoch=4, avg=2), [21, 24, 27, 30, 33, 36, 39], ["epoch-2.pt", "epoch-4.pt"]),
        (Choice(iteration=32, avg=1), [27, 30], ["checkpoint-24.pt", "checkpoint-32.pt"]),
    ],
)
def test_averages(exp: Path, choice: Choice, batches: list[int], files: list[str]) -> None:
    found = load(exp, choice)
    assert [path.name for path in found.files] == files
    assert torch.allclose(found.state["w"].double(), mean(*batches), atol=1e-5)
    assert found.state["count"].dtype == torch.int64
    assert found.settings["vocab_size"] == 30 and not {"model", "model_avg", "optimizer"} & set(found.settings)


def test_a_file_is_taken_as_it_is(exp: Path) -> None:
    found = load(exp / "epoch-3.pt", Choice())
    assert torch.equal(found.state["w"], weights(30).float())


def test_epochs_from_0(exp: Path) -> None:
    """As in the recipes before ``pruned_transducer_stateless4``."""
    write(exp, "epoch-0.pt", 5, average=False)
    found = load(exp, Choice(epoch=1, avg=2, use_averaged_model=False))
    assert [path.name for path in found.files] == ["epoch-0.pt", "epoch-1.pt"]
    assert torch.allclose(found.state["w"].double(), mean(5, 10), atol=1e-5)


def test_names_of_distributed_training(tmp_path: Path) -> None:
    write(tmp_path, "epoch-1.pt", 10, module="module.")
    assert set(load(tmp_path / "epoch-1.pt", Choice()).state) == {"w", "count"}


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        (Choice(), "give exactly one of --epoch and --iter"),
        (Choice(epoch=2, iteration=3), "give exactly one of --epoch and --iter"),
        (Choice(epoch=2, avg=2), "needs the running average before them"),
        (Choice(epoch=2, avg=3, use_averaged_model=False), "earlier epochs, which do not exist"),
        (Choice(epoch=9, use_averaged_model=False), r"epoch-9\.pt, which .* does not exist.*another --epoch or --avg"),
        (Choice(epoch=30, avg=10), r"epoch-30\.pt, which --epoch 30 --avg 10 needs, does not exist; .* \d files"),
        (Choice(iteration=16, avg=2), r"has 2 files checkpoint-N\.pt up to 16, but 3"),
    ],
)
def test_what_cannot_be_had_is_named(exp: Path, choice: Choice, named: str) -> None:
    with pytest.raises(UserError, match=named):
        load(exp, choice)


@pytest.mark.parametrize(
    ("change", "choice", "named"),
    [
        ({"model_avg": None}, Choice(epoch=2), "'model_avg'.*use-averaged-model false"),
        ({"batch_idx_train": None}, Choice(epoch=2), "over how many batches"),
        ({"model": {"w": torch.zeros(4), "count": torch.tensor(1)}}, Choice(epoch=2, avg=2, use_averaged_model=False),
         "cannot be averaged.*tensor w"),
        ({"model": None}, Choice(epoch=2, use_averaged_model=False), "has no 'model'"),
        ({"model": {3: torch.zeros(1)}}, Choice(epoch=2, use_averaged_model=False), "no tensors in 'model'"),
        ({"model": {"w": 3}}, Choice(epoch=2, use_averaged_model=False), "no tensors in 'model'"),
    ],
)  # fmt: skip
def test_broken_checkpoints_are_named(exp: Path, change: dict, choice: Choice, named: str) -> None:
    found = torch.load(exp / "epoch-2.pt", **TRUSTING)
    torch.save({**found, **change}, exp / "epoch-2.pt")
    with pytest.raises(UserError, match=rf"epoch-2\.pt.*{named}|{named}"):
        load(exp, choice)


def test_a_path_and_an_epoch_do_not_go_together(exp: Path) -> None:
    for choice in (Choice(epoch=2), Choice(iteration=2), Choice(avg=2)):
        with pytest.raises(UserError, match="is not an experiment directory"):
            load(exp / "epoch-2.pt", choice)


def test_the_same_averages_as_icefalls(exp: Path) -> None:
    """Compared with icefall's own functions, if there is a checkout."""
    theirs = networks.package("icefall.checkpoint", networks.checkout())
    average = theirs.average_checkpoints_with_averaged_model(str(exp / "epoch-2.pt"), str(exp / "epoch-5.pt"))
    assert torch.allclose(load(exp, Choice(epoch=5, avg=3)).state["w"], average["w"], atol=1e-6)
    ends = theirs.average_checkpoints([str(exp / f"epoch-{number}.pt") for number in (3, 4, 5)])
    found = load(exp, Choice(epoch=5, avg=3, use_averaged_model=False))
    assert torch.allclose(found.state["w"], ends["w"], atol=1e-6)
    newest = [Path(name) for name in theirs.find_checkpoints(exp, iteration=-24)[:2]]
    assert load(exp, Choice(iteration=24, avg=2, use_averaged_model=False)).files == newest[::-1]
