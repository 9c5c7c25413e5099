"""Text files: one sentence a line, plain or gzipped."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.speech.text.normalisation import normalised


def check_texts(paths: Sequence[PathLike]) -> list[Path]:
    """The paths, after checking that the files are there.

    Raises:
        UserError: one is not.
    """
    for path in paths:
        if not Path(path).is_file():
            raise UserError(f"text {path} does not exist", "prepare it, or correct the path")
    return [Path(path) for path in paths]


ON_EMPTY = ("error", "skip")
"""What to do where a line is empty."""


def empty_line(path: PathLike, number: int, option: str) -> UserError:
    """That line ``number`` is empty, and by which ``option`` such lines are left out."""
    return UserError(f"{path} line {number} is empty", f"take it out, or give {option} to leave such lines out")


def read_words(path: PathLike) -> list[str]:
    """A list of words, the first of each line: one word a line, a lexicon, or Kaldi's and icefall's ``words.txt``.

    Symbols of such tables that are no words (``<eps>``, ``#0``, ``<UNK>``, ``!SIL``) are left out.

    Raises:
        UserError: it is missing or has no words.
    """
    (path,) = check_texts([path])
    words = dict.fromkeys(line.split()[0] for line in read_sentences(path) if line)
    found = [word for word in words if not _SPECIAL.fullmatch(word)]
    if not found:
        raise UserError(f"{path} has no words", "give one a line")
    return found


_SPECIAL = re.compile(r"<(eps|s|/s|unk|UNK|SPOKEN_NOISE)>|#[0-9]+|!SIL")


def set_name(path: PathLike) -> str:
    """What a text is called in tables: its file's name without endings."""
    return Path(path).name.split(".")[0]


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def read_sentences(path: PathLike) -> Iterator[str]:
    """The lines of a text file, plain or gzipped, normalised, their words separated by single spaces.

    Raises:
        UserError: it is no UTF-8 text, or broken.
    """
    number = 0
    try:
        with _open(Path(path)) as stream:
            for line in stream:
                number += 1
                yield " ".join(normalised(line).split())
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read after line {number} ({error})", "give UTF-8 text") from None
