"""Transducer losses: the full-lattice loss, and the pruned-range loss in k2 or plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pruning.optional import k2_is_installed
from pruning.speech.interfaces import TransducerNetwork
from pruning.speech.losses.lattice import lattice_score, symbol_windows

BACKENDS = ("auto", "k2", "torch")


def transducer_loss(logits: Tensor, targets: Tensor, lengths: Tensor, target_lengths: Tensor, blank: int = 0) -> Tensor:
    """Negative log-probability of the targets over the whole lattice, node by node (arXiv:1211.3711, section 2.4).

    Slow but easy to verify; serves as the reference for :func:`pruned_range_loss`.

    Args:
        logits: (N, T, U + 1, V), unnormalised.
        targets: (N, U) int64; padding values are ignored.
        lengths: number of frames of each utterance, (N,).
        target_lengths: number of symbols of each utterance, (N,).
        blank: id of blank.

    Returns:
        The sum over utterances, a scalar.
    """
    log_probs = logits.log_softmax(dim=-1)
    total = logits.new_zeros(())
    for n in range(logits.size(0)):
        frames, symbols = int(lengths[n]), int(target_lengths[n])
        alpha: dict[tuple[int, int], Tensor] = {(0, 0): logits.new_zeros(())}
        for t in range(frames):
            for u in range(symbols + 1):
                arriving = []
                if t > 0:
                    arriving.append(alpha[t - 1, u] + log_probs[n, t - 1, u, blank])
                if u > 0:
                    arriving.append(alpha[t, u - 1] + log_probs[n, t, u - 1, targets[n, u - 1]])
                if arriving:
                    alpha[t, u] = torch.stack(arriving).logsumexp(dim=0)
        total = total - alpha[frames - 1, symbols] - log_probs[n, frames - 1, symbols, blank]
    return total


class PrunedRangeLoss(NamedTuple):
    """Result of :func:`pruned_range_loss`: sums over the counted utterances, and the lattice nodes used."""

    simple: Tensor
    """Scalar: loss of the additive joiner, which determines the ranges."""
    pruned: Tensor
    """Scalar: loss of the real joiner on the ranges."""
    ranges: Tensor
    """(N, T, R) int64: symbol positions u that each frame keeps."""
    logits: Tensor
    """(N, T, R, V): logits of the joiner at these positions."""
    counted: Tensor
    """(N,) bool: False if an utterance has more symbols than frames or its loss is not finite."""


def pad_tokens(tokens: list[list[int]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return token ids as targets (N, U) padded with 0, U at least 1, and their lengths (N,), both int64."""
    lengths = torch.tensor([len(x) for x in tokens], dtype=torch.int64)
    width = max(1, int(lengths.max())) if tokens else 1
    targets = torch.zeros(len(tokens), width, dtype=torch.int64)
    flat = torch.tensor([y for x in tokens for y in x], dtype=torch.int64)
    targets[torch.arange(width) < lengths.unsqueeze(1)] = flat
    return targets.to(device), lengths.to(device)


def decoder_output(model: TransducerNetwork, targets: Tensor) -> Tensor:
    """Return the decoder's output after each prefix of the targets (N, U): (N, U + 1, D_dec)."""
    blank = model.decoder.blank_id
    return model.decoder(torch.nn.functional.pad(targets, (1, 0), value=blank), pad=True)


def joiner_logits(model: TransducerNetwork, encoder_out: Tensor, decoder_out: Tensor, ranges: Tensor) -> Tensor:
    """Return the joiner's logits at the given symbol positions.

    Args:
        model: network whose joiner is used.
        encoder_out: (N, T, D).
        decoder_out: (N, U + 1, D_dec).
        ranges: (N, T, R) int64, each in [0, U].

    Returns:
        (N, T, R, V).
    """
    am = model.joiner.encoder_proj(encoder_out)
    lm = model.joiner.decoder_proj(decoder_out)
    n, positions, _ = lm.shape
    rows = ranges + positions * torch.arange(n, device=ranges.device).view(-1, 1, 1)
    # One row lookup: gathering from an expanded tensor would create a gradient of (N, T, U + 1, J).
    lm = lm.flatten(0, 1).index_select(0, rows.flatten()).view(*ranges.shape, -1)
    return model.joiner(am.unsqueeze(2), lm, project=False)


def pruned_range_loss(
    model: TransducerNetwork,
    encoder_out: Tensor,
    lengths: Tensor,
    targets: Tensor,
    target_lengths: Tensor,
    prune_range: int = 5,
    am_scale: float = 0.0,
    lm_scale: float = 0.0,
    backend: str = "auto",
) -> PrunedRangeLoss:
    """Return the pruned-range transducer loss (arXiv:2206.13236), computed in float32 whatever the input dtypes.

    An utterance with more symbols than frames is excluded; its gradient is zero.

    Args:
        model: network with decoder, joiner and simple heads.
        encoder_out: (N, T, D).
        lengths: number of frames of each utterance, (N,).
        targets: (N, U) int64, U at least 1 (see :func:`pad_tokens`).
        target_lengths: number of symbols of each utterance, (N,).
        prune_range: R, number of symbol positions kept for each frame, at least 2.
        am_scale: weight of the encoder-only part in the simple loss.
        lm_scale: weight of the decoder-only part in the simple loss.
        backend: ``k2``, ``torch`` (same values, slower, nothing to install) or ``auto``: k2 if it is installed.

    Raises:
        ValueError: ``backend`` is unknown or ``prune_range`` is below 2.
    """
    simple_loss, pruned_loss = _implementation(backend, prune_range)
    feasible = target_lengths <= lengths
    target_lengths = torch.where(feasible, target_lengths, torch.zeros_like(target_lengths))
    targets = targets[:, : max(1, int(target_lengths.max()))]

    decoder_out = decoder_output(model, targets)
    am, lm = model.simple_am(encoder_out).float(), model.simple_lm(decoder_out).float()
    bounds = _Bounds(targets, target_lengths, lengths)
    with torch.autocast(encoder_out.device.type, enabled=False):
        simple, ranges = simple_loss(am, lm, bounds, prune_range, am_scale, lm_scale)
    logits = joiner_logits(model, encoder_out, decoder_out, ranges)
    with torch.autocast(encoder_out.device.type, enabled=False):
        pruned = pruned_loss(logits.float(), ranges, bounds)
    counted = feasible & simple.isfinite() & pruned.isfinite()
    zero = simple.new_zeros(())
    return PrunedRangeLoss(
        torch.where(counted, simple, zero).sum(), torch.where(counted, pruned, zero).sum(), ranges, logits, counted
    )


def symbol_ranges(
    model: TransducerNetwork,
    encoder_out: Tensor,
    decoder_out: Tensor,
    lengths: Tensor,
    targets: Tensor,
    target_lengths: Tensor,
    prune_range: int = 5,
    am_scale: float = 0.0,
    lm_scale: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Return the symbol positions that the simple loss of ``model`` keeps, without a gradient: ``(N, T, R)`` int64.

    Args:
        model: network whose simple heads are used.
        encoder_out: (N, T, D).
        decoder_out: (N, U + 1, D_dec), see :func:`decoder_output`.
        lengths: number of frames of each utterance, (N,).
        targets: (N, U) int64.
        target_lengths: number of symbols of each utterance, (N,), at most ``lengths``.
        prune_range, am_scale, lm_scale, backend: see :func:`pruned_range_loss`.

    Raises:
        ValueError: ``backend`` is unknown or ``prune_range`` is below 2.
    """
    simple_loss, _ = _implementation(backend, prune_range)
    with torch.no_grad():
        am, lm = model.simple_am(encoder_out).float(), model.simple_lm(decoder_out).float()
        with torch.autocast(encoder_out.device.type, enabled=False):
            return simple_loss(am, lm, _Bounds(targets, target_lengths, lengths), prune_range, am_scale, lm_scale)[1]


def _implementation(
    backend: str, prune_range: int
) -> tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., Tensor]]:
    """Return the functions that compute the simple and the pruned loss, after checking the arguments."""
    if backend not in BACKENDS or prune_range < 2:
        raise ValueError(f"backend {backend!r} must be one of {BACKENDS} and prune_range {prune_range} at least 2")
    if backend == "k2" or (backend == "auto" and k2_is_installed()):
        return _simple_k2, _pruned_k2
    return _simple_torch, _pruned_torch


class _Bounds(NamedTuple):
    """Targets and extent of each utterance's lattice."""

    targets: Tensor
    """(N, U)"""
    target_lengths: Tensor
    """(N,)"""
    lengths: Tensor
    """(N,): number of frames"""

    def for_k2(self) -> Tensor:
        """Return k2's boundary tensor: (N, 4), first symbol, first frame, number of symbols, number of frames."""
        zeros = torch.zeros_like(self.lengths)
        return torch.stack((zeros, zeros, self.target_lengths, self.lengths), dim=1)


def _simple_k2(
    am: Tensor, lm: Tensor, bounds: _Bounds, prune_range: int, am_scale: float, lm_scale: float
) -> tuple[Tensor, Tensor]:
    """Return the simple loss (N,) and the ranges (N, T, R)."""
    import k2

    loss, (emit_occupation, blank_occupation) = k2.rnnt_loss_smoothed(
        lm=lm,
        am=am,
        symbols=bounds.targets,
        termination_symbol=0,
        lm_only_scale=lm_scale,
        am_only_scale=am_scale,
        boundary=bounds.for_k2(),
        reduction="none",
        return_grad=True,
    )
    ranges = k2.get_rnnt_prune_ranges(
        px_grad=emit_occupation, py_grad=blank_occupation, boundary=bounds.for_k2(), s_range=prune_range
    )
    return loss, ranges


def _pruned_k2(logits: Tensor, ranges: Tensor, bounds: _Bounds) -> Tensor:
    """Return the loss (N,) over the nodes in ``ranges``."""
    import k2

    return k2.rnnt_loss_pruned(
        logits=logits,
        symbols=bounds.targets,
        ranges=ranges,
        termination_symbol=0,
        boundary=bounds.for_k2(),
        reduction="none",
    )


def _simple_torch(
    am: Tensor, lm: Tensor, bounds: _Bounds, prune_range: int, am_scale: float, lm_scale: float
) -> tuple[Tensor, Tensor]:
    """As :func:`_simple_k2`; normalisers come from one matrix product, without a tensor (N, T, U + 1, V)."""
    tiny = torch.finfo(am.dtype).tiny
    am_max, lm_max = am.amax(dim=2, keepdim=True), lm.amax(dim=2, keepdim=True)
    norm = ((am - am_max).exp() @ (lm - lm_max).exp().transpose(1, 2) + tiny).log() + am_max + lm_max.transpose(1, 2)
    symbol_am = am.gather(2, bounds.targets.unsqueeze(1).expand(-1, am.size(1), -1))  # (N, T, U)
    symbol_lm = lm[:, :-1].gather(2, bounds.targets.unsqueeze(2)).transpose(1, 2)  # (N, 1, U)
    blank_am, blank_lm = am[:, :, :1], lm[:, :, :1].transpose(1, 2)  # (N, T, 1), (N, 1, U + 1)
    both_scale = 1.0 - am_scale - lm_scale
    emit = both_scale * (symbol_am + symbol_lm - norm[:, :, :-1])
    blank = both_scale * (blank_am + blank_lm - norm)
    if lm_scale:
        lm_norm = lm.logsumexp(dim=2).unsqueeze(1)  # (N, 1, U + 1)
        emit = emit + lm_scale * (symbol_lm - lm_norm[:, :, :-1])
        blank = blank + lm_scale * (blank_lm - lm_norm)
    if am_scale:
        # The decoder's part is replaced by its mean over all histories of the batch, padding included, as k2 does.
        unigram = (lm.softmax(dim=2).mean(dim=(0, 1)) + tiny).log()  # (V,)
        am_norm = (am + unigram).logsumexp(dim=2, keepdim=True)
        emit = emit + am_scale * (symbol_am + unigram[bounds.targets].unsqueeze(1) - am_norm)
        blank = blank + am_scale * (blank_am + unigram[0] - am_norm)
    score, emitted, blanked = lattice_score(emit, blank, bounds.lengths, bounds.target_lengths)
    return -score, symbol_windows(emitted, blanked, bounds.lengths, bounds.target_lengths, prune_range)


def _pruned_torch(logits: Tensor, ranges: Tensor, bounds: _Bounds) -> Tensor:
    """As :func:`_pruned_k2`; every node outside ``ranges`` is closed."""
    norm = logits.logsumexp(dim=3)
    following = torch.nn.functional.pad(bounds.targets, (0, 1)).unsqueeze(1).expand(-1, logits.size(1), -1)
    symbols = following.gather(2, ranges).unsqueeze(3)  # (N, T, R, 1): the symbol that leaves each kept node
    closed = logits.new_full(following.shape, float("-inf"))  # (N, T, U + 1)
    emit = closed.scatter(2, ranges, logits.gather(3, symbols).squeeze(3) - norm)
    blank = closed.scatter(2, ranges, logits[:, :, :, 0] - norm)
    return -lattice_score(emit[:, :, :-1], blank, bounds.lengths, bounds.target_lengths)[0]
