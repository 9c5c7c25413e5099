"""Search with a decoder that writes text, against independent searches on a toy decoder and in real networks."""

from __future__ import annotations

import itertools
import math
import zlib
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pruning.speech.decoding.beam import Hypothesis
from pruning.speech.decoding.config import DecodingConfig
from pruning.speech.decoding.own_decoder import Bounds, beam_n_best, greedy_tokens, transcribe
from pruning.speech.text.transcript_form import TranscriptForm
from tests.models.encoder_decoders import BOTH, network, shape_name, utterances

END, SIZE = 1, 5
FORM = TranscriptForm(SIZE, (0, 3), END)


def log_probs(utterance: int, history: tuple[int, ...]) -> list[float]:
    """Log-probabilities of the next token after a history, made of a hash of both."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((utterance, history)).encode()))
    return (1.5 * torch.randn(SIZE, generator=generator, dtype=torch.float64)).log_softmax(dim=0).tolist()


class State(NamedTuple):
    utterances: Tensor
    histories: list[tuple[int, ...]]

    def select(self, index: Tensor) -> State:
        return State(self.utterances[index], [self.histories[place] for place in index.tolist()])

    def reordered(self, index: Tensor) -> State:
        assert torch.equal(self.utterances[index], self.utterances), "of the same utterance"
        return self.select(index)


class ToyDecoder:
    """A decoder whose scores depend on the whole history and on the utterance, the first output of its encoder."""

    room = 0

    def memory(self, encoded: object) -> Tensor:
        return encoded.output[:, 0, 0].long()  # type: ignore[attr-defined]

    def start(self, memory: Tensor) -> State:
        return State(memory, [()] * len(memory))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        histories = [(*history, token) for history, token in zip(state.histories, tokens.tolist())]
        scores = [log_probs(one, history) for one, history in zip(state.utterances.tolist(), histories)]
        return torch.tensor(scores, dtype=torch.float64), State(state.utterances, histories)


class Toy:
    decoder = ToyDecoder()


def encoded(count: int) -> tuple[Tensor, Tensor]:
    return torch.arange(count).view(count, 1, 1).float(), torch.ones(count, dtype=torch.long)


def probability(utterance: int, tokens: tuple[int, ...]) -> float:
    """Log-probability of the text and, if given, the end."""
    whole = (*FORM.start, *tokens)
    return sum(log_probs(utterance, whole[:place])[whole[place]] for place in range(len(FORM.start), len(whole)))


def exhaustive(utterance: int, most: int, length_norm: bool) -> list[Hypothesis]:
    """All texts of at most ``most`` tokens, best first; those of most tokens end without the end."""
    found = []
    for length in range(most + 1):
        for text in itertools.product([token for token in range(SIZE) if token != END], repeat=length):
            said = text if length == most else (*text, END)
            score = probability(utterance, said)
            found.append((score / max(len(said), 1) if length_norm else score, Hypothesis(list(text), score)))
    return [one for _, one in sorted(found, key=lambda pair: -pair[0])]


def one_by_one(utterance: int, most: int, size: int, length_norm: bool) -> list[Hypothesis]:
    """The documented search, one utterance with lists."""

    def key(score: float, length: int) -> float:
        return score / max(length, 1) if length_norm else score

    opened, ended = [((), 0.0)], list[tuple[float, Hypothesis]]()
    for length in range(most + 1):
        ended = sorted(ended, key=lambda one: -one[0])[:size]
        if length == most:
            ended += [(key(score, length), Hypothesis(list(text), score)) for text, score in opened]
            break
        if len(ended) == size and ended[-1][0] >= key(opened[0][1], length):
            break
        every = [((*text, token), score + value) for text, score in opened
                 for token, value in enumerate(log_probs(utterance, (*FORM.start, *text)))]  # fmt: skip
        every.sort(key=lambda one: -one[1])
        for text, score in every[:size]:
            if text[-1] == END:
                ended.append((key(score, length + 1), Hypothesis(list(text[:-1]), score)))
        opened = [one for one in every if one[0][-1] != END][:size]
    return [one for _, one in sorted(ended, key=lambda one: -one[0])[:size]]


def same(found: list[Hypothesis], expected: list[Hypothesis]) -> bool:
    return [one.tokens for one in found] == [one.tokens for one in expected] and all(
        math.isclose(a.score, b.score, rel_tol=1e-9) for a, b in zip(found, expected)
    )


@pytest.mark.parametrize("length_norm", [True, False])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_beams_are_those_of_a_search_by_lists(size: int, length_norm: bool) -> None:
    most = [7, 3, 9, 1, 6, 8, 5, 7]
    found = beam_n_best(Toy(), *encoded(8), Bounds(FORM, most), size, length_norm)
    for utterance, hypotheses in enumerate(found):
        assert same(hypotheses, one_by_one(utterance, most[utterance], size, length_norm)), utterance
    assert len({len(one[0].tokens) for one in found}) > 1, "texts of several lengths"


@pytest.mark.parametrize("length_norm", [True, False])
def test_a_wide_beam_finds_the_best_of_all(length_norm: bool) -> None:
    found = beam_n_best(Toy(), *encoded(4), Bounds(FORM, [3] * 4), 128, length_norm)
    for utterance, hypotheses in enumerate(found):
        assert same(hypotheses, exhaustive(utterance, 3, length_norm)[:128])


def test_greedy_takes_the_best_token() -> None:
    most = [7, 3, 9, 1, 6, 8, 5, 7]
    found = greedy_tokens(Toy(), *encoded(8), Bounds(FORM, most))
    for utterance, tokens in enumerate(found):
        text: list[int] = []
        while len(text) < most[utterance]:
            scores = log_probs(utterance, (*FORM.start, *text))
            if scores.index(max(scores)) == END:
                break
            text.append(scores.index(max(scores)))
        assert tokens == text
    assert any(len(tokens) < limit for tokens, limit in zip(found, most)), "some end"
    assert any(len(tokens) == limit for tokens, limit in zip(found, most)), "some are cut"


@pytest.mark.parametrize("method", ["decoder_greedy_search", "decoder_beam_search"])
def test_suppressed_tokens_are_not_chosen(method: str) -> None:
    form = TranscriptForm(SIZE, (0, 3), END, (2,), (END, 4))
    found = transcribe(Toy(), *encoded(8), DecodingConfig(method), Bounds(form, [6] * 8)).tokens
    plain = transcribe(Toy(), *encoded(8), DecodingConfig(method), Bounds(FORM, [6] * 8)).tokens
    assert all(tokens and tokens[0] != 4 and 2 not in tokens for tokens in found)
    assert any(2 in tokens or not tokens or tokens[0] == 4 for tokens in plain)


def test_silence_has_no_tokens() -> None:
    output, lengths = encoded(3)
    lengths[1] = 0
    for method in ("decoder_greedy_search", "decoder_beam_search"):
        config, bounds = DecodingConfig(method, beam_size=2), Bounds(FORM, [4, 5, 6])
        found = transcribe(Toy(), output, lengths, config, bounds)
        alone = transcribe(Toy(), output[2:], lengths[2:], config, bounds.select([2]))
        assert found.tokens[1] == [] and found.tokens[2] == alone.tokens[0]
        assert transcribe(Toy(), output[1:2], lengths[1:2], config, bounds.select([1])).tokens == [[]]


def test_bounds_grow_with_the_audio() -> None:
    assert Bounds.of(FORM, [0.1, 2.05, 3.0], 10).most == [10, 21, 30]


@pytest.mark.parametrize("shape", BOTH, ids=shape_name)
@pytest.mark.parametrize("method", ["decoder_greedy_search", "decoder_beam_search"])
@torch.no_grad()
def test_batched_equals_single(shape: dict[str, object], method: str) -> None:
    model = network(shape)
    decoder = model.config.decoder
    form = TranscriptForm(decoder.vocab_size, (decoder.start,), decoder.end)
    inputs, lengths = utterances(model)
    output = model.encoder(inputs, lengths)
    bounds, config = Bounds(form, [8, 30, 5]), DecodingConfig(method, beam_size=3)
    found = transcribe(model, output.output, output.lengths, config, bounds)
    assert len(set(map(tuple, found.tokens))) > 1
    for place, length in enumerate(lengths.tolist()):
        own = model.encoder(inputs[place : place + 1, :length], lengths[place : place + 1])
        alone = transcribe(model, own.output, own.lengths, config, bounds.select([place]))
        assert alone.tokens[0] == found.tokens[place]
        if found.ranked:
            assert [one.tokens for one in alone.ranked[0]] == [one.tokens for one in found.ranked[place]]
            for ours, theirs in zip(alone.ranked[0], found.ranked[place]):
                assert ours.score == pytest.approx(theirs.score, rel=1e-4)
    room = model.decoder.room
    assert not room or max(map(len, found.tokens)) <= room - 1, "as many as there are positions"
