"""Write a network as a Hugging Face directory, which transformers loads and which converts to CTranslate2."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning.core.prunable import prunable
from pruning.deploy.extract import relative_difference
from pruning.errors import UserError
from pruning.experiments.checkpoint import write_tensors
from pruning.files import PathLike, atomic_path, write_json
from pruning.importers import hf_source
from pruning.importers.hf_directory import CONFIG, PREPROCESSOR
from pruning.kinds import kind as kinds
from pruning.kinds.exports import HuggingFaceForm
from pruning.speech.text.network_tokens import TOKENIZER

WEIGHTS = "model.safetensors"


def write_hugging_face(network: nn.Module, directory: PathLike, lang_dir: PathLike) -> list[Path]:
    """Write weights, configuration, tokens and the settings of features and generation, and read them again.

    Args:
        network: dense or extracted network.
        directory: directory to write; files of other names there are left alone.
        lang_dir: lang dir of its tokens, with what the import kept.

    Returns:
        The files.

    Raises:
        UserError: networks of this kind, or of these shapes, cannot be written; the directory has other weights than
            `WEIGHTS`.
    """
    place, form = Path(directory), kinds.of(network).hugging_face(network, lang_dir)
    _check_place(place)
    every = {CONFIG: form.values, hf_source.GENERATION: form.generation, PREPROCESSOR: form.preprocessor}
    files: dict[str, Mapping[str, Any]] = {name: values for name, values in every.items() if values}
    for name, values in files.items():
        write_json(place / name, values)
    copied = {TOKENIZER: Path(lang_dir) / TOKENIZER, **hf_source.kept(lang_dir)}
    copied = {name: path for name, path in copied.items() if name not in files and name != "README.md"}
    for name, path in copied.items():
        with atomic_path(place / name) as temporary:
            shutil.copyfile(path, temporary)
    with atomic_path(place / WEIGHTS) as temporary:
        write_tensors(temporary, form.tensors, {"format": "pt"})
    _check_equal(network, form, place)
    return [place / name for name in (WEIGHTS, *files, *copied)]


def _check_place(place: Path) -> None:
    """Refuse a directory with weights in files of other names, which transformers could load instead."""
    others = sorted(path.name for pattern in ("*.safetensors*", "*.bin*") for path in place.glob(pattern)
                    if path.name != WEIGHTS)  # fmt: skip
    if others:
        raise UserError(f"{place} contains other weights, {others[0]}", "give another --output")


@torch.no_grad()
def _check_equal(network: nn.Module, form: HuggingFaceForm, place: Path) -> None:
    """Check that the directory gives a network that computes the same bit for bit.

    Raises:
        RuntimeError: it does not.
    """
    ours, theirs = (prunable(one.eval()).probe(torch.Generator().manual_seed(0)) for one in (network, form.load(place)))
    if relative_difference(theirs, ours) > 0:
        raise RuntimeError(f"{place} computes other outputs than the network")
