"""Waiting for what other processes do: by what is seen of them, never by how long they may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 60.0) -> T:
    """What ``condition`` returns once that is true.

    Raises:
        AssertionError: it is still false after ``seconds``, which a slow machine with other work must not reach.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)
    return found


def text(path: Path) -> str:
    """What a file holds, nothing while it is not there."""
    return path.read_text().strip() if path.exists() else ""


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended but was not collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end between any two looks at it
        return False
