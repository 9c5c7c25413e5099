"""Protect data-loading workers from SIGTERM, so that training can save its state when it is asked to end.

Schedulers and job runners send SIGTERM to all processes of a job. It would end torch's workers, and then training would
fail in the middle of a step.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGTERM = {signal.SIGTERM}
_CAN_WAIT = hasattr(signal, "sigwaitinfo")  # not on macOS, where any SIGTERM still ends workers


@contextmanager
def sigterm_blocked() -> Iterator[None]:
    """Start workers in this context, so that no SIGTERM reaches them before they call `heed_parent_alone`."""
    if not _CAN_WAIT:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGTERM)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_parent_alone(index: int = 0) -> None:
    """In a worker: end on SIGTERM only if the parent sent it, as torch and Python do to end workers.

    Args:
        index: number of the worker, since this is torch's ``worker_init_fn``.
    """
    if not _CAN_WAIT:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGTERM)
    threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo(_SIGTERM).si_pid != parent:
        pass
    os._exit(0)
