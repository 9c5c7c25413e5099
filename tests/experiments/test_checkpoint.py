"""Checkpoints rebuild their network from the file alone, and refuse what does not fit."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from pruning.errors import UserError
from pruning.experiments import checkpoint
from tests.training.toy import HEADER, build


def network(seed: int = 0, hidden: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return build({"type": "toy", "hidden": hidden})


def header_of(epoch: int = 1, hidden: int = 8, **more: Any) -> dict[str, Any]:
    return {
        "model": {"type": "toy", "hidden": hidden},
        "epoch": epoch,
        "average_updates": epoch,
        "averaging_key": "",
        "initial_averaging_key": "",
        **more,
    }


def test_the_file_alone_rebuilds_the_network(tmp_path: Path) -> None:
    model = network()
    model.train()(torch.randn(9, 4))  # changes the batch norm's statistics and its integer counter
    header = header_of(tokenizer={"sha256": "äö"}, structure={"heads": [0, 2], "scale": [0.25, 1e-17]})
    checkpoint.save_model(tmp_path / "m.safetensors", model, header)
    loaded, found = checkpoint.load_model(tmp_path / "m.safetensors", build=build)
    assert not loaded.training and found == {**header, "format_version": 1}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert list(tmp_path.iterdir()) == [tmp_path / "m.safetensors"]


def test_the_registry_builds_by_default(tmp_path: Path) -> None:
    checkpoint.save_model(tmp_path / "m.safetensors", network(), HEADER)
    with pytest.raises(UserError, match="kind of network 'toy'"):
        checkpoint.load_model(tmp_path / "m.safetensors")


def test_tied_and_strided_weights_are_kept(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.register_buffer("strided", torch.arange(6.0).view(2, 3).t())

    model = Tied()
    checkpoint.save_model(tmp_path / "m.safetensors", model, {"model": {}})
    loaded, _ = checkpoint.load_model(tmp_path / "m.safetensors", build=lambda description: Tied())
    assert torch.equal(loaded.second.weight, model.first.weight) and torch.equal(loaded.strided, model.strided)


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    header = {**HEADER, **{f"key {n}": f'ä\n\t\\"\x01{n}' for n in range(12)}}
    model = build(HEADER["model"])
    for number in range(6):
        checkpoint.save_model(tmp_path / f"{number}.safetensors", model, header)
        assert checkpoint.read_header(tmp_path / f"{number}.safetensors") == {"format_version": 1, **header}
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_another_architecture_is_refused_by_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, network(), header_of())
    with pytest.raises(
        UserError,
        match=r"m\.safetensors is for another architecture: tensor 0\.weight has shape "
        r"\(8, 4\) in the checkpoint and \(6, 4\) in the network",
    ):
        checkpoint.load_weights(network(hidden=6), checkpoint.read_tensors(path, ""), path)
    wider = nn.Sequential(*network(), nn.Linear(1, 1))
    with pytest.raises(UserError, match=r"tensor 4\.weight has shape none in the checkpoint"):
        checkpoint.load_weights(wider, checkpoint.read_tensors(path, ""), path)
    with pytest.raises(UserError, match=r"and none in the network"):
        checkpoint.load_weights(nn.Sequential(*list(network())[:-1]), checkpoint.read_tensors(path, ""), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight * float("nan"), "contains values that are not finite; give a checkpoint of an earlier"),
        (lambda weight: weight.to(torch.int8), "has type torch.int8; give a checkpoint in float32"),
    ],
)
def test_weights_that_mean_nothing_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    weights = network().state_dict()
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    checkpoint.save_weights(tmp_path / "m.safetensors", {**weights, name: change(weights[name])}, header_of())
    with pytest.raises(UserError, match=f"tensor {name} {message}"):
        checkpoint.load_model(tmp_path / "m.safetensors", build=build)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"model": [1]}, "does not describe a network"),
        ({"model": {"type": ["transducer"], "config": {}}}, "unknown kind of network"),
        ({"model": {"type": "transducer", "config": None}}, "does not build"),
        ({"model": {"type": "transformer_lm", "config": [1]}}, "does not build"),
        ({"model": {"type": "toy"}, "tokenizer": None}, "does not describe the tokens"),
    ],
)
def test_headers_of_another_form_are_refused(tmp_path: Path, header: dict[str, Any], message: str) -> None:
    checkpoint.save_weights(tmp_path / "m.safetensors", network().state_dict(), header)
    with pytest.raises(UserError, match=message):
        checkpoint.load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("content", [b"", b"garbage, not a checkpoint", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.safetensors"):
        checkpoint.read_header(tmp_path / "x.safetensors")


def test_truncated_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, network(), header_of())
    path.write_bytes(path.read_bytes()[:-10])
    for read in (
        checkpoint.read_header,
        lambda file: checkpoint.read_tensors(file, "train again"),
        lambda file: checkpoint.load_model(file, build=build),
    ):
        with pytest.raises(UserError, match=r"m\.safetensors is not a"):
            read(path)
        with pytest.raises(UserError, match=r"none\.safetensors does not exist"):
            read(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="is a directory"):
        checkpoint.read_header(tmp_path)
    checkpoint.write_tensors(tmp_path / "bare.safetensors", {"w": torch.zeros(1)})
    with pytest.raises(UserError, match="does not describe a network"):
        checkpoint.read_header(tmp_path / "bare.safetensors")


def test_a_full_disk_is_told_as_such_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: Mapping[str, Any], path: str, metadata: Any = None) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError) as caught:
        checkpoint.save_model(tmp_path / "m.safetensors", network(), header_of())
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_an_error_of_the_file_system_is_told_as_such(tmp_path: Path) -> None:
    """The error is real (a limit on file size), because the code parses the message of safetensors."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(OSError) as caught:
            checkpoint.save_weights(tmp_path / "m.safetensors", {"w": torch.zeros(5000)}, header_of())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG and not list(tmp_path.iterdir())


def test_others_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    checkpoint.save_model(tmp_path / "m.safetensors", network(), header_of())
    (tmp_path / "usual").touch()
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.fixture
def epochs(tmp_path: Path) -> Path:
    """Three epochs with one averaging update each; epoch 3 alone is also the best."""
    total = None
    for epoch in (1, 2, 3):
        model = network(epoch)
        checkpoint.save_model(checkpoint.epoch_path(tmp_path, epoch), model, header_of(epoch))
        state = model.state_dict()
        total = state if total is None else {name: total[name] + state[name] for name in state}
        average = {name: tensor / epoch if tensor.is_floating_point() else tensor for name, tensor in total.items()}
        checkpoint.save_weights(checkpoint.epoch_average_path(tmp_path, epoch), average, header_of(epoch))
    checkpoint.save_model(checkpoint.best_path(tmp_path), network(3), header_of(3))
    return tmp_path


@pytest.mark.parametrize("use_average", [True, False])
@pytest.mark.parametrize(("epoch", "avg", "parts"), [(3, 3, [1, 2, 3]), (3, 2, [2, 3]), (3, 1, [3]), (2, 1, [2])])
def test_averages_over_the_epochs_asked_for(
    epochs: Path, use_average: bool, epoch: int, avg: int, parts: list[int]
) -> None:
    model, header = checkpoint.load_model(epochs, epoch, avg, use_average, build)
    wanted = torch.stack([network(part)[0].weight for part in parts]).mean(0)
    assert torch.allclose(model[0].weight, wanted, atol=1e-6)
    assert header["averaged_epochs"] == [parts[0], parts[-1]] and header["epoch"] == epoch


def test_without_average_the_epoch_and_without_epoch_the_best(epochs: Path) -> None:
    assert torch.equal(checkpoint.load_model(epochs, epoch=2, build=build)[0][0].weight, network(2)[0].weight)
    assert torch.equal(checkpoint.load_model(epochs, build=build)[0][0].weight, network(3)[0].weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 4}, r"epoch-4\.safetensors does not exist; choose one of the epochs 1, 2, 3"),
        ({"epoch": 2, "avg": 3}, "--epoch 2 with --avg 3 is not possible"),
        ({"epoch": 0}, "--epoch 0"),
        ({"epoch": 1, "avg": 0}, "--avg 0"),
        ({"avg": 2}, "--avg needs --epoch"),
    ],
)
def test_impossible_choices_are_refused(epochs: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checkpoint.load_model(epochs, build=build, **options)


def test_a_file_takes_no_epoch(epochs: Path) -> None:
    with pytest.raises(UserError, match="is not an experiment directory"):
        checkpoint.load_model(checkpoint.best_path(epochs), epoch=2, build=build)
    with pytest.raises(UserError, match="has no best.safetensors; train first"):
        (epochs / "empty").mkdir()
        checkpoint.load_model(epochs / "empty", build=build)


@pytest.mark.parametrize("use_average", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"structure": {"heads": [1]}}, "differ in structure"),
        ({"model": {"type": "toy", "hidden": 9}}, "differ in model"),
        ({"tokenizer": {"sha256": "b"}}, "differ in tokenizer"),
        ({"averaging_key": "later"}, "cannot be averaged: the network was pruned"),
    ],
)
def test_different_networks_are_not_averaged(
    epochs: Path, use_average: bool, change: dict[str, Any], message: str
) -> None:
    for path in (checkpoint.epoch_path(epochs, 2), checkpoint.epoch_average_path(epochs, 2)):
        checkpoint.save_weights(path, checkpoint.read_tensors(path, ""), {**header_of(2), **change})
    span = 1 if use_average else 2  # the running average needs the end of the epoch before the first
    with pytest.raises(UserError, match=message):
        checkpoint.load_model(epochs, 3, span, use_average, build)


def test_weights_under_a_ramp_are_not_averaged(epochs: Path) -> None:
    for epoch in (2, 3):
        path = checkpoint.epoch_path(epochs, epoch)
        checkpoint.save_weights(path, checkpoint.read_tensors(path, ""), header_of(epoch, averaging_key=None))
    with pytest.raises(UserError, match="was pruned during them"):
        checkpoint.load_model(epochs, 3, 2, use_average=False, build=build)


def test_too_few_updates_for_an_average_are_told(epochs: Path) -> None:
    path = checkpoint.epoch_average_path(epochs, 3)
    header = header_of(3, average_updates=2)
    checkpoint.save_weights(path, checkpoint.read_tensors(path, ""), header)
    with pytest.raises(UserError, match="epochs 3 to 3 of .* cannot be averaged .*smaller average_period"):
        checkpoint.load_model(epochs, 3, 1, build=build)


def test_a_header_must_say_which_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'model'"):
        checkpoint.save_model(tmp_path / "m.safetensors", network(), {"epoch": 1})
