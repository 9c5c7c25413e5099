"""The transducer lattice in plain torch: total score, occupation probabilities, windows of the pruned-range loss.

A node (t, u) means that u symbols have been emitted and frame t is being read. Blank moves from (t, u) to (t + 1, u),
the next symbol moves to (t, u + 1); the path ends with the blank of node (T - 1, U).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Stands for log 0. Cumulative sums over frames must stay finite; a thousand of these are precise to 1e-7 in float64.
_LOG_ZERO = -1.0e6


def _forward(emit: Tensor, advance: Tensor) -> Tensor:
    """Log-probability of reaching each node, (N, U + 1, T), from emit (N, U, T) and advance (N, U + 1, T).

    One step per symbol, all frames at once: a path enters row u at some frame s <= t and reads blanks until t. With C
    the exclusive cumulative sum of the row's blanks, alpha[u, t] = C[t] + logsumexp_{s <= t}(entry[s] - C[s]).
    """
    read = advance.cumsum(dim=2) - advance
    rows = [read[:, 0]]
    for u in range(emit.size(1)):
        entry = rows[-1] + emit[:, u]
        rows.append(read[:, u + 1] + torch.logcumsumexp(entry - read[:, u + 1], dim=1))
    return torch.stack(rows, dim=1)


def _backward(emit: Tensor, advance: Tensor, end: Tensor) -> Tensor:
    """Log-probability of finishing from each node, (N, U + 1, T); ``end``, same shape, is the score of stopping."""
    read = advance.cumsum(dim=2) - advance
    rows: list[Tensor] = []
    for u in range(emit.size(1), -1, -1):
        leave = end[:, u] if not rows else torch.logaddexp(end[:, u], emit[:, u] + rows[-1])
        rows.append(torch.logcumsumexp((leave + read[:, u]).flip(1), dim=1).flip(1) - read[:, u])
    return torch.stack(rows[::-1], dim=1)


class _LatticeScore(torch.autograd.Function):
    """Total log-probability; its gradient is computed from the occupation probabilities instead of by autograd."""

    @staticmethod
    def forward(ctx: Any, emit: Tensor, blank: Tensor, lengths: Tensor, target_lengths: Tensor) -> tuple[Tensor, ...]:
        dtype = emit.dtype
        emit, blank = (x.double().clamp(min=_LOG_ZERO).transpose(1, 2) for x in (emit, blank))
        t = torch.arange(blank.size(2), device=blank.device).view(1, 1, -1)
        u = torch.arange(blank.size(1), device=blank.device).view(1, -1, 1)
        last_t, last_u = lengths.view(-1, 1, 1) - 1, target_lengths.view(-1, 1, 1)
        emit = emit.masked_fill((t > last_t) | (u[:, :-1] >= last_u), _LOG_ZERO)
        advance = blank.masked_fill(t >= last_t, _LOG_ZERO)
        end = blank.masked_fill((t != last_t) | (u != last_u), _LOG_ZERO)

        alpha = _forward(emit, advance)
        beta = _backward(emit, advance, end)
        total = beta[:, 0, :1].unsqueeze(2)  # (N, 1, 1)
        emit_occupation = (alpha[:, :-1] + emit + beta[:, 1:] - total).exp()
        blank_occupation = (alpha + end - total).exp()
        blank_occupation[:, :, :-1] += (alpha[:, :, :-1] + advance[:, :, :-1] + beta[:, :, 1:] - total).exp()
        occupations = [x.transpose(1, 2).to(dtype) for x in (emit_occupation, blank_occupation)]
        ctx.save_for_backward(*occupations)
        ctx.mark_non_differentiable(*occupations)
        return (total.view(-1).to(dtype), *occupations)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        emit_occupation, blank_occupation = ctx.saved_tensors
        grad = grads[0].view(-1, 1, 1)
        return grad * emit_occupation, grad * blank_occupation, None, None


def lattice_score(
    emit: Tensor, blank: Tensor, lengths: Tensor, target_lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log-probability of the targets, summed over all alignments.

    Args:
        emit: log-probability of the next symbol at each node, (N, T, U); -inf closes an arc.
        blank: log-probability of blank at each node, (N, T, U + 1); -inf closes an arc.
        lengths: number of frames of each utterance, (N,), at least 1.
        target_lengths: number of symbols of each utterance, (N,).

    Returns:
        The differentiable score (N,), and the probabilities that a path takes each arc, in the shapes of ``emit`` and
        ``blank``. A score below -1e5 means that no path was open.
    """
    score, emit_occupation, blank_occupation = _LatticeScore.apply(emit, blank, lengths, target_lengths)
    return score, emit_occupation, blank_occupation


def symbol_windows(
    emit_occupation: Tensor, blank_occupation: Tensor, lengths: Tensor, target_lengths: Tensor, prune_range: int
) -> Tensor:
    """Return the R consecutive symbol positions of each frame with the most probability (arXiv:2206.13236, 3.2).

    Windows start at 0, never move back, overlap the window of the previous frame by at least one position, and reach
    the last symbol on the last frame, so that complete paths fit inside them.

    Args:
        emit_occupation: (N, T, U), from :func:`lattice_score`.
        blank_occupation: (N, T, U + 1).
        lengths: number of frames of each utterance, (N,).
        target_lengths: number of symbols of each utterance, (N,).
        prune_range: R, at least 2; at most U + 1 positions are kept.

    Returns:
        Positions (N, T, min(R, U + 1)), int64.
    """
    size = min(prune_range, blank_occupation.size(2))
    held = blank_occupation.unfold(2, size, 1).sum(dim=3)  # (N, T, U + 2 - R)
    # A symbol emitted into the window's first position came from outside the window, so that path is lost.
    held[:, :, 1:] -= emit_occupation[:, :, : held.size(2) - 1]
    start = held.argmax(dim=2)

    t = torch.arange(start.size(1), device=start.device)
    final = (target_lengths - size + 1).clamp(min=0).unsqueeze(1)
    start = torch.where(t < lengths.unsqueeze(1) - 1, start, final)
    start = start.flip(1).cummin(dim=1).values.flip(1)
    reach = t * (size - 1)  # furthest start of a window at frame t
    start = (start - reach).flip(1).cummax(dim=1).values.flip(1).clamp(max=0) + reach
    return start.unsqueeze(2) + torch.arange(size, device=start.device)
