"""Write files atomically: each file is written under a temporary name and renamed when it is complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union

from pruning.errors import UserError

PathLike = Union[str, "os.PathLike[str]"]


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary sibling of ``path``; rename it to ``path`` on success, remove it on failure.

    The temporary name keeps the suffixes of ``path``, because writers choose a format by them. The caller may create a
    file or a directory there; an existing directory at ``path`` is replaced.

    Raises:
        OSError: a file system error, such as a full disk; the temporary file is removed.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    try:
        yield temporary
        if temporary.is_file():
            with open(temporary, "rb") as stream:  # a rename may reach the disk before the data does
                os.fsync(stream.fileno())
        elif temporary.is_dir() and target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: PathLike, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: PathLike, remedy: str = "correct the path") -> str:
    """Read a whole UTF-8 text file.

    Raises:
        UserError: the file is missing or is not UTF-8; ends with ``remedy``.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", remedy) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8", remedy) from None


def read_lines(path: PathLike) -> list[str]:
    """Return the lines of a UTF-8 text file, with or without a byte order mark, without line ends.

    Only a line feed ends a line, as in programs in other languages; a carriage return before it is dropped. (Other
    Unicode line ends, such as U+2028, occur within transcripts.)

    Raises:
        UserError: the file is not UTF-8.
        OSError: a file system error.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = f"convert it, e.g. from Latin-1: iconv -f latin1 -t utf-8 {path} > NEW, and replace it by NEW"
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start})", remedy) from None
    lines = text.split("\n")
    if not lines[-1]:  # the empty string after the last line feed
        del lines[-1]
    return [line.removesuffix("\r") for line in lines]


def write_json(path: PathLike, value: Any) -> None:
    """Write ``value`` to ``path`` as JSON, atomically: indented, but a list of plain values on one line.

    Raises:
        ValueError: the value contains a number that is not finite; JSON has no such numbers.
    """
    write_text(path, _json(value, "\n") + "\n")


def _json(value: Any, newline: str) -> str:
    inner = newline + " "
    if isinstance(value, dict) and value:
        rows = (f"{json.dumps(str(key), ensure_ascii=False)}: {_json(one, inner)}" for key, one in value.items())
        return "{" + inner + f",{inner}".join(rows) + newline + "}"
    if isinstance(value, (list, tuple)) and any(isinstance(one, (dict, list, tuple)) for one in value):
        return "[" + inner + f",{inner}".join(_json(one, inner) for one in value) + newline + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def read_json(path: PathLike, remedy: str = "make it again with the stage that writes it") -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", remedy) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error})", remedy) from None
