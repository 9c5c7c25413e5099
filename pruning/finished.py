"""Records of commands that have finished: a repeated command on unchanged files returns before it imports torch.

A record is stored in the directory that the command fills. It contains the command line and, for each file that the
command read or wrote, its size and times, which change when the file is written. The record is valid if all of these
and the code of the package are unchanged; otherwise the command runs as it does without a record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Optional, Union

from pruning.files import PathLike, write_json

FOLDER = ".finished"
_NOT_OURS = (".lock", ".tmp-")  # files whose names begin like this are neither inputs nor outputs

Stamp = Optional[list[int]]


class Record:
    """The record of one command line in one working directory. Create it before the command reads anything.

    Args:
        directory: directory that the command fills.
        program: name of the command.
        words: arguments of the command.
    """

    def __init__(self, directory: PathLike, program: str, words: Sequence[str]) -> None:
        self._began = time.time_ns()
        self._line = [os.getcwd(), program, *words]
        name = hashlib.sha256("\0".join(self._line).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        # not .json: tables are made from the decode-*.json files of all directories
        self.path = Path(directory) / FOLDER / f"{program}-{name}.record"

    def holds(self) -> bool:
        """Return whether this command line has finished here and nothing has changed since."""
        known, code = self._read()
        return bool(known) and code == _code() and all(_stamp(path) == stamp for path, stamp in known.items())

    def files(self) -> list[Path]:
        """Return the files of the record."""
        return [Path(path) for path in self._read()[0]]

    def written_again(self, paths: Collection[PathLike]) -> None:
        """Record that the finished command has written some of its files again."""
        again = {os.path.abspath(path) for path in paths}
        known, code = self._read()
        stamps = {path: _stamp(path) if path in again else stamp for path, stamp in known.items()}
        write_json(self.path, {"line": self._line, "code": code, "files": stamps})

    def _read(self) -> tuple[dict[str, Stamp], str]:
        """Return the files and the code fingerprint of the record; empty if there is no complete record."""
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(record["files"]), str(record["code"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}, ""

    def write(self, read: Iterable[PathLike], wrote: Iterable[PathLike]) -> None:
        """Record that the command has finished, unless a file that it read was written after the command started.

        Args:
            read: files or directories that were read; a directory stands for the files directly in it.
            wrote: the same for what was written; a file in both counts as written.
        """
        outputs, inputs = _stamps(wrote), _stamps(read)
        times = (max(stamp[1:]) for path, stamp in inputs.items() if stamp is not None and path not in outputs)
        if all(written <= self._began for written in times):
            write_json(self.path, {"line": self._line, "code": _code(), "files": {**inputs, **outputs}})


def paths_of(options: argparse.Namespace) -> Iterator[Path]:
    """Yield the existing files and directories among the option values."""
    for value in vars(options).values():
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, (str, Path)) and word and os.path.exists(word):
                yield Path(word)


def _stamps(places: Iterable[PathLike]) -> dict[str, Stamp]:
    return {str(path): _stamp(path) for place in places for path in _in(Path(os.path.abspath(place)))}


def _in(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        yield place
        return
    for path in sorted(place.iterdir()):
        if path.is_file() and not path.name.startswith(_NOT_OURS):
            yield path


def _stamp(path: Union[str, Path]) -> Stamp:
    """Return the size and times of a file; None if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


@cache
def _code() -> str:
    """Return a fingerprint of the package's files, by size and time."""
    root = Path(__file__).resolve().parent
    lines = [
        f"{path} {found.st_size} {found.st_mtime_ns}" for path in sorted(root.rglob("*.py")) if (found := path.stat())
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
