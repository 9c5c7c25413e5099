"""Handling of stop signals: finish the step, save the state, and exit with a status that says so."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Optional

REQUEUE_STATUS = 75  # EX_TEMPFAIL of sysexits.h: interrupted, run the same command again
BAD_INPUT_STATUS = 65  # EX_DATAERR: replaces status 1 in a process of torchrun


def bad_input_status() -> int:
    """Return the exit status for bad input; with status 1, torchrun would start the process again."""
    return BAD_INPUT_STATUS if "TORCHELASTIC_RUN_ID" in os.environ else 1


class StopRequest:
    """Context in which SIGTERM and the first SIGINT are recorded instead of ending the process.

    A second SIGINT raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.signal: Optional[int] = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def leave(self) -> NoReturn:
        """Exit as the received signal requires, or as after SIGTERM if only another process received one.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: with REQUEUE_STATUS otherwise.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(REQUEUE_STATUS)
