"""Differences between torch 1.13 and current torch 2.x."""

from __future__ import annotations

import math
from typing import Any, Optional

import torch
from torch import Tensor

_FUSED: Any = getattr(torch.nn.functional, "scaled_dot_product_attention", None)


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Optional[Tensor], dropout: float) -> Tensor:
    """Return ``softmax(query key^T / sqrt(D) + bias) value``, with the fused kernel if this torch has one.

    Args:
        query, key, value: ``(N, H, T, D)``.
        bias: term that is added to the scores, broadcast to ``(N, H, T, T)``; None for no bias.
        dropout: dropout probability of the attention weights.

    Returns:
        ``(N, H, T, D)``.
    """
    if _FUSED is not None:
        return _FUSED(query, key, value, attn_mask=bias, dropout_p=dropout)
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.shape[-1])
    if bias is not None:
        scores = scores + bias
    weights = torch.nn.functional.dropout(scores.softmax(dim=-1), dropout)
    return torch.matmul(weights, value)


def with_contiguous_gradient(x: Tensor) -> Tensor:
    """Return ``x`` itself, with a hook that makes its gradient contiguous.

    On a CPU, torch 1.13 computes the gradient of GELU from uninitialised memory if the gradient of its output is
    transposed. Call this between GELU and a transposition.
    """
    if x.requires_grad:
        x.register_hook(lambda gradient: gradient.contiguous())
    return x


def grad_scaler(device_type: str, enabled: bool) -> Any:
    """Return a gradient scaler for fp16: ``torch.amp.GradScaler`` if it exists, otherwise torch 1.13's CUDA scaler."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device_type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)


def supports_bf16(device: torch.device) -> bool:
    """Return whether the device runs bf16 autocast in hardware (always true for a CPU).

    torch 2.x reports support for every CUDA device because it can emulate bf16; NVIDIA GPUs have it from compute
    capability 8.0.
    """
    if device.type != "cuda":
        return True
    if torch.version.hip is not None:
        return torch.cuda.is_bf16_supported()
    return torch.cuda.get_device_capability(device) >= (8, 0)


def repair_torchrun() -> None:
    """Make torch 1.13's launcher start under Python 3.11, where iterating a flag skips its 0 (no redirection)."""
    from torch.distributed.elastic.multiprocessing.api import Std

    if isinstance(Std.from_str("0"), Std):
        return

    def from_str(text: str) -> Any:
        if ":" not in text:
            return Std(int(text))
        return {int(rank): Std(int(value)) for rank, value in (item.split(":") for item in text.split(","))}

    Std.from_str = staticmethod(from_str)  # type: ignore[method-assign, assignment]


def storage_id(tensor: Tensor) -> int:
    """Return a number that is equal for tensors that share memory."""
    return tensor.untyped_storage().data_ptr() if hasattr(tensor, "untyped_storage") else tensor.storage().data_ptr()


def storage_bytes(tensor: Tensor) -> int:
    """Return the size in bytes of the memory that a tensor is a view of."""
    if hasattr(tensor, "untyped_storage"):
        return len(tensor.untyped_storage())
    return tensor.storage().nbytes()
