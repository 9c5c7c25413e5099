"""Read text files: one sentence per line, plain or gzipped."""

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
    """Check that the files exist and return their paths.

    Raises:
        UserError: a file does not exist.
    """
    for path in paths:
        if not Path(path).is_file():
            raise UserError(f"text file {path} does not exist", "create it or correct the path")
    return [Path(path) for path in paths]


def check_readable(path: PathLike, what: str) -> None:
    """Check that a file exists; pipes such as ``<(zcat FILE)`` are accepted.

    Raises:
        UserError: the file does not exist or is a directory; ``what`` names it in the message.
    """
    if not Path(path).exists():
        raise UserError(f"{what} {path} does not exist", "correct the path")
    if Path(path).is_dir():
        raise UserError(f"{what} {path} is a directory", "give a file")


ON_EMPTY = ("error", "skip")
"""What to do with empty lines."""


def empty_line(path: PathLike, number: int, option: str) -> UserError:
    """Return the error for the empty line ``number``; ``option`` is the option that skips such lines."""
    return UserError(f"{path} line {number} is empty", f"remove it, or give {option} to skip empty lines")


def read_words(path: PathLike) -> list[str]:
    """Read a list of words, the first of each line: a plain list, a lexicon, or a Kaldi or icefall ``words.txt``.

    Symbols that are not words (``<eps>``, ``#0``, ``<UNK>``, ``!SIL``) are skipped.

    Raises:
        UserError: the file is missing or has no words.
    """
    (path,) = check_texts([path])
    words = dict.fromkeys(line.split()[0] for line in read_sentences(path) if line)
    found = [word for word in words if not _SPECIAL.fullmatch(word)]
    if not found:
        raise UserError(f"{path} has no words", "give a file with one word per line")
    return found


_SPECIAL = re.compile(r"<(eps|s|/s|unk|UNK|SPOKEN_NOISE)>|#[0-9]+|!SIL")


def set_name(path: PathLike) -> str:
    """Return the name of a text in tables: its file name without extensions."""
    return Path(path).name.split(".")[0]


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def read_sentences(path: PathLike) -> Iterator[str]:
    """Yield the lines of a text file, plain or gzipped, normalised, with single spaces between words.

    Raises:
        UserError: the file is not UTF-8 text, or is broken.
    """
    number = 0
    try:
        with _open(Path(path)) as stream:
            for line in stream:
                number += 1
                yield " ".join(normalised(line).split())
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read after line {number} ({error})", "give a valid UTF-8 text file"
        ) from None
