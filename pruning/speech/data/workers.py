"""Processes that load batches, and SIGTERM: it is for training, which saves its state, and not for what loads for it.

Schedulers and job runners send it to all processes of a job. torch's workers would end by it, and training with them in
the middle of a step, as if something were wrong.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGTERM = {signal.SIGTERM}
_CAN_WAIT = hasattr(signal, "sigwaitinfo")  # not on macOS, where workers go on ending by any SIGTERM


@contextmanager
def sigterm_blocked() -> Iterator[None]:
    """Start workers within this, so that no SIGTERM reaches them before `heed_parent_alone` is called in them."""
    if not _CAN_WAIT:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGTERM)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_parent_alone(index: int = 0) -> None:
    """In a worker: end by the parent's SIGTERM, with which torch and Python end workers, and by nobody else's.

    Args:
        index: of the worker, as torch calls its ``worker_init_fn``.
    """
    if not _CAN_WAIT:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGTERM)
    threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo(_SIGTERM).si_pid != parent:
        pass
    os._exit(0)
