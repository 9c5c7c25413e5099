"""The CTC loss."""

from __future__ import annotations

import torch
from torch import Tensor


def ctc_loss(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Return the sum of the CTC losses of a batch, in float32; utterances too short for their targets count as 0.

    Args:
        log_probs: (N, T, V), blank 0; N may be 0.
        lengths: number of frames of each utterance, (N,).
        targets: (N, U) int64; padding values are ignored.
        target_lengths: number of symbols of each utterance, (N,).

    Returns:
        A scalar, differentiable.
    """
    if not len(log_probs):  # torch 2 refuses it
        return log_probs.float().sum()
    with torch.autocast(log_probs.device.type, enabled=False):
        return torch.nn.functional.ctc_loss(
            log_probs.float().transpose(0, 1),
            targets,
            lengths,
            target_lengths,
            reduction="sum",
            zero_infinity=True,
        )
