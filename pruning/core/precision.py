"""Helpers for computations that need at least float32 under autocast."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or unchanged if it is float64; for use where autocast is off."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def autocast_dtype(device_type: str) -> Optional[torch.dtype]:
    """Return the dtype of matrix products on ``device_type`` under autocast, or None if autocast is off."""
    if hasattr(torch, "get_autocast_dtype"):  # from torch 2.4 on; before, each device type has its own function
        enabled: Any = torch.is_autocast_enabled
        return torch.get_autocast_dtype(device_type) if enabled(device_type) else None
    if device_type == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
