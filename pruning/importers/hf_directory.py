"""Directories of Hugging Face checkpoints, and their configuration."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pruning.errors import UserError
from pruning.files import PathLike, read_json
from pruning.optional import package

CONFIG, PREPROCESSOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
"""Files of weights; several have an index next to them, ``model.safetensors.index.json``."""
REMEDY = f"give a directory with {CONFIG} and {SAFE} or {PICKLED}, as save_pretrained writes it"


def directory_of(source: PathLike, files: Collection[str] = (CONFIG,), weights: bool = True) -> Path:
    """Return ``source`` if it exists, or else the directory of the repository of this name on the hub.

    Args:
        source: a directory, or a name on the hub.
        files: what is downloaded.
        weights: whether weights are downloaded, too.

    Raises:
        UserError: there is no such directory, and the hub cannot be reached or does not have the name.
    """
    return Path(source) if Path(source).exists() else _downloaded(str(source), files, weights)


def _downloaded(name: str, files: Collection[str], with_weights: bool) -> Path:
    """Download ``files`` of a repository of the hub, and safetensors if it has them; return its directory."""
    hub: Any = package("huggingface_hub", f"the network {name} of the hub", "hf")
    try:
        if not with_weights:
            return Path(hub.snapshot_download(name, allow_patterns=[*files]))
        for weights in (SAFE, PICKLED):
            stem, _, ending = weights.rpartition(".")
            wanted = [*files, weights, f"{stem}-*.{ending}", f"{weights}.index.json"]  # no model.fp32-*.safetensors
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
