"""Being asked to stop: finish the step, save the state, and leave with a status that says so."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Optional

REQUEUE_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again


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

    def leave(self) -> None:
        """End as the signal asked.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: with REQUEUE_STATUS otherwise.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(REQUEUE_STATUS)
