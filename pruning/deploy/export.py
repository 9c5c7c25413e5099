"""Export of networks of any kind."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

import torch
from torch import nn

from pruning.deploy import onnx_files
from pruning.files import PathLike, atomic_path, write_text
from pruning.kinds import kind
from pruning.kinds.exports import Exports, Part
from pruning.kinds.forms import FORMS
from pruning.models.facts import FILE


def export_onnx(
    model: nn.Module, directory: PathLike, lang_dir: Optional[PathLike] = None, int8: bool = True
) -> list[Path]:
    """Write a network's ONNX files, their int8 forms, and the tables that explain its outputs.

    Args:
        model: extracted or dense network; irregular layers, removed modules and factored layers are supported.
        directory: output directory.
        lang_dir: directory with the tables to copy next to the files; None to copy none.
        int8: whether to write the int8 forms, with dynamically quantised matrices.

    Returns:
        The model files.

    Raises:
        UserError: networks of this kind cannot be exported, or onnx or onnxruntime is not installed.
    """
    exports = kind.of(model).exports(model, lang_dir)
    return write(exports, directory, ["float32", *(["int8"] if int8 else [])], lang_dir)


def write(
    exports: Exports, directory: PathLike, forms: Sequence[str], lang_dir: Optional[PathLike] = None
) -> list[Path]:
    """Write the files of several forms, instead of those of an earlier export in the directory.

    Earlier files are removed, whatever their forms and their kind of network, when all new ones are complete, and
    before the first of these gets its name: files of two exports are never there together, even if this is killed.

    Args:
        exports: see `pruning.kinds.kind.Kind.exports`.
        directory: output directory.
        forms: names from `FORMS`; ``float32`` is always written.
        lang_dir: directory with the tables to copy next to the files; None to copy none.

    Returns:
        The model files.
    """
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-export-", dir=place) as name:
        new = Path(name)
        written = onnx_files.write(exports.parts, new, int8="int8" in forms)
        if "torchscript" in forms:
            written += write_torchscript(exports.parts, new)
        for file, text in exports.texts.items():
            write_text(new / file, text)
        for table in exports.tables if lang_dir is not None else ():
            with atomic_path(new / table) as temporary:
                shutil.copyfile(Path(str(lang_dir)) / table, temporary)
        _remove_earlier(place)
        for path in sorted(new.iterdir()):
            os.replace(path, place / path.name)
    return [place / path.name for path in written]


def _remove_earlier(directory: Path) -> None:
    """Remove the parts of an earlier export and what its network cost; ONNX files, which tell the names, last."""
    names = onnx_files.parts_in(directory)
    for form in reversed(FORMS) if names else ():
        (directory / form / FILE).unlink(missing_ok=True)
        for name in names:
            (directory / f"{name}{FORMS[form]}").unlink(missing_ok=True)


@torch.no_grad()
def write_torchscript(parts: Mapping[str, Part], directory: PathLike) -> list[Path]:
    """Write ``NAME.pt`` for every part: traced modules with the interface of the ONNX files."""
    written = []
    for name, part in parts.items():
        path = Path(directory) / f"{name}{FORMS['torchscript']}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(part.module.eval(), part.inputs)
        with atomic_path(path) as temporary:
            torch.jit.save(traced, str(temporary))
        written.append(path)
    return written
