"""Small files of an imported Hugging Face directory, kept in the language directory: an export needs them again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from pruning.errors import UserError
from pruning.files import PathLike, atomic_path, read_json, write_json
from pruning.importers.hf_directory import CONFIG, PREPROCESSOR, PROCESSOR

GENERATION = "generation_config.json"
CARDS = ("SOURCE.md", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")
"""Files that may say where the weights come from and under which licence."""
KEPT = (CONFIG, GENERATION, PREPROCESSOR, PROCESSOR, "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "chat_template.jinja", "normalizer.json", "vocab.json", "merges.txt", *CARDS)  # fmt: skip
"""Files that are kept if the directory has them; ``tokenizer.json`` is in the language directory itself."""
_FOLDER, _ORIGIN = "source", "origin.json"
_REMEDY = "import the network again with pruning.bin.import_hf"


def keep(directory: Path, lang_dir: PathLike, origin: Mapping[str, object]) -> None:
    """Copy the small files of a Hugging Face directory to ``source`` in a language directory.

    Args:
        directory: of the checkpoint.
        lang_dir: language directory of its tokens.
        origin: what else is known of the checkpoint: its name, and the SHA-256 of its files.

    Raises:
        UserError: the language directory has the files of another checkpoint.
    """
    place = Path(lang_dir) / _FOLDER
    if (place / _ORIGIN).is_file() and _dictionary(place / _ORIGIN).get("sha256") != origin["sha256"]:
        raise UserError(f"{place} has the files of another checkpoint", "give another --lang-dir, or remove this one")
    for name in KEPT:
        if (directory / name).is_file():
            with atomic_path(place / name) as temporary:
                shutil.copyfile(directory / name, temporary)
    write_json(place / _ORIGIN, dict(origin))


def kept(lang_dir: PathLike) -> dict[str, Path]:
    """Return the files that `keep` copied, by name; none for a language directory of an earlier version."""
    place = Path(lang_dir) / _FOLDER
    return {name: place / name for name in KEPT if (place / name).is_file()}


def kept_values(lang_dir: PathLike, name: str) -> dict[str, object]:
    """Return the content of a kept JSON file; empty if the import kept no such file.

    Raises:
        UserError: the file is broken.
    """
    if name not in kept(lang_dir):
        return {}
    return _dictionary(kept(lang_dir)[name])


def origin(lang_dir: PathLike) -> dict[str, object]:
    """Return what `keep` was told of the checkpoint; empty for a language directory of an earlier version.

    Raises:
        UserError: the file is broken.
    """
    path = Path(lang_dir) / _FOLDER / _ORIGIN
    return _dictionary(path) if path.is_file() else {}


def _dictionary(path: Path) -> dict[str, object]:
    values = read_json(path, _REMEDY)
    if not isinstance(values, dict):
        raise UserError(f"{path} does not contain names and values", _REMEDY)
    return values
