"""Weights of Hugging Face checkpoints, in one file or several, without executing code in the files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pruning.errors import UserError
from pruning.experiments import unpickle
from pruning.experiments.checkpoint import open_tensors
from pruning.files import read_json
from pruning.importers.hf_directory import PICKLED, REMEDY, SAFE

_COPY = "copy it again"


class Weights(Mapping[str, Tensor]):
    """Tensors of a checkpoint by name, each of which is read when it is asked for.

    A pickled file is read whole, and kept until a tensor of another file is asked for.

    Args:
        directory: of the checkpoint.

    Raises:
        UserError: there are no weights, a file is missing or broken, or contains something else than tensors.
    """

    def __init__(self, directory: Path) -> None:
        self._files: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        self._pickled: tuple[Path, Mapping[str, Tensor]] = (Path(), {})
        for path in files_of(directory):
            self._files |= dict.fromkeys(self._names(path), path)

    def __getitem__(self, name: str) -> Tensor:
        path = self._files[name]
        if path in self._open:
            tensor: Tensor = self._open[path].get_tensor(name)
            return tensor
        return self._unpickled(path)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _names(self, path: Path) -> list[str]:
        if path.suffix == ".safetensors":
            self._open[path] = open_tensors(path, _COPY)
            return list(self._open[path].keys())
        return list(self._unpickled(path))

    def _unpickled(self, path: Path) -> Mapping[str, Tensor]:
        if self._pickled[0] == path:
            return self._pickled[1]
        found = unpickle.load(path)
        items = found.items() if isinstance(found, Mapping) else [(None, None)]
        if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in items):
            raise UserError(f"{path} is not a dictionary of tensors by name", REMEDY)
        self._pickled = path, found
        return found


def files_of(directory: Path) -> list[Path]:
    """Return the files of the weights, all of which exist.

    Raises:
        UserError: the directory contains no weights, or a file that its index names is missing.
    """
    for name in (SAFE, PICKLED):
        index, files = directory / f"{name}.index.json", list[str]()
        if (directory / name).is_file():
            files = [name]
        elif index.is_file():
            try:
                files = sorted({Path(file).name for file in read_json(index, REMEDY)["weight_map"].values()})
            except (AttributeError, KeyError, TypeError):
                raise UserError(f"{index} has no weight_map", REMEDY) from None
            missing = [file for file in files if not (directory / file).is_file()]
            if missing:
                raise UserError(f"{directory} lacks {missing[0]}{more(missing)}, which {index.name} names", _COPY)
        if files:
            return [directory / file for file in files]
    raise UserError(f"{directory} has neither {SAFE} nor {PICKLED}", REMEDY)


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, what: str) -> None:
    """Check that a checkpoint has the expected tensors, in their shapes, as finite numbers.

    Args:
        found: tensors of the checkpoint ``source``.
        expected: tensors of the network ``what``, by the names that they have in the checkpoint.

    Raises:
        UserError: tensors are missing, have another shape, are quantised or not finite.
    """
    check_complete(found, expected, source, what)
    for name, tensor in expected.items():
        check_tensor(found[name], tensor.shape, name, source)


def check_complete(found: Collection[str], expected: Collection[str], source: str, what: str) -> None:
    """Check that a checkpoint has tensors of all expected names, see `check_tensors`."""
    missing = [name for name in expected if name not in found]
    if missing:
        raise UserError(f"{source} lacks tensors of {what}: {missing[0]}{more(missing)}",
                        "give a complete checkpoint of the network that its config.json describes")  # fmt: skip


def check_tensor(found: Tensor, shape: Sequence[int], name: str, source: str) -> None:
    """Check one tensor of a checkpoint, see `check_tensors`."""
    if found.shape != tuple(shape):
        raise UserError(f"{source}: {name} has shape {tuple(found.shape)}, not {tuple(shape)}",
                        "give the config.json that belongs to the weights")  # fmt: skip
    if not found.is_floating_point():
        raise UserError(f"{source}: {name} has type {found.dtype}, so its weights are quantised",
                        "give the checkpoint before quantisation")  # fmt: skip
    if not found.isfinite().all():
        raise UserError(f"{source}: {name} contains values that are not finite", "give another checkpoint")


def check_none_left(found: Collection[str], used: Collection[str], source: str) -> None:
    """Check that a checkpoint has no tensors in addition to the ``used`` ones.

    Raises:
        UserError: it has.
    """
    left = sorted(set(found) - set(used))
    left = [name for name in left if not name.endswith("rotary_emb.inv_freq")]  # computed from the configuration
    if left:
        raise UserError(f"{source} has tensors that the network does not have: {left[0]}{more(left)}",
                        "give the config.json that belongs to the weights")  # fmt: skip


def more(names: Sequence[str]) -> str:
    """Return how many names there are after the first one, in words: " and 3 more"; empty if there are none."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
