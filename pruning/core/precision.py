"""What must not be computed in half precision, whatever autocast says."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is in float64; to be used where autocast is off."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def autocast_dtype(device_type: str) -> Optional[torch.dtype]:
    """What matrix products are computed in there under autocast; None where it is off."""
    if hasattr(torch, "get_autocast_dtype"):  # torch 2.4 on; before it, another function for each type of device
        enabled: Any = torch.is_autocast_enabled
        return torch.get_autocast_dtype(device_type) if enabled(device_type) else None
    if device_type == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
