"""Wait for other processes by their visible effects, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 240.0) -> T:
    """Call ``condition`` until its result is true, and return the result.

    Raises:
        AssertionError: it is still false after ``seconds``, which must be long enough for a slow and busy machine.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)
    return found


def text(path: Path) -> str:
    """Return the content of a file; empty if it does not exist."""
    return path.read_text().strip() if path.exists() else ""


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end between any two checks
        return False
