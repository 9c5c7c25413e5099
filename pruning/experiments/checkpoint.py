"""Checkpoints: safetensors files whose header contains everything needed to rebuild the network.

The values of the header are JSON. ``model`` is the network's description by `pruning.registry.describe`; other keys
come from the kind of network (tokenizer, structure, sparsity) and from the trainer (epoch, step, averaging).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruning import registry
from pruning.errors import UserError
from pruning.experiments import average, unpickle
from pruning.files import PathLike, atomic_path

FORMAT_VERSION = 1
Header = dict[str, Any]
_T = TypeVar("_T")
Build = Callable[[Mapping[str, Any]], nn.Module]
# header keys that must be equal in checkpoints that are averaged
_SAME_FOR_AVERAGING = ("model", "structure", "tokenizer", "averaging_key")


def epoch_path(exp_dir: PathLike, epoch: int) -> Path:
    """Return the file of the weights at the end of an epoch."""
    return Path(exp_dir) / f"epoch-{epoch}.safetensors"


def epoch_average_path(exp_dir: PathLike, epoch: int) -> Path:
    """Return the file of the running average at the end of an epoch."""
    return Path(exp_dir) / f"epoch-{epoch}-average.safetensors"


def batch_path(exp_dir: PathLike, step: int) -> Path:
    """Return the file of the weights after ``step`` optimiser steps."""
    return Path(exp_dir) / f"batch-{step}.safetensors"


def snapshot_path(exp_dir: PathLike, name: str) -> Path:
    """Return the file of the weights that a task keeps under a name."""
    return Path(exp_dir) / "snapshots" / f"{name}.safetensors"


def best_path(exp_dir: PathLike) -> Path:
    """Return the file of the weights with the lowest loss on the dev set."""
    return Path(exp_dir) / "best.safetensors"


FOUND = "found_structure"
"""Header key in checkpoints of a pruning run: the structure at that step."""
BEFORE = "structure_before"
"""Header key in checkpoints of a pruning run of an extracted network: the structure that was cut out before."""
PRETRAINED = "pretrained"
"""Header key in checkpoints of a network and of all networks made from it: name of the pre-trained network."""


def file_of(source: PathLike) -> Path:
    """Return ``source`` if it is a checkpoint, or the best checkpoint of an experiment directory ``source``."""
    return best_path(source) if Path(source).is_dir() else Path(source)


def write_tensors(path: PathLike, tensors: Mapping[str, Tensor], metadata: Optional[Mapping[str, str]] = None) -> None:
    """Write tensors as safetensors directly to ``path`` (the caller renames it); equal tensors give equal bytes.

    Raises:
        OSError: an error of the file system, as from other writers: ENOSPC for a full disk.
    """
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        # safetensors refuses tensors that share memory, so tied weights are copied and written under each name
        own[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    file = Path(path)
    file.touch()
    mode = file.stat().st_mode  # mode of new files here; safetensors creates files that only the owner can read
    try:
        save_file(own, str(file), metadata=dict(metadata) if metadata else None)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from None
    if metadata:
        _sort_metadata(file)
    file.chmod(mode)


def _sort_metadata(file: Path) -> None:
    """Sort the metadata by key; safetensors writes them in a different order each time."""
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= size:  # padded with blanks, as safetensors does
            stream.seek(8)
            stream.write(text.ljust(size))


def read_tensors(path: PathLike, remedy: str) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file, on the CPU.

    Raises:
        UserError: the file is missing or damaged (with ``remedy``), or is a Git LFS pointer.
    """
    return _checked(lambda: load_file(str(path)), path, remedy)


def _checked(read: Callable[[], _T], path: PathLike, remedy: str) -> _T:
    """Return what ``read`` returns; see `read_tensors` for what it raises."""
    try:
        return read()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", remedy) from None
    except (SafetensorError, IsADirectoryError) as error:
        unpickle.check_not_pointer(Path(path))
        raise UserError(f"{path} is not a complete safetensors file ({error})", remedy) from None


def open_tensors(path: PathLike, remedy: str) -> Any:
    """Open a safetensors file to read one tensor at a time: ``keys()`` and ``get_tensor(name)``, on the CPU.

    Raises:
        UserError: see `read_tensors`.
    """
    return _checked(lambda: safe_open(str(path), framework="pt"), path, remedy)


def save_model(path: PathLike, model: nn.Module, header: Mapping[str, Any]) -> None:
    """Write a network's weights and header, by rename.

    Args:
        path: checkpoint to write.
        model: network whose weights are written.
        header: JSON values; ``header["model"]`` describes the network.
    """
    save_weights(path, model.state_dict(), header)


def save_weights(path: PathLike, weights: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a state dict and header, by rename."""
    if "model" not in header:
        raise ValueError("a checkpoint's header needs the key 'model'")
    values = {"format_version": FORMAT_VERSION, **header}
    metadata = {key: json.dumps(value) for key, value in values.items()}
    with atomic_path(path) as temporary:
        write_tensors(temporary, weights, metadata)


def read_header(path: PathLike) -> Header:
    """Read the header of a checkpoint.

    Raises:
        UserError: the file is missing, damaged, or was not written by :func:`save_model`.
    """
    remedy = "give a checkpoint that training wrote"
    if Path(path).is_dir():
        raise UserError(f"{path} is a directory", remedy)
    try:
        with safe_open(str(path), framework="pt") as stream:
            metadata = stream.metadata() or {}
        header = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist", "train it first, or correct the path") from None
    except (SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not a checkpoint ({error})", remedy) from None
    if header.get("format_version") != FORMAT_VERSION or not isinstance(header.get("model"), dict):
        raise UserError(f"the header of {path} does not describe a network", remedy)
    if not isinstance(header.get("tokenizer", {}), dict):
        raise UserError(f"the header of {path} does not describe the tokens of its network", remedy)
    return header


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: PathLike) -> None:
    """Load weights strictly: all names and shapes must match.

    Raises:
        UserError: the weights are for another architecture; the message names the first tensor that differs.
    """
    here = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    there = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            raise UserError(
                f"checkpoint {origin} is for another architecture: tensor {name} has shape {there.get(name, 'none')} "
                f"in the checkpoint and {here.get(name, 'none')} in the network",
                "give a checkpoint of this network",
            )
    model.load_state_dict(dict(weights))


def load_model(
    source: PathLike,
    epoch: Optional[int] = None,
    avg: Optional[int] = None,
    use_average: bool = True,
    build: Optional[Build] = None,
) -> tuple[nn.Module, Header]:
    """Rebuild a network from its checkpoint alone and load its weights, in evaluation mode, on the CPU.

    Args:
        source: a checkpoint, or an experiment directory, of which the checkpoint of ``epoch`` or else the best on dev
            is loaded.
        epoch: epoch E, from 1.
        avg: number A of epochs: average over the epochs E-A+1 ... E; None: load the weights at the end of epoch E.
        use_average: whether to average over all updates of the running average in these epochs (icefall's
            ``--use-averaged-model true``), or else over the weights at the ends of the A epochs.
        build: function that makes the network from ``header["model"]``; by default `pruning.registry.build`.

    Returns:
        The network and the header (of epoch E), with ``averaged_epochs`` added if it is an average.

    Raises:
        UserError: a file is missing or damaged, is for another architecture, or contains weights that are not finite;
            the checkpoints to average have different networks, structures or averaging keys; the requested epochs do
            not exist.
    """
    source = Path(source)
    weights, header = _choose(source, epoch, avg, use_average)
    model = (build or registry.build)(header["model"])
    load_weights(model, weights, source)
    _check_weights(model, weights, source)
    return model.eval(), header


def _check_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Refuse loaded weights that are not usable: diverged, or quantised by another program."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not weights[name].is_floating_point():
            raise UserError(
                f"checkpoint {source}: tensor {name} has type {weights[name].dtype}", "give a checkpoint in float32"
            )
        if not tensor.isfinite().all():
            raise UserError(f"checkpoint {source}: tensor {name} contains values that are not finite",
                            "give a checkpoint of an earlier epoch, or train with a lower learning rate")  # fmt: skip


def check_choice(epoch: Optional[int], avg: Optional[int]) -> None:
    """Check a choice of checkpoints, see `load_model`, without looking for them.

    Raises:
        UserError: epochs are to be averaged, but not so many precede ``epoch``, or it is not given.
    """
    if epoch is None:
        if avg is not None:
            raise UserError("--avg needs --epoch, the last epoch to average", "give --epoch")
    elif epoch < 1 or (avg is not None and not 1 <= avg <= epoch):
        raise UserError(
            f"--epoch {epoch} with --avg {avg} is not possible",
            "give --epoch of at least 1, and --avg between 1 and --epoch",
        )


def _choose(source: Path, epoch: Optional[int], avg: Optional[int], use_average: bool) -> tuple[dict, Header]:
    if not source.is_dir():
        if epoch is not None or avg is not None:
            raise UserError(
                f"{source} is not an experiment directory",
                "give an experiment directory, or leave out --epoch and --avg",
            )
        return _read(source)
    check_choice(epoch, avg)
    if epoch is None:
        if not best_path(source).exists():
            raise UserError(f"{source} has no {best_path(source).name}", _epochs_remedy(source))
        return _read(best_path(source))
    if not epoch_path(source, epoch).exists():
        raise UserError(f"{epoch_path(source, epoch)} does not exist", _epochs_remedy(source))
    if avg is None:
        return _read(epoch_path(source, epoch))
    return _running_mean(source, epoch, avg) if use_average else _plain_mean(source, epoch, avg)


def _running_mean(exp_dir: Path, epoch: int, avg: int) -> tuple[dict, Header]:
    last_path = _average_there(exp_dir, epoch)
    last, header = _read(last_path)
    first_epoch = epoch - avg
    if first_epoch == 0:
        start, start_updates = last, 0  # with 0 updates, these values have no weight
        _check_averaging_key(header.get("initial_averaging_key"), header.get("averaging_key"), exp_dir)
    else:
        start_path = _average_there(exp_dir, first_epoch)
        start, start_header = _read(start_path)
        start_updates = start_header["average_updates"]
        _check_same_network(start_path, start_header, last_path, header)
    try:
        weights = average.mean_between(start, start_updates, last, header["average_updates"])
    except ValueError as error:
        raise UserError(
            f"epochs {first_epoch + 1} to {epoch} of {exp_dir} cannot be averaged ({error})",
            "average over more epochs, or train with a smaller average_period",
        ) from None
    return weights, {**header, "averaged_epochs": [first_epoch + 1, epoch]}


def _average_there(exp_dir: Path, epoch: int) -> Path:
    """Return the file of the running average at the end of an epoch.

    Raises:
        UserError: it does not exist.
    """
    path = epoch_average_path(exp_dir, epoch)
    if not path.exists():
        raise UserError(f"{path} does not exist",
                        "give --use-averaged-model false, or train with trainer.average_period above 0"
                        if epoch_path(exp_dir, epoch).exists() else _epochs_remedy(exp_dir))  # fmt: skip
    return path


def _plain_mean(exp_dir: Path, epoch: int, avg: int) -> tuple[dict, Header]:
    paths = [epoch_path(exp_dir, number) for number in range(epoch - avg + 1, epoch + 1)]
    states, headers = zip(*(_read(path) for path in paths))
    for path, header in zip(paths, headers):
        _check_same_network(path, header, paths[-1], headers[-1])
    return average.mean(states), {**headers[-1], "averaged_epochs": [epoch - avg + 1, epoch]}


def _check_same_network(path: Path, header: Header, other_path: Path, other: Header) -> None:
    for key in _SAME_FOR_AVERAGING:
        if key == "averaging_key":
            _check_averaging_key(header.get(key), other.get(key), path.parent)
        elif header.get(key) != other.get(key):
            raise UserError(
                f"{path} and {other_path} differ in {key} and cannot be averaged",
                "average over fewer epochs, or use a single epoch",
            )


def _check_averaging_key(first: Any, last: Any, exp_dir: Path) -> None:
    if first is None or last is None or first != last:
        raise UserError(
            f"these epochs of {exp_dir} cannot be averaged: the network was pruned during them",
            "average over fewer and later epochs, or use a single epoch",
        )


def _read(path: Path) -> tuple[dict[str, Tensor], Header]:
    header = read_header(path)
    return read_tensors(path, "train it again"), header


def _epochs_remedy(exp_dir: Path) -> str:
    epochs = sorted(
        int(path.stem.split("-")[1])
        for path in exp_dir.glob("epoch-*.safetensors")
        if path.stem.split("-")[1].isdigit() and not path.stem.endswith("average")
    )
    if not epochs:
        return "train first"
    return f"choose one of the epochs {', '.join(str(epoch) for epoch in epochs)}"
