"""Cross-entropy of the outputs of a linear layer, in chunks of rows, without holding all outputs in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pruning.core.precision import autocast_dtype

_CHUNK_ELEMENTS = 2**19  # float32 logits held at once on a CPU: 2 MiB, half of a common second-level cache
_CHUNK_ELEMENTS_CUDA = 2**24


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over rows of ``cross_entropy(x @ weight.T, targets)``, with gradients.

    The logits of a language model take more memory than all the rest of it: ``(T, V)`` in float32, read and written
    half a dozen times. Here they never leave the cache: gradients are computed in the same pass as the loss, as in
    P.-L. Hsu et al., "Liger Kernel" (arXiv 2410.10989, fused linear cross-entropy). Products use the precision of
    autocast, sums and exponentials float32. float16 is not fused, because the loss scale must be applied before its
    gradients are computed.

    Args:
        x: inputs of the layer, ``(T, D)``.
        weight: weight of the layer, ``(V, D)``.
        targets: index of the correct output in each row, ``(T,)`` int64, 0 to V - 1.

    Returns:
        The sum in nats, 0-dimensional float32 (float64 for float64 inputs).
    """
    dtype = autocast_dtype(x.device.type) or torch.promote_types(x.dtype, weight.dtype)
    if dtype == torch.float16:
        return cross_entropy((x @ weight.t()).float(), targets, reduction="sum")
    total: Tensor = _LinearCrossEntropy.apply(x, weight, targets, dtype)
    return total


class _LinearCrossEntropy(torch.autograd.Function):
    """See `linear_cross_entropy`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        wide = torch.promote_types(dtype, torch.float32)
        narrow = weight.to(dtype)
        elements = _CHUNK_ELEMENTS if x.device.type == "cpu" else _CHUNK_ELEMENTS_CUDA
        rows = max(1, elements // len(weight))
        total = x.new_zeros((), dtype=wide)
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        of_x, of_weight = (torch.zeros_like(part, dtype=wide) if wanted else None for part in (x, weight))
        for start in range(0, len(x), rows):
            part, right = x[start : start + rows].to(dtype), targets[start : start + rows, None]
            scores = (part @ narrow.t()).to(wide)
            top = scores.amax(dim=1, keepdim=True)
            own = scores.gather(1, right)
            mass = scores.sub_(top).exp_().sum(dim=1, keepdim=True)
            total += (mass.log() + top - own).sum()
            if of_x is not None and of_weight is not None:
                scores.div_(mass).scatter_add_(1, right, -torch.ones_like(own))
                gradient = scores.to(dtype)
                of_x[start : start + rows] = gradient @ narrow
                of_weight += gradient.t() @ part
        if wanted:
            ctx.save_for_backward(of_x, of_weight)
            ctx.dtypes = x.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        of_x, of_weight = ctx.saved_tensors
        return (gradients[0] * of_x).to(ctx.dtypes[0]), (gradients[0] * of_weight).to(ctx.dtypes[1]), None, None
