"""Language models in search, compared with a plain beam search with a dictionary, and in rescoring."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruning.errors import UserError
from pruning.models.transformer_lm import TransformerLM
from pruning.models.transformer_lm_config import LanguageModelConfig
from pruning.speech.decoding.beam import Hypothesis, modified_beam_search, n_best
from pruning.speech.decoding.config import WITH_LM, DecodingConfig
from pruning.speech.decoding.fusion import Fusion, internal_scores, lm_scores
from pruning.speech.decoding.methods import LanguageModel, decode
from pruning.speech.decoding.rescoring import Rescoring
from tests.speech.decoding.test_methods import Network

VOCABULARY, BOUNDARY = 5, 1
SILENCE = torch.zeros(1, 1, 6)


def language_model(seed: int = 0) -> TransformerLM:
    torch.manual_seed(seed)
    config = LanguageModelConfig(d_model=8, num_layers=2, head_dim=4, num_heads=(2,), ffn_dim=(8,),
                                 vocab_size=VOCABULARY)  # fmt: skip
    model = TransformerLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model


@torch.no_grad()
def lm_log_probs(lm: TransformerLM, tokens: tuple[int, ...]) -> list[float]:
    return lm(torch.tensor([[BOUNDARY, *tokens]]))[0, -1].double().log_softmax(dim=0).tolist()


@torch.no_grad()
def internal(network: Network, tokens: tuple[int, ...]) -> list[float]:
    context = torch.tensor([(0, 0, *tokens)[-2:]])
    logits = network.joiner(torch.zeros(6), network.decoder(context, pad=False)[0, 0]).double()
    logits[0] = -math.inf
    return logits.log_softmax(dim=0).tolist()


def reference(network: Network, lm: TransformerLM, frames: Tensor, size: int, fusion: Fusion) -> list[int]:
    """Search hypothesis by hypothesis, with the formula of `Fusion` written out."""
    beam: dict[tuple[int, ...], float] = {(): 0.0}
    for frame in frames:
        candidates = []
        for tokens, score in beam.items():
            bonus, own = lm_log_probs(lm, tokens), internal(network, tokens)
            for symbol, log_prob in enumerate(network.frame_log_probs(frame, tokens)):
                more = fusion.lm_scale * bonus[symbol] - (fusion.ilm_scale * own[symbol] if symbol else 0.0)
                kept = tokens if symbol == 0 else (*tokens, symbol)
                candidates.append((score + log_prob + (more if symbol else 0.0), kept))
        merged: dict[tuple[int, ...], list[float]] = defaultdict(list)
        for score, tokens in sorted(candidates, reverse=True)[:size]:
            merged[tokens].append(score)
        beam = {tokens: math.log(sum(map(math.exp, scores))) for tokens, scores in merged.items()}
    final = {tokens: score + fusion.lm_scale * lm_log_probs(lm, tokens)[BOUNDARY] for tokens, score in beam.items()}
    return list(max(final, key=lambda tokens: final[tokens] / (len(tokens) + 2)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from([(0.5, 0.0), (1.0, 0.4), (0.0, 0.3)]))
def test_fused_search_equals_its_reference(seed: int, size: int, scales: tuple[float, float]) -> None:
    """With utterances of different lengths, whose histories have different lengths in every frame."""
    network, lm, lengths = Network(VOCABULARY, seed), language_model(seed), [8, 3, 6]
    encoder_out = torch.randn(3, 8, 6)
    fusion = Fusion(lm, BOUNDARY, *scales)
    found = modified_beam_search(network, encoder_out, torch.tensor(lengths), size, fusion=fusion)
    assert found == [reference(network, lm, encoder_out[n, :t], size, fusion) for n, t in enumerate(lengths)]


def test_without_weight_nothing_changes() -> None:
    network, encoder_out, lengths = Network(VOCABULARY, 3), torch.randn(2, 9, 6), torch.tensor([9, 5])
    plain = n_best(network, encoder_out, lengths)
    fused = n_best(network, encoder_out, lengths, fusion=Fusion(language_model(), BOUNDARY, 0.0))
    assert [[h.tokens for h in found] for found in fused] == [[h.tokens for h in found] for found in plain]
    scores = [[h.score for h in found] for found in plain]
    assert [[h.score for h in found] for found in fused] == [pytest.approx(row) for row in scores]
    assert all(len({tuple(h.tokens) for h in found}) == len(found) > 1 for found in plain)


def test_whole_sequences_score_the_sum_of_their_steps() -> None:
    lm, network = language_model(), Network(VOCABULARY, 1)
    sequences = [[], [2], [3, 4, 2, 2], [4, 4]]
    expected = []
    for sequence in sequences:
        total = sum(lm_log_probs(lm, tuple(sequence[:i]))[token] for i, token in enumerate([*sequence, BOUNDARY]))
        expected.append(total)
    for max_tokens in (3, 1000):
        assert lm_scores(lm, sequences, BOUNDARY, max_tokens) == pytest.approx(expected, abs=1e-4)
    own = [sum(internal(network, tuple(s[:i]))[token] for i, token in enumerate(s)) for s in sequences]
    assert internal_scores(network, sequences, SILENCE) == pytest.approx(own, abs=1e-4)


def test_rescoring_takes_the_best_of_the_sum() -> None:
    lm, network = language_model(), Network(VOCABULARY, 1)
    found = [[Hypothesis([2], -1.0), Hypothesis([3, 4], -1.5), Hypothesis([], -1.2)], [], [Hypothesis([4], -9.0)]]
    for lm_scale, ilm_scale in ((0.0, 0.0), (2.0, 0.0), (2.0, 1.0)):
        best = Rescoring(lm, BOUNDARY, lm_scale, ilm_scale).best(network, found, SILENCE)
        totals = [h.score + lm_scale * lm_scores(lm, [h.tokens], BOUNDARY)[0]
                  - ilm_scale * internal_scores(network, [h.tokens], SILENCE)[0] for h in found[0]]  # fmt: skip
        assert best == [found[0][totals.index(max(totals))].tokens, [], [4]]


@pytest.mark.parametrize("method", [pytest.param(name, marks=pytest.mark.k2 if "fast" in name else ())
                                    for name in WITH_LM])  # fmt: skip
def test_methods_with_a_language_model(method: str) -> None:
    """A large weight gives what the language model prefers, 0 the method without one; a missing model is an error."""
    network, lm = Network(VOCABULARY, 2), LanguageModel(language_model(), BOUNDARY)
    encoder_out, lengths = torch.randn(4, 12, 6), torch.tensor([12, 7, 0, 3])
    plain = decode(network, encoder_out, lengths, DecodingConfig(method, lm_scale=0.0), lm)
    strong = decode(network, encoder_out, lengths, DecodingConfig(method, lm_scale=5.0), lm)
    assert plain[2] == strong[2] == [] and plain != strong

    def liked(found: list[list[int]]) -> float:
        return sum(lm_scores(lm.network, found, BOUNDARY))

    assert liked(strong) > liked(plain)
    with pytest.raises(UserError, match=f"{method} needs a language model; give --lm-exp-dir"):
        decode(network, encoder_out, lengths, DecodingConfig(method))
    with pytest.raises(UserError, match="lm_scale must be at least 0, got -1"):
        DecodingConfig(method, lm_scale=-1)
    assert "lm-scale-0.3-ilm-scale-0" in DecodingConfig(method).suffix()
