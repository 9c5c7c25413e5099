"""Directories of Hugging Face checkpoints: configuration and weights, without executing code in the files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pruning.errors import UserError
from pruning.experiments import unpickle
from pruning.experiments.checkpoint import read_tensors
from pruning.files import PathLike, read_json
from pruning.optional import package

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
REMEDY = f"give a directory with {CONFIG} and {_SAFE} or {_PICKLED}, as save_pretrained writes it"


def directory_of(source: PathLike, files: Collection[str] = (CONFIG,)) -> Path:
    """Return ``source`` if it exists, or else the directory of the repository of this name on the hub.

    Args:
        source: a directory, or a name on the hub.
        files: what is downloaded with the weights.

    Raises:
        UserError: there is no such directory, and the hub cannot be reached or does not have the name.
    """
    return Path(source) if Path(source).exists() else _downloaded(str(source), files)


def _downloaded(name: str, files: Collection[str]) -> Path:
    """Download a repository of the hub, ``files`` and safetensors if it has them; return its directory."""
    hub: Any = package("huggingface_hub", f"the network {name} of the hub", "hf")
    try:
        for weights in (_SAFE, _PICKLED):
            stem, _, ending = weights.rpartition(".")
            wanted = [*files, f"{stem}*.{ending}", f"{weights}.index.json"]
            directory = Path(hub.snapshot_download(name, allow_patterns=wanted))
            if any(directory.glob(f"{stem}*.{ending}")):
                break
    except Exception as error:  # the package has different types for errors of network, hub and cache
        raise UserError(
            f"{name} is not a directory, and cannot be downloaded from the Hugging Face hub ({type(error).__name__})",
            "correct the name, check the network connection, or download it elsewhere and give the directory",
        ) from None
    return directory


def read_config(directory: Path, source: PathLike) -> dict[str, Any]:
    """Read the configuration of a directory, which is called ``source`` in errors.

    Raises:
        UserError: there is none, or it is not a dictionary.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise UserError(f"{source} is not a Hugging Face checkpoint: it has no {CONFIG}", REMEDY)
    values = read_json(path, REMEDY)
    if not isinstance(values, dict):
        raise UserError(f"{path} does not contain a configuration", REMEDY)
    return values


def weights_file(source: PathLike) -> Path:
    """Return a file of a directory that identifies its weights.

    Raises:
        UserError: the directory contains no weights.
    """
    for name in (_SAFE, _PICKLED, f"{_SAFE}.index.json", f"{_PICKLED}.index.json"):
        if (Path(source) / name).is_file():
            return Path(source) / name
    raise UserError(f"{source} contains no weights", REMEDY)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint, which may be in several files."""
    for name in (_SAFE, _PICKLED):
        index, files = directory / f"{name}.index.json", []
        if (directory / name).is_file():
            files = [name]
        elif index.is_file():
            try:
                files = sorted({Path(file).name for file in read_json(index, REMEDY)["weight_map"].values()})
            except (AttributeError, KeyError, TypeError):
                raise UserError(f"{index} has no weight_map", REMEDY) from None
        tensors: dict[str, Tensor] = {}
        for file in files:
            tensors.update(_read(directory / file))
        if files:
            return tensors
    raise UserError(f"{directory} has neither {_SAFE} nor {_PICKLED}", REMEDY)


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path, "copy it again")
    found = unpickle.load(path)
    items = found.items() if isinstance(found, Mapping) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in items):
        raise UserError(f"{path} is not a dictionary of tensors by name", REMEDY)
    return found


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, what: str) -> None:
    """Check that a checkpoint has the expected tensors, in their shapes, as finite numbers.

    Args:
        found: tensors of the checkpoint ``source``.
        expected: tensors of the network ``what``, by the names that they have in the checkpoint.

    Raises:
        UserError: tensors are missing, have another shape, are quantised or not finite.
    """
    missing = [name for name in expected if name not in found]
    if missing:
        raise UserError(f"{source} lacks tensors of {what}: {missing[0]}{more(missing)}",
                        "give a complete checkpoint of the network that its config.json describes")  # fmt: skip
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise UserError(f"{source}: {name} has shape {tuple(found[name].shape)}, not {tuple(tensor.shape)}",
                            "give the config.json that belongs to the weights")  # fmt: skip
        if not found[name].is_floating_point():
            raise UserError(f"{source}: {name} has type {found[name].dtype}, so its weights are quantised",
                            "give the checkpoint before quantisation")  # fmt: skip
        if not found[name].isfinite().all():
            raise UserError(f"{source}: {name} contains values that are not finite", "give another checkpoint")


def more(names: Sequence[str]) -> str:
    """Return how many names there are after the first one, in words: " and 3 more"; empty if there are none."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
