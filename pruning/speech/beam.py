"""Modified beam search for transducers: at most one symbol a frame, equal hypotheses merged, in batches of tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pruning.speech.network import TransducerNetwork


class _Beam(NamedTuple):
    """K hypotheses for each utterance; a score of -inf means that the place is empty."""

    scores: Tensor
    """(N, K): log-probability."""
    tokens: Tensor
    """(N, K, U): what was emitted, padded with -1."""
    counts: Tensor
    """(N, K): how many tokens were emitted."""
    contexts: Tensor
    """(N, K, C): the last tokens, the decoder's input."""


def _empty_hypotheses(model: TransducerNetwork, utterances: int, beam_size: int, device: torch.device) -> _Beam:
    decoder = model.decoder
    scores = torch.full((utterances, beam_size), float("-inf"), device=device)
    scores[:, 0] = 0.0
    return _Beam(
        scores,
        torch.empty((utterances, beam_size, 0), dtype=torch.int64, device=device),
        torch.zeros((utterances, beam_size), dtype=torch.int64, device=device),
        torch.full((utterances, beam_size, decoder.context_size), decoder.blank_id, dtype=torch.int64, device=device),
    )


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (N, K) of ``values`` (N, K, W)."""
    return values.gather(1, index.unsqueeze(2).expand(-1, -1, values.size(2)))


def _extend(beam: _Beam, log_probs: Tensor, blank: int) -> _Beam:
    """The K best continuations of each utterance's hypotheses by one frame, from log-probabilities (N, K, V)."""
    vocab_size, size = log_probs.size(2), beam.scores.size(1)
    scores, index = (beam.scores.unsqueeze(2) + log_probs).flatten(1).topk(size, dim=1)
    parent, symbol = torch.div(index, vocab_size, rounding_mode="floor"), index % vocab_size
    emits = symbol != blank
    tokens, counts, contexts = _take(beam.tokens, parent), beam.counts.gather(1, parent), _take(beam.contexts, parent)
    if bool((emits & (counts == tokens.size(2))).any()):
        tokens = torch.nn.functional.pad(tokens, (0, 1), value=-1)
    if tokens.size(2) > 0:
        place = counts.clamp(max=tokens.size(2) - 1).unsqueeze(2)
        written = torch.where(emits.unsqueeze(2), symbol.unsqueeze(2), tokens.gather(2, place))
        tokens = tokens.scatter(2, place, written)
    moved = torch.cat((contexts[:, :, 1:], symbol.unsqueeze(2)), dim=2)
    return _Beam(scores, tokens, counts + emits, torch.where(emits.unsqueeze(2), moved, contexts))


def _merge(beam: _Beam) -> _Beam:
    """Put the summed probability of equal hypotheses in the place of the first and empty the others."""
    equal = (beam.tokens.unsqueeze(1) == beam.tokens.unsqueeze(2)).all(dim=3)  # (N, K, K)
    equal &= beam.counts.unsqueeze(1) == beam.counts.unsqueeze(2)
    closed = torch.full_like(beam.scores, float("-inf"))
    together = torch.where(equal, beam.scores.unsqueeze(1), closed.unsqueeze(1)).logsumexp(dim=2)
    first = equal.int().argmax(dim=2) == torch.arange(equal.size(1), device=equal.device)
    return beam._replace(scores=torch.where(first, together, closed))


def _keep_finished(going: Tensor, new: _Beam, old: _Beam) -> _Beam:
    """``new`` for utterances that still had a frame to read (N,), ``old`` for the others."""
    grown = new.tokens.size(2) - old.tokens.size(2)
    old = old._replace(tokens=torch.nn.functional.pad(old.tokens, (0, grown), value=-1))
    return _Beam(*(torch.where(going.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(new, old)))


@torch.no_grad()
def modified_beam_search(
    model: TransducerNetwork,
    encoder_out: Tensor,
    lengths: Tensor,
    beam_size: int = 4,
    length_norm: bool = True,
) -> list[list[int]]:
    """Beam search in which every frame emits blank or one symbol.

    In each frame the joiner is called once for all hypotheses of all utterances; the best ``beam_size`` continuations
    of an utterance are kept, and then those with equal tokens become one, their probabilities added.

    Args:
        model: decoder and joiner.
        encoder_out: (N, T, D).
        lengths: frames of each utterance, (N,).
        beam_size: hypotheses kept for each utterance.
        length_norm: choose in the end by log-probability divided by the number of tokens, the initial context
            included, which favours longer hypotheses.

    Returns:
        Token ids of each utterance, without blank.
    """
    decoder, joiner = model.decoder, model.joiner
    am = joiner.encoder_proj(encoder_out)
    utterances, frames, _ = am.shape
    beam = _empty_hypotheses(model, utterances, beam_size, am.device)
    for t in range(frames):
        lm = joiner.decoder_proj(decoder(beam.contexts.flatten(0, 1), pad=False)).view(utterances, beam_size, -1)
        log_probs = joiner(am[:, t : t + 1], lm, project=False).float().log_softmax(dim=2)
        extended = _merge(_extend(beam, log_probs, decoder.blank_id))
        beam = _keep_finished(t < lengths, extended, beam)
    scores = beam.scores / (beam.counts + decoder.context_size) if length_norm else beam.scores
    best = scores.argmax(dim=1, keepdim=True)
    tokens, counts = _take(beam.tokens, best).squeeze(1), beam.counts.gather(1, best).squeeze(1)
    return [row[:count].tolist() for row, count in zip(tokens.cpu(), counts.tolist())]
