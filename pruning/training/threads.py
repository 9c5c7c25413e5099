"""Set the number of torch's threads, at most one for each processor that this process may use."""

from __future__ import annotations

import logging
import os
from typing import Optional

import torch

logger = logging.getLogger(__name__)


def set_threads(wanted: Optional[int]) -> None:
    """Let torch compute with ``wanted`` threads; None: leave torch's default.

    More threads than processors wait for each other in a loop, which is slower than one thread. A scheduler or
    ``taskset`` may allow fewer processors than the machine has; then there is a warning.
    """
    if wanted is None:
        return
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if wanted > usable:
        logger.warning("num_threads is %d, but this process may use only %d processor(s); it computes with %d "
                       "thread(s)", wanted, usable, usable)  # fmt: skip
    torch.set_num_threads(min(wanted, usable))
