"""Loading Hugging Face's speech encoders, from a directory or the hub, without executing what is in the files."""

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
    """The encoder of a wav2vec2, HuBERT or WavLM checkpoint, in evaluation mode on the CPU.

    Args:
        source: a directory as ``save_pretrained`` writes it, whatever head stands on the encoder, or a name on the hub.
            What is not of the encoder is left out and logged. ``preprocessor_config.json`` says whether audio is
            normalised (where it does not: it is) and padding left out of attention.

    Raises:
        UserError: it is no checkpoint, of no network that is known here, or lacks tensors of the encoder; transformers
            is not installed; the hub cannot be reached.
    """
    directory = Path(source) if Path(source).exists() else _downloaded(str(source))
    path = directory / _CONFIG
    if not path.is_file():
        raise UserError(f"{source} is no checkpoint of Hugging Face's: it has no {_CONFIG}", _REMEDY)
    values, preprocessor = read_json(path, _REMEDY), {}
    if not isinstance(values, dict):
        raise UserError(f"{path} does not hold a configuration", _REMEDY)
    if (directory / _PREPROCESSOR).is_file():
        preprocessor = read_json(directory / _PREPROCESSOR, _REMEDY)
    else:
        logger.warning("%s has no %s: its audio is normalised, as is usual", source, _PREPROCESSOR)
    _check_preprocessor(preprocessor, directory / _PREPROCESSOR)
    preprocessor = {"do_normalize": True, **preprocessor}  # as Hugging Face's feature extractor does
    encoder = HfEncoder.from_hf(values, preprocessor, str(path))
    _put(encoder, _weights(directory), str(directory))
    return encoder.eval()


def _check_preprocessor(values: Any, path: Path) -> None:
    """Check what is said of the audio.

    Raises:
        UserError: it is no configuration, or of another sampling rate than that of all recipes.
    """
    if not isinstance(values, dict):
        raise UserError(f"{path} does not hold a configuration", _REMEDY)
    for name in ("do_normalize", "return_attention_mask"):
        if not isinstance(values.get(name, False), bool):
            raise UserError(f"{path}: {name} is {values[name]!r}", "write true or false")
    rate = values.get("sampling_rate", SAMPLES_PER_SECOND)
    if rate != SAMPLES_PER_SECOND:
        what = f"{path}: the network is of audio with {rate!r} samples a second (sampling_rate)"
        raise UserError(what, f"give a checkpoint of {SAMPLES_PER_SECOND}")


def weights_file(source: PathLike) -> Path:
    """A file of a directory that stands for its weights.

    Raises:
        UserError: there is none.
    """
    for name in (_SAFE, _PICKLED, f"{_SAFE}.index.json", f"{_PICKLED}.index.json"):
        if (Path(source) / name).is_file():
            return Path(source) / name
    raise UserError(f"{source} holds no weights", _REMEDY)


def _downloaded(name: str) -> Path:
    """The directory of a repository of the hub, safetensors if it has them."""
    hub: Any = package("huggingface_hub", f"the network {name} of the hub", "hf")
    try:
        for weights in (_SAFE, _PICKLED):
            stem, _, ending = weights.rpartition(".")
            wanted = [_CONFIG, _PREPROCESSOR, f"{stem}*.{ending}", f"{weights}.index.json"]
            directory = Path(hub.snapshot_download(name, allow_patterns=wanted))
            if any(directory.glob(f"{stem}*.{ending}")):
                break
    except Exception as error:  # of the network, of the hub, of the cache: it has a type for each
        raise UserError(
            f"{name} is no directory, and the Hugging Face hub does not give it ({type(error).__name__})",
            "correct the name, check the network, or download it elsewhere and give the directory",
        ) from None
    return directory


def _weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, which may be in several files."""
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
        raise UserError(f"{path} holds something else than tensors by name", _REMEDY)
    return found


@torch.no_grad()
def _put(encoder: HfEncoder, tensors: Mapping[str, Tensor], source: str) -> None:
    """Put a checkpoint's tensors into the encoder: all of its own, by name, whatever torch wrote them."""
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
        raise UserError(f"{source} lacks {missing[0]}{_more(missing)}, of the encoder",
                        "give a whole checkpoint of the network that its config.json describes")  # fmt: skip
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise UserError(f"{source}: {name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}",
                            "give the config.json that belongs to the weights")  # fmt: skip
        if not found[name].is_floating_point():
            raise UserError(f"{source}: {name} holds {found[name].dtype}, as quantised weights do",
                            "give the checkpoint that was quantised")  # fmt: skip
        if not found[name].isfinite().all():
            raise UserError(f"{source}: {name} holds values that are not finite", "give another checkpoint")
    left = [name for name in found if name not in expected]
    left += [name for name in tensors if not name.startswith(prefix)]
    if left:
        logger.info("%s: left out what is not of the encoder: %s%s", source, left[0], _more(left))
    encoder.load_state_dict({name: found[name] for name in expected}, strict=True)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
