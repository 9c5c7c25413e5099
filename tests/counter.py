"""Count the multiply-accumulates of the operations that run, independent of the formulas in the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        if name == "addmm":
            self.macs += args[1].shape[0] * args[1].shape[1] * args[2].shape[1]
        elif name == "mm":
            self.macs += args[0].shape[0] * args[0].shape[1] * args[1].shape[1]
        elif name in ("bmm", "baddbmm"):
            left, right = args[-2:] if name == "bmm" else args[1:3]
            self.macs += left.shape[0] * left.shape[1] * left.shape[2] * right.shape[2]
        elif name in ("convolution", "mkldnn_convolution"):
            weight, transposed = args[1], len(args) > 6 and args[6]
            self.macs += (args[0] if transposed else result).numel() * weight[0].numel()
        elif name.startswith("_scaled_dot_product"):
            query, key, value = args[:3]
            self.macs += query.numel() * key.shape[-2] + query.shape[:-1].numel() * key.shape[-2] * value.shape[-1]
        return result


def count_macs(run: Callable[[], Any]) -> int:
    """Return the multiply-accumulates of matrix products and convolutions during ``run()``."""
    counter = _Counter()
    with torch.no_grad(), counter:
        run()
    return counter.macs
