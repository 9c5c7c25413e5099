"""What must not be computed in half precision, whatever autocast says."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is in float64; to be used where autocast is off."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
