"""Search with the decoder of an encoder-decoder: greedy and by beams, for batches, with cached keys and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pruning.speech.decoding.beam import Hypothesis
from pruning.speech.decoding.config import N_BEST, DecodingConfig
from pruning.speech.interfaces import DecoderNetwork
from pruning.speech.text.transcript_form import TranscriptForm

LEAST_TOKENS = 10
"""Number of tokens that are allowed for the shortest audio."""


class Bounds(NamedTuple):
    """Where transcripts begin and end.

    Attributes:
        form: tokens around the text.
        most: largest number of tokens of the text of each utterance.
    """

    form: TranscriptForm
    most: Sequence[int]

    @classmethod
    def of(cls, form: TranscriptForm, seconds: Sequence[float], tokens_per_second: float, room: int = 0) -> Bounds:
        """Return the bounds of utterances of these durations for a decoder of ``room`` positions; 0: of any number."""
        most = [max(LEAST_TOKENS, math.ceil(tokens_per_second * one)) for one in seconds]
        return cls(form, [min(one, room - len(form.start)) for one in most] if room else most)

    def reached(self, texts: Sequence[Sequence[int]]) -> int:
        """Return the number of texts, lists of tokens, that were cut because they have as many as allowed."""
        return sum(len(text) >= most for text, most in zip(texts, self.most))

    def select(self, index: Sequence[int]) -> Bounds:
        """Return the bounds of the utterances ``index``, in that order."""
        return Bounds(self.form, [self.most[place] for place in index])


class Transcribed(NamedTuple):
    """Tokens of the text of each utterance; with a method that ranks hypotheses, also these, best first."""

    tokens: list[list[int]]
    ranked: list[list[Hypothesis]]


def transcribe(
    model: DecoderNetwork, encoder_out: Tensor, lengths: Tensor, config: DecodingConfig, bounds: Bounds
) -> Transcribed:
    """Decode a batch with one of the methods in `pruning.speech.decoding.config.OWN_DECODER`.

    Args:
        model, encoder_out, lengths, bounds: see `greedy_tokens`; an utterance without frames has no tokens.
        config: method and settings.
    """
    heard = lengths > 0
    places = heard.nonzero()[:, 0].tolist()
    tokens: list[list[int]] = [[] for _ in bounds.most]
    ranked: list[list[Hypothesis]] = [[] for _ in bounds.most] if config.method in N_BEST else []
    if not places:
        return Transcribed(tokens, ranked)
    some = encoder_out[heard], lengths[heard], bounds.select(places)
    if config.method in N_BEST:
        for place, found in zip(places, beam_n_best(model, *some, config.beam_size, config.length_norm)):
            ranked[place], tokens[place] = found, found[0].tokens
    else:
        for place, text in zip(places, greedy_tokens(model, *some)):
            tokens[place] = text
    return Transcribed(tokens, ranked)


class _Encoded(NamedTuple):
    """Output of the encoder, see `pruning.speech.interfaces.OwnDecoder.memory`."""

    output: Tensor
    lengths: Tensor


class _Start(NamedTuple):
    """The decoder behind the start of N transcripts."""

    scores: Tensor
    """Log-probabilities of the first token of the text, (N, V)."""
    state: Any
    most: Tensor
    """Largest number of tokens, (N,)."""
    first: Tensor
    """What is added to scores for the first token, (V,): minus infinity at suppressed tokens."""
    later: Tensor
    """The same for all other tokens."""


def _started(model: DecoderNetwork, encoder_out: Tensor, lengths: Tensor, bounds: Bounds) -> _Start:
    decoder, form = model.decoder, bounds.form
    state = decoder.start(decoder.memory(_Encoded(encoder_out, lengths)))
    for token in form.start:
        scores, state = decoder.step(torch.full_like(lengths, token), state)
    room = decoder.room - len(form.start) if decoder.room else max(bounds.most)
    most = torch.tensor([min(one, room) for one in bounds.most], device=lengths.device)
    later = scores.new_zeros(scores.shape[1])
    later[list(form.suppressed)] = -math.inf
    first = later.clone()
    first[list(form.suppressed_first)] = -math.inf
    return _Start(scores, state, most, first, later)


@torch.no_grad()
def greedy_tokens(model: DecoderNetwork, encoder_out: Tensor, lengths: Tensor, bounds: Bounds) -> list[list[int]]:
    """Take the most probable token until the transcript ends.

    Args:
        model: network with its decoder.
        encoder_out: ``(N, T, D)``.
        lengths: number of frames of each utterance, ``(N,)``.
        bounds: of the N transcripts. A transcript that reaches its largest number of tokens is cut there.

    Returns:
        Tokens of the text of each utterance.
    """
    scores, state, most, first, later = _started(model, encoder_out, lengths, bounds)
    going, found = torch.arange(len(lengths), device=lengths.device), [list[int]() for _ in bounds.most]
    for length in range(int(most.max()) + 1):
        chosen = (scores + (later if length else first)).argmax(dim=1)
        kept = ((chosen != bounds.form.end) & (most[going] > length)).nonzero()[:, 0]
        if len(kept) < len(going):
            going, chosen, state = going[kept], chosen[kept], state.select(kept)
        for place, token in zip(going.tolist(), chosen.tolist()):
            found[place].append(token)
        if not len(going):
            break
        scores, state = model.decoder.step(chosen, state)
    return found


class _Beam(NamedTuple):
    """K hypotheses of each of N utterances that have not ended; a score of -inf marks an empty place."""

    scores: Tensor
    """Log-probabilities, best first, (N, K)."""
    tokens: Tensor
    """Tokens of the texts, (N, K, U)."""

    def select(self, index: Tensor) -> _Beam:
        """Return the hypotheses of the utterances ``index``."""
        return _Beam(self.scores[index], self.tokens[index])


class _Ended:
    """The best hypotheses of an utterance that have ended."""

    def __init__(self, size: int, length_norm: bool) -> None:
        self._size, self._length_norm = size, length_norm
        self._found: list[tuple[float, Hypothesis]] = []

    def key(self, score: float, length: int) -> float:
        """Return what hypotheses are compared by."""
        return score / max(length, 1) if self._length_norm else score

    def add(self, tokens: list[int], score: float, length: int) -> None:
        """Add a hypothesis with ``length`` tokens, the end included, if it is among the best."""
        self._found.append((self.key(score, length), Hypothesis(tokens, score)))
        self._found.sort(key=lambda one: -one[0])
        del self._found[self._size :]

    def closed(self, score: float, length: int) -> bool:
        """Return whether as many as wanted have ended, none of them worse than the best open one."""
        return len(self._found) == self._size and self._found[-1][0] >= self.key(score, length)

    def best(self) -> list[Hypothesis]:
        """Return the hypotheses, best first."""
        return [hypothesis for _, hypothesis in self._found]


@torch.no_grad()
def beam_n_best(
    model: DecoderNetwork,
    encoder_out: Tensor,
    lengths: Tensor,
    bounds: Bounds,
    beam_size: int,
    length_norm: bool = True,
) -> list[list[Hypothesis]]:
    """Run a beam search.

    Of all continuations of the open hypotheses of an utterance by one token, those with the end among the best
    ``beam_size`` end, and the best ``beam_size`` others stay open. An utterance is done when ``beam_size`` hypotheses
    have ended of which none is worse than the best open one. Open hypotheses end at the largest number of tokens.

    Args:
        model, encoder_out, lengths, bounds: see `greedy_tokens`.
        beam_size: number of open hypotheses of each utterance.
        length_norm: compare hypotheses by log-probability per token, the end included.

    Returns:
        The hypotheses of each utterance, best first, at most ``beam_size``; their scores are log-probabilities.
    """
    scores, state, most, first, later = _started(model, encoder_out, lengths, bounds)
    size, device = beam_size, lengths.device
    ended = [_Ended(size, length_norm) for _ in bounds.most]
    going = torch.arange(len(lengths), device=device)
    state, scores = state.select(going.repeat_interleave(size)), scores.repeat_interleave(size, dim=0)
    beam = _Beam(scores.new_full((len(going), size), -math.inf), going.new_empty(len(going), size, 0))
    beam.scores[:, 0] = 0.0
    for length in range(int(most.max()) + 1):
        kept = torch.tensor(_unfinished(ended, going, most, beam, length), dtype=torch.long, device=device)
        if not len(kept):
            break
        if len(kept) < len(going):
            state = state.select((kept[:, None] * size + torch.arange(size, device=device)).flatten())
            going, beam = going[kept], beam.select(kept)
        if length:
            scores, state = model.decoder.step(beam.tokens[:, :, -1].flatten(), state)
        beam, parent = _extended(ended, going, beam, scores + (later if length else first), bounds.form.end)
        own = torch.arange(len(going), device=device)[:, None] * size
        state = state.reordered((own + parent).flatten())
    return [one.best() for one in ended]


def _unfinished(ended: Sequence[_Ended], going: Tensor, most: Tensor, beam: _Beam, length: int) -> list[int]:
    """Return the rows of utterances that are not done; end the open hypotheses of those at their largest length."""
    kept = []
    for row, (place, limit, score) in enumerate(zip(going.tolist(), most[going].tolist(), beam.scores[:, 0].tolist())):
        if limit <= length:
            for tokens, final in zip(beam.tokens[row].tolist(), beam.scores[row].tolist()):
                if final > -math.inf:
                    ended[place].add(tokens, final, length)
        elif score > -math.inf and not ended[place].closed(score, length):
            kept.append(row)
    return kept


def _extended(ended: Sequence[_Ended], going: Tensor, beam: _Beam, log_probs: Tensor, end: int) -> tuple[_Beam, Tensor]:
    """Continue all hypotheses by one token, with log-probabilities ``(N K, V)``; add those that end to ``ended``.

    Returns:
        The best open hypotheses, and the number of the hypothesis that each continues, ``(N, K)``.
    """
    rows, size = beam.scores.shape
    sums = (beam.scores[:, :, None] + log_probs.view(rows, size, -1)).flatten(1)  # (N, K V)
    scores, index = sums.topk(min(2 * size, sums.shape[1]), dim=1)
    parent, token = torch.div(index, log_probs.shape[1], rounding_mode="floor"), index % log_probs.shape[1]
    length = beam.tokens.shape[2] + 1
    ending = token == end
    for row, rank in (ending[:, :size] & scores[:, :size].isfinite()).nonzero().tolist():
        tokens = beam.tokens[row, parent[row, rank]].tolist()
        ended[int(going[row])].add(tokens, float(scores[row, rank]), length)
    order = ending.int().sort(dim=1, stable=True).indices[:, :size]  # those that go on come first
    scores, parent, token = (x.gather(1, order) for x in (scores.masked_fill(ending, -math.inf), parent, token))
    before = beam.tokens.gather(1, parent[:, :, None].expand(-1, -1, length - 1))
    return _Beam(scores, torch.cat([before, token[:, :, None]], dim=2)), parent
