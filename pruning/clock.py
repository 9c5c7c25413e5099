"""Time of what a device computes, which on a GPU may go on after a call has returned."""

from __future__ import annotations

import time
from typing import Union

import torch


def wait(device: Union[str, torch.device]) -> None:
    """Wait until a device has computed all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def now(device: Union[str, torch.device]) -> float:
    """Return the seconds of a clock, when a device has computed all that it was given."""
    wait(device)
    return time.perf_counter()
