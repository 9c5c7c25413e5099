"""Loading of Hugging Face speech encoders, from a directory or the hub, without executing code in the files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.files import PathLike, read_json
from pruning.importers.hf_directory import CONFIG, PREPROCESSOR, PROCESSOR, REMEDY, directory_of, read_config
from pruning.importers.hf_weights import Weights, check_tensors, more
from pruning.models.facts import SAMPLES_PER_SECOND
from pruning.models.hf_encoder import WEIGHT_NORMS, HfEncoder

logger = logging.getLogger(__name__)


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
    directory = directory_of(source, (CONFIG, PREPROCESSOR, PROCESSOR))
    values, preprocessor = read_config(directory, source), _audio_settings(directory, source)
    preprocessor = {"do_normalize": True, **preprocessor}  # as Hugging Face's feature extractor does
    encoder = HfEncoder.from_hf(values, preprocessor, str(directory / CONFIG))
    _put(encoder, Weights(directory), str(directory))
    return encoder.eval()


def _audio_settings(directory: Path, source: PathLike) -> dict[str, Any]:
    """Return the settings of audio, which transformers 5 writes into a file with those of tokens.

    Raises:
        UserError: see `_check_preprocessor`.
    """
    values: Any = {}
    path = directory / PREPROCESSOR
    if path.is_file():
        values = read_json(path, REMEDY)
    elif (directory / PROCESSOR).is_file():
        path = directory / PROCESSOR
        whole: Any = read_json(path, REMEDY)
        values = whole.get("feature_extractor", {}) if isinstance(whole, dict) else whole
    if values == {}:
        logger.warning("%s has neither %s nor %s: audio is normalised by default", source, PREPROCESSOR, PROCESSOR)
    _check_preprocessor(values, path)
    return dict(values)


def _check_preprocessor(values: Any, path: Path) -> None:
    """Check the settings of audio.

    Raises:
        UserError: the file is not a configuration, or its sampling rate is not that of all recipes.
    """
    if not isinstance(values, dict):
        raise UserError(f"{path} does not contain a configuration", REMEDY)
    for name in ("do_normalize", "return_attention_mask"):
        if not isinstance(values.get(name, False), bool):
            raise UserError(f"{path}: {name} must be true or false, got {values[name]!r}", "correct it")
    rate = values.get("sampling_rate", SAMPLES_PER_SECOND)
    if rate != SAMPLES_PER_SECOND:
        what = f"{path}: sampling_rate must be {SAMPLES_PER_SECOND}, got {rate!r}"
        raise UserError(what, "give a checkpoint for this sampling rate")


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
    check_tensors(found, expected, source, "the encoder")
    left = [name for name in found if name not in expected]
    left += [name for name in tensors if not name.startswith(prefix)]
    if left:
        logger.info("%s: left out tensors that do not belong to the encoder: %s%s", source, left[0], more(left))
    encoder.load_state_dict({name: found[name] for name in expected}, strict=True)
