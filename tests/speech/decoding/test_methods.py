"""Searches compared with greedy search, plain references, and enumeration of every hypothesis."""

from __future__ import annotations

import itertools
import math
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruning.errors import UserError
from pruning.models.conformer import ConformerConfig
from pruning.models.transducer import Joiner, StatelessDecoder, Transducer, TransducerConfig
from pruning.optional import k2_is_installed
from pruning.speech.decoding import ctc
from pruning.speech.decoding.beam import modified_beam_search
from pruning.speech.decoding.config import GRAPHS, OWN_DECODER, SETTINGS, WITH_LM, DecodingConfig
from pruning.speech.decoding.fast_beam import fast_beam_search
from pruning.speech.decoding.greedy import greedy_search
from pruning.speech.decoding.methods import decode

WITH_K2 = ("fast_beam_search", "ctc_decoding", *GRAPHS)
ALL_METHODS = [pytest.param(name, marks=pytest.mark.k2 if name in WITH_K2 else ()) for name in SETTINGS
               if name not in (*WITH_LM, *OWN_DECODER)]  # fmt: skip
METHODS = [method for method in ALL_METHODS if method.values[0] not in GRAPHS]  # those are tested in test_graphs.py


class Network(torch.nn.Module):
    """A transducer without its encoder, whose posteriors differ enough to rank hypotheses."""

    def __init__(self, vocab_size: int, seed: int, dim: int = 6) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.decoder = StatelessDecoder(vocab_size, dim, context_size=2)
        self.joiner = Joiner(dim, dim, dim, vocab_size)
        self.ctc_head = torch.nn.Linear(dim, vocab_size)
        with torch.no_grad():
            self.joiner.output.weight *= 4
            self.joiner.output.bias[0] += 1.0
            self.ctc_head.weight *= 4

    def ctc(self, encoder_out: Tensor) -> Tensor:
        return self.ctc_head(encoder_out).log_softmax(dim=-1)

    @torch.no_grad()
    def frame_log_probs(self, frame: Tensor, tokens: tuple[int, ...]) -> list[float]:
        """Return log-probabilities of every token at an encoder frame (D,) after ``tokens``."""
        context = torch.tensor([(0, 0, *tokens)[-2:]])
        decoder_out = self.decoder(context, pad=False)[0, 0]
        return self.joiner(frame, decoder_out).double().log_softmax(dim=0).tolist()


def reference_beam_search(network: Network, frames: Tensor, beam_size: int) -> list[int]:
    """Run modified beam search on one utterance (T, D), hypothesis by hypothesis."""
    beam: dict[tuple[int, ...], float] = {(): 0.0}
    for frame in frames:
        candidates = [
            (score + log_prob, tokens if symbol == 0 else (*tokens, symbol))
            for tokens, score in beam.items()
            for symbol, log_prob in enumerate(network.frame_log_probs(frame, tokens))
        ]
        merged: dict[tuple[int, ...], list[float]] = defaultdict(list)
        for score, tokens in sorted(candidates, reverse=True)[:beam_size]:
            merged[tokens].append(score)
        beam = {tokens: math.log(sum(map(math.exp, scores))) for tokens, scores in merged.items()}
    return list(max(beam, key=lambda tokens: beam[tokens] / (len(tokens) + 2)))


def enumerated_scores(network: Network, frames: Tensor) -> dict[tuple[int, ...], list[float]]:
    """Map each token sequence to log-probabilities of all its alignments with at most one token per frame."""
    vocab_size, scores = network.decoder.vocab_size, defaultdict(list)
    for path in itertools.product(range(vocab_size), repeat=len(frames)):
        tokens: tuple[int, ...] = ()
        score = 0.0
        for frame, symbol in zip(frames, path):
            score += network.frame_log_probs(frame, tokens)[symbol]
            tokens = tokens if symbol == 0 else (*tokens, symbol)
        scores[tokens].append(score)
    return scores


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_a_beam_of_one_is_greedy(seed: int, lengths: list[int]) -> None:
    network = Network(vocab_size=6, seed=seed)
    encoder_out = torch.randn(len(lengths), max(lengths), 6)
    greedy = greedy_search(network, encoder_out, torch.tensor(lengths))
    assert greedy == modified_beam_search(network, encoder_out, torch.tensor(lengths), beam_size=1)
    assert all(len(tokens) <= length for tokens, length in zip(greedy, lengths))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_beam_search_equals_its_reference(seed: int, beam_size: int) -> None:
    network, lengths = Network(vocab_size=5, seed=seed), [9, 4, 7]
    encoder_out = torch.randn(3, 9, 6)
    found = modified_beam_search(network, encoder_out, torch.tensor(lengths), beam_size)
    expected = [reference_beam_search(network, encoder_out[n, :length], beam_size) for n, length in enumerate(lengths)]
    assert found == expected


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_most_probable_tokens(seed: int) -> None:
    network = Network(vocab_size=3, seed=seed)
    encoder_out = torch.randn(1, 5, 6)
    scores = enumerated_scores(network, encoder_out[0])
    total = {tokens: math.log(sum(map(math.exp, values))) for tokens, values in scores.items()}
    assert sum(map(math.exp, total.values())) == pytest.approx(1.0)
    found = modified_beam_search(network, encoder_out, torch.tensor([5]), beam_size=3**5, length_norm=False)
    assert tuple(found[0]) == max(total, key=lambda tokens: total[tokens])
    normalised = modified_beam_search(network, encoder_out, torch.tensor([5]), beam_size=3**5)
    assert tuple(normalised[0]) == max(total, key=lambda tokens: total[tokens] / (len(tokens) + 2))


@pytest.mark.k2
@pytest.mark.parametrize("seed", range(5))
def test_fast_beam_search_finds_the_best_alignment(seed: int) -> None:
    network = Network(vocab_size=3, seed=seed)
    encoder_out = torch.randn(2, 5, 6)
    found = fast_beam_search(network, encoder_out, torch.tensor([5, 4]), beam=100.0, max_contexts=64, max_states=64)
    for n, length in enumerate((5, 4)):
        scores = enumerated_scores(network, encoder_out[n, :length])
        assert tuple(found[n]) == max(scores, key=lambda tokens: max(scores[tokens]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 15))
def test_ctc_greedy_search_merges_and_drops(seed: int, length: int) -> None:
    torch.manual_seed(seed)
    log_probs = torch.randn(1, 15, 4).log_softmax(dim=-1)
    best = log_probs[0, :length].argmax(dim=1).tolist()
    expected = [symbol for symbol, _ in itertools.groupby(best) if symbol != 0]
    assert ctc.ctc_greedy_search(log_probs, torch.tensor([length])) == [expected]


@pytest.mark.k2
@pytest.mark.parametrize("seed", range(5))
def test_the_best_path_of_the_ctc_lattice_is_greedy(seed: int) -> None:
    torch.manual_seed(seed)
    log_probs, lengths = (3 * torch.randn(4, 30, 12)).log_softmax(dim=-1), torch.tensor([11, 30, 1, 25])
    assert ctc.ctc_decoding(log_probs, lengths) == ctc.ctc_greedy_search(log_probs, lengths)


@pytest.mark.k2
def test_a_ctc_lattice_of_a_large_vocabulary_is_refused() -> None:
    log_probs = torch.zeros(1, 2, ctc.MAX_VOCAB_SIZE + 1)
    with pytest.raises(UserError, match="ctc_greedy_search"):
        ctc.ctc_decoding(log_probs, torch.tensor([2]))


@pytest.mark.parametrize("method", METHODS)
def test_an_utterance_is_decoded_alike_alone_and_in_a_batch(method: str) -> None:
    network, config = Network(vocab_size=8, seed=3), DecodingConfig(method=method)
    encoder_out, lengths = torch.randn(4, 20, 6), torch.tensor([20, 3, 0, 11])
    together = decode(network, encoder_out, lengths, config)
    assert together[2] == [] and any(together)
    for n in (0, 1, 3):
        alone = decode(network, encoder_out[n : n + 1, : lengths[n]], lengths[n : n + 1], config)
        assert alone == together[n : n + 1]
    assert decode(network, encoder_out, torch.zeros(4, dtype=torch.int64), config) == [[]] * 4


@pytest.mark.parametrize("method", METHODS)
def test_cuts_too_short_for_the_encoder_have_no_words(method: str) -> None:
    encoder = ConformerConfig(8, 1, 4, (2,), (8,), (8,), (8,), 3, 80, (2, 2), (2, 2))
    model = Transducer(TransducerConfig(encoder, vocab_size=6, decoder_dim=8, joiner_dim=8)).eval()
    config, features = DecodingConfig(method=method), torch.randn(2, 60, 80)
    for frames in (1, 6):
        alone = model(features[:1, :frames], torch.tensor([frames]))
        assert decode(model, alone.output, alone.lengths, config) == [[]]
        together = model(features, torch.tensor([frames, 60]))
        assert decode(model, together.output, together.lengths, config)[0] == []


@pytest.mark.parametrize("method", ALL_METHODS)
def test_the_suffix_holds_what_changes_the_answer(method: str) -> None:
    plain = DecodingConfig(method=method)
    numbers = {name: value for name, value in vars(plain).items() if name not in ("method", "length_norm")}
    changed = {name: {name: value * 2} for name, value in numbers.items()} | {"length_norm": {"length_norm": False}}
    for name, change in changed.items():
        other = DecodingConfig(method=method, **change)
        assert (other.suffix() != plain.suffix()) == (name in SETTINGS[method])


def test_a_suffix_reads_as_icefalls_do() -> None:
    assert DecodingConfig().suffix() == "modified_beam_search-beam-size-4-length-norm"
    assert DecodingConfig(beam_size=8, length_norm=False).suffix() == "modified_beam_search-beam-size-8-no-length-norm"


@pytest.mark.parametrize("wrong", [{"method": "beam"}, {"beam_size": 0}, {"beam": -1.0}, {"hlg_scale": -1.0}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError):
        DecodingConfig(**wrong)


def test_a_k2_of_another_torch_counts_as_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "k2.py").write_text("raise ImportError('undefined symbol')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "k2", raising=False)
    k2_is_installed.cache_clear()
    try:
        assert not k2_is_installed()
    finally:
        k2_is_installed.cache_clear()
    assert "undefined symbol" in caplog.text


def test_a_missing_k2_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.speech.decoding.config.k2_is_installed", lambda: False)
    with pytest.raises(UserError, match="needs k2.*greedy_search"):
        DecodingConfig(method="fast_beam_search")
    assert DecodingConfig(method="greedy_search").settings() == {}
