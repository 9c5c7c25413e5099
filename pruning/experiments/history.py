"""How an experiment came about, by the logs of the job runner: its commands, and the experiments it was made from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from pruning.experiments import checkpoint
from pruning.files import PathLike, read_lines

_MADE_FROM = ("--init", "--pruned", "--teacher")
"""Options of commands that name the experiment that another one was made from, those that give it its weights first."""


class History(NamedTuple):
    """How an experiment came about.

    Attributes:
        commands: the commands that made it and the experiments before, oldest first.
        origins: experiment directories or checkpoints that it was made from, the nearest first: those that gave it
            their weights, each with its own origins, before teachers.
    """

    commands: list[str]
    origins: list[Path]


def history(exp_dir: PathLike) -> History:
    """Follow the logs of an experiment, each of which begins with its command.

    Experiments before are found if the commands name them by paths that exist from here.
    """
    found, seen = History([], []), set[Path]()

    def follow(source: Path) -> None:
        place = source if source.is_dir() else source.parent
        if place.resolve() in seen:
            return
        seen.add(place.resolve())
        found.origins.append(source)
        own = _commands(place)
        for origin in _origins(own):
            follow(origin)
        found.commands.extend(one for one in own if one not in found.commands)

    follow(Path(exp_dir))
    return History(found.commands, found.origins[1:])


def dense_origin(exp_dir: PathLike) -> Optional[Path]:
    """Return the experiment or checkpoint that a pruned network was cut from; None if it is not known or not here."""
    for source in history(exp_dir).origins:
        path = checkpoint.file_of(source)
        if path.is_file() and not {"structure", checkpoint.FOUND} & checkpoint.read_header(path).keys():
            return source
    return None


def _commands(place: Path) -> list[str]:
    """Return the commands of the logs of an experiment, oldest first."""
    found: list[str] = []
    for path in sorted((place / "log").glob("*.log"), key=lambda path: path.stat().st_mtime):
        first = next(iter(read_lines(path)), "")
        if first.startswith("# ") and first[2:] not in found:
            found.append(first[2:])
    return found


def _origins(commands: Sequence[str]) -> Iterator[Path]:
    """Yield the experiments that commands name as what they start from, if they exist."""
    lines = [_words(command) for command in commands]
    for option in _MADE_FROM:
        for words in lines:
            yield from (Path(value) for name, value in zip(words, words[1:]) if name == option and Path(value).exists())


def _words(command: str) -> list[str]:
    """Return the words of a command, also of one whose quotes do not end on the line, such as around a line end."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()
