"""Commands that have ended well: recorded, so that the same command on unchanged files returns before it imports torch.

A record lies in the directory that the command fills. It holds the command line and, of every file that the command
read or wrote, what changes when the file is written: size and times. It is believed where all of that is unchanged, the
code of the package included; otherwise the command looks for itself, as without a record.
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
_NOT_OURS = (".lock", ".tmp-")  # names in a directory that begin so say nothing of what was read or written

Stamp = Optional[list[int]]


class Record:
    """The record of one command line in one working directory. Make it before the command reads anything.

    Args:
        directory: that the command fills.
        program: the command's name.
        words: its arguments.
    """

    def __init__(self, directory: PathLike, program: str, words: Sequence[str]) -> None:
        self._began = time.time_ns()
        self._line = [os.getcwd(), program, *words]
        name = hashlib.sha256("\0".join(self._line).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        # not .json: tables are made of the decode-*.json of all folders
        self.path = Path(directory) / FOLDER / f"{program}-{name}.record"

    def holds(self) -> bool:
        """Whether this command line has ended well here, and nothing has changed since."""
        known, code = self._read()
        return bool(known) and code == _code() and all(_stamp(path) == stamp for path, stamp in known.items())

    def files(self) -> list[Path]:
        """Those of the record."""
        return [Path(path) for path in self._read()[0]]

    def written_again(self, paths: Collection[PathLike]) -> None:
        """Record that the command, which had ended, has written some of its files again."""
        again = {os.path.abspath(path) for path in paths}
        known, code = self._read()
        stamps = {path: _stamp(path) if path in again else stamp for path, stamp in known.items()}
        write_json(self.path, {"line": self._line, "code": code, "files": stamps})

    def _read(self) -> tuple[dict[str, Stamp], str]:
        """Files and code of the record; nothing where there is no whole one."""
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(record["files"]), str(record["code"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}, ""

    def write(self, read: Iterable[PathLike], wrote: Iterable[PathLike]) -> None:
        """Record that it has ended well; not where a file that it read was written since it began.

        Args:
            read: files, or directories, of which the files directly in them count.
            wrote: the same; what is in both counts as written.
        """
        outputs, inputs = _stamps(wrote), _stamps(read)
        times = (max(stamp[1:]) for path, stamp in inputs.items() if stamp is not None and path not in outputs)
        if all(written <= self._began for written in times):
            write_json(self.path, {"line": self._line, "code": _code(), "files": {**inputs, **outputs}})


def paths_of(options: argparse.Namespace) -> Iterator[Path]:
    """The files and directories among the values of options."""
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
    """None: no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


@cache
def _code() -> str:
    """Of the package's files, by size and time."""
    root = Path(__file__).resolve().parent
    lines = [
        f"{path} {found.st_size} {found.st_mtime_ns}" for path in sorted(root.rglob("*.py")) if (found := path.stat())
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
