"""Scores of texts under networks: trees of tokens against whole sentences, contexts, what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pruning.errors import UserError
from pruning.models.transformer_lm import TransformerLM
from pruning.models.transformer_lm_config import LanguageModelConfig
from pruning.speech.decoding.network_scorer import NetworkScorer
from pruning.speech.decoding.text_scorer import Request
from pruning.speech.decoding.token_tree import TokenTree, ancestors

LETTERS = " ABCDE."


class Letters:
    """A token for each letter; C is spelled as A if asked for."""

    takes_context = True
    start, end = (7, 8), 9

    def __init__(self, wrong: bool = False, joint: str = " ") -> None:
        self.wrong, self.joint = wrong, joint

    def encode(self, text: str) -> list[int]:
        return [LETTERS.index("A" if letter == "C" and self.wrong else letter) for letter in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(LETTERS[token] for token in tokens)


def network() -> TransformerLM:
    torch.manual_seed(0)
    config = LanguageModelConfig(d_model=12, num_layers=2, head_dim=4, num_heads=(2, 1), ffn_dim=(16,), vocab_size=10)
    model = TransformerLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@torch.no_grad()
def alone(model: TransformerLM, before: Sequence[int], tokens: Sequence[int]) -> float:
    """The log-probability of tokens in a pass over all of them."""
    log_probs = model.log_probs(torch.tensor([[*before, *tokens]]))[0]
    return sum(float(log_probs[len(before) - 1 + place, token]) for place, token in enumerate(tokens))


def test_a_tree_has_each_beginning_once() -> None:
    tree = TokenTree.of([5, 6], [[1, 2, 3], [1, 2], [1, 4, 3], [], [1, 2, 3]])
    assert tree.tokens == [5, 6, 1, 2, 4] and tree.parents == [-1, 0, 1, 2, 2]
    assert tree.edges == [(1, 1), (2, 2), (3, 3), (2, 4), (4, 3)]
    assert tree.paths == [[0, 1, 2], [0, 1], [0, 3, 4], [], [0, 1, 2]]
    tokens, sees = ancestors([tree, TokenTree.of([5], [[1]])])
    assert tokens.tolist() == [[5, 6, 1, 2, 4], [5, 0, 0, 0, 0]]
    assert sees[0].astype(int).tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0],
                                            [1, 1, 1, 0, 1]]  # fmt: skip
    assert np.array_equal(sees[1], np.eye(5, dtype=bool))


@pytest.mark.parametrize("score_end", [True, False])
@pytest.mark.parametrize(("max_tokens", "joint"), [(1, " "), (1000, " "), (1000, "")])
def test_scores_are_those_of_the_whole_sentences(score_end: bool, max_tokens: int, joint: str) -> None:
    model, letters = network(), Letters(joint=joint)
    scorer = NetworkScorer(model, letters, score_end, max_tokens=max_tokens)
    requests = [Request(("AB CD", "AB CE", "AB", "E", "")), Request(("AB.", "A"), ("", "E D", "B.")), Request(("A",))]
    scorer.prepare(text for request in requests for text in request.texts)
    found = scorer.score(requests)
    for request, scores in zip(requests, found):
        before = " ".join(text for text in request.context if text)
        for text, score in zip(request.texts, scores):
            tokens = letters.encode(f"{joint}{text}" if before and text else text) + [letters.end] * score_end
            expected = alone(model, [*letters.start, *letters.encode(before)], tokens) if tokens else -math.inf
            assert score == pytest.approx(expected, abs=1e-4)
    facts = scorer.facts.described(2)
    assert facts["contexts"] == 1 and facts["contexts_shortened"] == 0
    assert facts["tokens"] < facts["tokens_without_sharing"]


def test_contexts_are_cut_from_the_left_to_what_the_network_takes() -> None:
    """12 tokens: 2 at the start, 4 of " A B", of which the last is predicted only, so 7 of the context."""
    model, letters = network(), Letters()
    scorer = NetworkScorer(model, letters, score_end=False, room=12)
    (found,) = scorer.score([Request(("A B", "A"), ("ABCDE", "DDDD"))])
    kept = letters.encode("DE DDDD")
    assert found[0] == pytest.approx(alone(model, [*letters.start, *kept], letters.encode(" A B")), abs=1e-4)
    assert (scorer.facts.contexts, scorer.facts.shortened) == (1, 1)
    (found,) = scorer.score([Request(("ABCDEABCDE",), ("A",))])
    assert found[0] == pytest.approx(alone(model, letters.start, letters.encode("ABCDEABCDE")), abs=1e-4)
    assert scorer.facts.shortened == 2
    scorer.prepare(["A" * 11])
    with pytest.raises(UserError, match="'AAAAAAAAAAAA' has 13 tokens, but the language model takes 12; split"):
        scorer.prepare(["A", "A" * 12])


def test_texts_that_are_spelled_otherwise_are_counted_and_many_are_refused() -> None:
    texts = ["A" * number for number in range(1, 100)]
    scorer = NetworkScorer(network(), Letters(wrong=True))
    scorer.prepare([*texts, "C"])
    assert scorer.facts.changed == ["C"]
    with pytest.raises(UserError, match="spell 2 of 101 hypotheses otherwise .first: 'C'.; .* see --form"):
        NetworkScorer(network(), Letters(wrong=True)).prepare([*texts, "C", "DC"])
