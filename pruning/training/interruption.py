"""Being asked to stop: finish the step, save the state, and leave with a status that says so."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Optional

REQUEUE_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again
BAD_INPUT_STATUS = 65  # EX_DATAERR: what a process of torchrun's ends with where a command otherwise ends with 1


def bad_input_status() -> int:
    """How to end after saying what is wrong; torchrun starts a process again that ends with 1, as after a fault."""
    return BAD_INPUT_STATUS if "TORCHELASTIC_RUN_ID" in os.environ else 1


class StopRequest:
    """While entered, SIGTERM and the first SIGINT are noted and do not end the process; a second SIGINT interrupts."""

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
        """End as the signal asked; a process that was not asked itself ends as one that was by SIGTERM.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: with REQUEUE_STATUS otherwise.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(REQUEUE_STATUS)
