"""Loading of Hugging Face speech encoders, from a directory or the hub, without executing code in the files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.experiments import unpickle
from pruning.experiments.checkpoint import read_tensors
from pruning.files import PathLike, read_json
from pruning.models.facts import SAMPLES_PER_SECOND
from pruning.models.hf_encoder import WEIGHT_NORMS, HfEncoder
from pruning.optional import package

logger = logging.getLogger(__name__)

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_REMEDY = f"give a directory with {_CONFIG} and {_SAFE} or {_PICKLED}, as save_pretrained writes it"


def load_hf(source: PathLike) -> HfEncoder:
    """Load the encoder of a wav2vec2, HuBERT or WavLM checkpoint, in evaluation mode on the CPU.

    Args:
        source: a directory that ``save_pretrained`` wrote, with any head on the encoder, or a name on the hub. Tensors
            that do not belong to the encoder are left out and logged. ``preprocessor_config.json`` says whether to
            normalise audio (default: yes) and whether attention leaves out padding.

    Raises:
        UserError: ``source`` is not a checkpoint, is of an unsupported network, or lacks tensors of the encoder;
            transformers is not installed; the hub cannot be reached.
    """
    directory = Path(source) if Path(source).exists() else _downloaded(str(source))
    path = directory / _CONFIG
    if not path.is_file():
        raise UserError(f"{source} is not a Hugging Face checkpoint: it has no {_CONFIG}", _REMEDY)
    values, preprocessor = read_json(path, _REMEDY), {}
    if not isinstance(values, dict):
        raise UserError(f"{path} does not contain a configuration", _REMEDY)
    if (directory / _PREPROCESSOR).is_file():
        preprocessor = read_json(directory / _PREPROCESSOR, _REMEDY)
    else:
        logger.warning("%s has no %s: audio is normalised by default", source, _PREPROCESSOR)
    _check_preprocessor(preprocessor, directory / _PREPROCESSOR)
    preprocessor = {"do_normalize": True, **preprocessor}  # as Hugging Face's feature extractor does
    encoder = HfEncoder.from_hf(values, preprocessor, str(path))
    _put(encoder, _weights(directory), str(directory))
    return encoder.eval()


def _check_preprocessor(values: Any, path: Path) -> None:
    """Check the settings of audio.

    Raises:
        UserError: the file is not a configuration, or its sampling rate is not that of all recipes.
    """
    if not isinstance(values, dict):
        raise UserError(f"{path} does not contain a configuration", _REMEDY)
    for name in ("do_normalize", "return_attention_mask"):
        if not isinstance(values.get(name, False), bool):
            raise UserError(f"{path}: {name} must be true or false, got {values[name]!r}", "correct it")
    rate = values.get("sampling_rate", SAMPLES_PER_SECOND)
    if rate != SAMPLES_PER_SECOND:
        what = f"{path}: sampling_rate must be {SAMPLES_PER_SECOND}, got {rate!r}"
        raise UserError(what, "give a checkpoint for this sampling rate")


def weights_file(source: PathLike) -> Path:
    """Return a file of a directory that identifies its weights.

    Raises:
        UserError: the directory contains no weights.
    """
    for name in (_SAFE, _PICKLED, f"{_SAFE}.index.json", f"{_PICKLED}.index.json"):
        if (Path(source) / name).is_file():
            return Path(source) / name
    raise UserError(f"{source} contains no weights", _REMEDY)


def _downloaded(name: str) -> Path:
    """Download a repository of the hub, with safetensors if it has them; return its directory."""
    hub: Any = package("huggingface_hub", f"the network {name} of the hub", "hf")
    try:
        for weights in (_SAFE, _PICKLED):
            stem, _, ending = weights.rpartition(".")
            wanted = [_CONFIG, _PREPROCESSOR, f"{stem}*.{ending}", f"{weights}.index.json"]
            directory = Path(hub.snapshot_download(name, allow_patterns=wanted))
            if any(directory.glob(f"{stem}*.{ending}")):
                break
    except Exception as error:  # the package has different types for errors of network, hub and cache
        raise UserError(
            f"{name} is not a directory, and cannot be downloaded from the Hugging Face hub ({type(error).__name__})",
            "correct the name, check the network connection, or download it elsewhere and give the directory",
        ) from None
    return directory


def _weights(directory: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint, which may be in several files."""
    for name in (_SAFE, _PICKLED):
        index, files = directory / f"{name}.index.json", []
        if (directory / name).is_file():
            files = [name]
        elif index.is_file():
            try:
                files = sorted({Path(file).name for file in read_json(index, _REMEDY)["weight_map"].values()})
            except (AttributeError, KeyError, TypeError):
                raise UserError(f"{index} has no weight_map", _REMEDY) from None
        tensors: dict[str, Tensor] = {}
        for file in files:
            tensors.update(_read(directory / file))
        if files:
            return tensors
    raise UserError(f"{directory} has neither {_SAFE} nor {_PICKLED}", _REMEDY)


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path, "copy it again")
    found = unpickle.load(path)
    items = found.items() if isinstance(found, Mapping) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in items):
        raise UserError(f"{path} is not a dictionary of tensors by name", _REMEDY)
    return found


@torch.no_grad()
def _put(encoder: HfEncoder, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load a checkpoint's tensors into the encoder: all that it has, by name, as written by any version of torch."""
    expected = encoder.state_dict()
    prefix = f"{encoder.config.kind}."
    if not any(name.startswith(prefix) for name in tensors):
        prefix = ""
    found = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    ours = next((names for names in WEIGHT_NORMS if names[0] in expected), ())
    for theirs in WEIGHT_NORMS:
        for new, old in zip(ours, theirs):
            if old in found:
                found[new] = found.pop(old)
    missing = [name for name in expected if name not in found]
    if missing:
        raise UserError(f"{source} lacks tensors of the encoder: {missing[0]}{_more(missing)}",
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
    left = [name for name in found if name not in expected]
    left += [name for name in tensors if not name.startswith(prefix)]
    if left:
        logger.info("%s: left out tensors that do not belong to the encoder: %s%s", source, left[0], _more(left))
    encoder.load_state_dict({name: found[name] for name in expected}, strict=True)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
