"""Batched modified beam search for transducers: at most one symbol per frame, equal hypotheses merged."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from pruning.speech.decoding.fusion import Fusion
from pruning.speech.interfaces import SearchedNetwork, first_contexts


class _Beam(NamedTuple):
    """K hypotheses per utterance; a score of -inf marks an empty place."""

    scores: Tensor
    """(N, K): log-probability."""
    tokens: Tensor
    """(N, K, U): emitted tokens, padded with -1."""
    counts: Tensor
    """(N, K): number of emitted tokens."""
    contexts: Tensor
    """(N, K, C): last tokens, the decoder's input."""


def _empty_hypotheses(model: SearchedNetwork, utterances: int, beam_size: int, device: torch.device) -> _Beam:
    decoder = model.decoder
    scores = torch.full((utterances, beam_size), float("-inf"), device=device)
    scores[:, 0] = 0.0
    return _Beam(
        scores,
        torch.empty((utterances, beam_size, 0), dtype=torch.int64, device=device),
        torch.zeros((utterances, beam_size), dtype=torch.int64, device=device),
        first_contexts(decoder, utterances, beam_size, device=device),
    )


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Return rows ``index`` (N, K) of ``values`` (N, K, W)."""
    return values.gather(1, index.unsqueeze(2).expand(-1, -1, values.size(2)))


class _Moves(NamedTuple):
    """How hypotheses continue in a frame, (N, K) each."""

    parent: Tensor
    """Index of the previous hypothesis that is continued."""
    symbol: Tensor
    """Symbol chosen for the frame."""
    emits: Tensor
    """Whether the symbol is not blank."""


def _extend(beam: _Beam, log_probs: Tensor, blank: int) -> tuple[_Beam, _Moves]:
    """Extend each utterance's hypotheses by one frame, with log-probabilities (N, K, V), and keep the K best."""
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
    extended = _Beam(scores, tokens, counts + emits, torch.where(emits.unsqueeze(2), moved, contexts))
    return extended, _Moves(parent, symbol, emits)


def _merge(beam: _Beam) -> _Beam:
    """Give the first of equal hypotheses their summed probability and empty the others."""
    equal = (beam.tokens.unsqueeze(1) == beam.tokens.unsqueeze(2)).all(dim=3)  # (N, K, K)
    equal &= beam.counts.unsqueeze(1) == beam.counts.unsqueeze(2)
    closed = torch.full_like(beam.scores, float("-inf"))
    together = torch.where(equal, beam.scores.unsqueeze(1), closed.unsqueeze(1)).logsumexp(dim=2)
    first = equal.int().argmax(dim=2) == torch.arange(equal.size(1), device=equal.device)
    return beam._replace(scores=torch.where(first, together, closed))


def _keep_finished(going: Tensor, new: _Beam, old: _Beam) -> _Beam:
    """Return ``new`` for utterances that still had a frame to read (N,), ``old`` for the others."""
    grown = new.tokens.size(2) - old.tokens.size(2)
    old = old._replace(tokens=torch.nn.functional.pad(old.tokens, (0, grown), value=-1))
    return _Beam(*(torch.where(going.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(new, old)))


class Hypothesis(NamedTuple):
    """A hypothesis of one utterance.

    Attributes:
        tokens: token ids, without blank.
        score: log-probability, summed over the alignments that were kept, including the language model's part.
    """

    tokens: list[int]
    score: float


@torch.no_grad()
def n_best(
    model: SearchedNetwork,
    encoder_out: Tensor,
    lengths: Tensor,
    beam_size: int = 4,
    length_norm: bool = True,
    fusion: Optional[Fusion] = None,
) -> list[list[Hypothesis]]:
    """Run beam search in which every frame emits blank or one symbol.

    In each frame the joiner is called once for all hypotheses of all utterances. The best ``beam_size`` continuations
    of an utterance are kept; then those with equal tokens are merged and their probabilities added.

    Args:
        model: network with decoder and joiner.
        encoder_out: (N, T, D).
        lengths: number of frames of each utterance, (N,).
        beam_size: number of hypotheses kept per utterance.
        length_norm: rank the final hypotheses by log-probability divided by the number of tokens, initial context
            included, which favours longer hypotheses.
        fusion: language model whose scores are added to every symbol and to the end.

    Returns:
        The hypotheses of each utterance, best first, at most ``beam_size``.
    """
    decoder, joiner = model.decoder, model.joiner
    am = joiner.encoder_proj(encoder_out)
    utterances, frames, dim = encoder_out.shape
    silent = None if fusion is None or not fusion.ilm_scale else joiner.encoder_proj(encoder_out.new_zeros(1, 1, dim))
    beam = _empty_hypotheses(model, utterances, beam_size, am.device)
    memory = None if fusion is None else fusion.start(utterances * beam_size)
    for t in range(frames):
        going = t < lengths
        lm = joiner.decoder_proj(decoder(beam.contexts.flatten(0, 1), pad=False)).view(utterances, beam_size, -1)
        log_probs = joiner(am[:, t : t + 1], lm, project=False).float().log_softmax(dim=2)
        if fusion is not None and memory is not None:
            internal = None if silent is None else joiner(silent, lm, project=False).float()
            log_probs = log_probs + fusion.bonus(memory, internal, decoder.blank_id).view_as(log_probs)
        extended, moves = _extend(beam, log_probs, decoder.blank_id)
        beam = _keep_finished(going, _merge(extended), beam)
        if fusion is not None and memory is not None:
            memory = fusion.follow(memory, *_rows(moves, going, beam.scores))
    scores = beam.scores
    if fusion is not None and memory is not None:
        scores = scores + fusion.end(memory).view_as(scores)
    return _sorted(beam, scores, scores / (beam.counts + decoder.context_size) if length_norm else scores)


def _rows(moves: _Moves, going: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return parent row, symbol, and whether it is emitted, (N K,) each; ended utterances keep their rows."""
    utterances, size = moves.parent.shape
    own = torch.arange(utterances * size, device=scores.device).view(utterances, size)
    parent = torch.where(going.unsqueeze(1), own[:, :1] + moves.parent, own)
    emits = moves.emits & going.unsqueeze(1) & torch.isfinite(scores)
    return parent.flatten(), moves.symbol.flatten(), emits.flatten()


def _sorted(beam: _Beam, scores: Tensor, keys: Tensor) -> list[list[Hypothesis]]:
    """Return the hypotheses of each utterance in the order of ``keys`` (N, K), without empty places."""
    found, orders = [], keys.argsort(dim=1, descending=True).tolist()
    for tokens, counts, of_utterance, order in zip(beam.tokens.tolist(), beam.counts.tolist(), scores.tolist(), orders):
        kept = [index for index in order if of_utterance[index] > float("-inf")]
        found.append([Hypothesis(tokens[index][: counts[index]], of_utterance[index]) for index in kept])
    return found


def modified_beam_search(
    model: SearchedNetwork,
    encoder_out: Tensor,
    lengths: Tensor,
    beam_size: int = 4,
    length_norm: bool = True,
    fusion: Optional[Fusion] = None,
) -> list[list[int]]:
    """Return the best hypothesis of `n_best`.

    Returns:
        Token ids of each utterance, without blank.
    """
    found = n_best(model, encoder_out, lengths, beam_size, length_norm, fusion)
    return [hypotheses[0].tokens if hypotheses else [] for hypotheses in found]
