"""Perplexity of words from that of their pieces, with the same words left out for every model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.speech.scoring.perplexity import WordScores, perplexity, word_scores
from pruning.speech.text import bpe
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.sentences import Sentences, TextConfig
from tests.speech.text.test_sentences import lines

VOCABULARY = 28


def fixed(tokens: Tensor) -> Tensor:
    """Return logits that depend only on the last token."""
    table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))
    return table[tokens]


@pytest.mark.parametrize("unit", ["unigram", "char"])
def test_words_are_the_sum_of_their_pieces(tmp_path: Path, unit: str) -> None:
    tokenizer = bpe.train(lines(200), tmp_path / "lang", VOCABULARY if unit == "unigram" else None, unit)
    path = tmp_path / "text.txt"
    text = lines(20)
    path.write_text("\n".join(text))
    sentences = Sentences([path], tokenizer, TextConfig(max_tokens=300, max_length=200))
    found = word_scores(fixed, sentences.evaluation_batches(), tokenizer)
    assert [scores.place for scores in found] == list(range(20))
    for scores, line in zip(found, text):
        history, expected = [1], []
        for word in line.split():
            total = 0.0
            for token in tokenizer.encode(word):
                total -= float(fixed(torch.tensor(history[-1])).log_softmax(dim=0)[token])
                history.append(token)
            expected.append(total)
        expected.append(-float(fixed(torch.tensor(history[-1])).log_softmax(dim=0)[1]))
        assert scores.tokens == len(history)
        assert scores.nll == pytest.approx(expected, abs=1e-4)


def test_words_outside_the_vocabulary_do_not_count() -> None:
    scores = [WordScores(0, np.array([1.0, 2.0, 4.0]), 5), WordScores(1, np.array([8.0, 16.0]), 3)]
    found = perplexity(scores, ["A B", "B"], {"A"})
    assert (found.words, found.left_out, found.tokens) == (3, 2, 8)
    assert found.sums.tolist() == [[5.0, 2.0, 7.0, 5.0], [16.0, 1.0, 24.0, 3.0]]
    assert found.per_word == pytest.approx(math.exp(21 / 3)) and found.per_token == pytest.approx(math.exp(31 / 8))
    assert perplexity(scores, ["A B", "B"]).per_word == pytest.approx(math.exp(31 / 5))
    with pytest.raises(ValueError, match="sentence 2 has 2 words and 1 scores"):
        perplexity(scores, ["A B", "B C"])


def test_a_word_without_probability_is_named() -> None:
    """If it counts: the perplexity would be infinite, which JSON cannot represent."""
    scores = [WordScores(0, np.array([1.0, math.inf, 4.0]), 5)]
    with pytest.raises(UserError, match="'B' in sentence 1 has zero probability"):
        perplexity(scores, ["A B"])
    assert perplexity(scores, ["A B"], {"A"}).per_word == pytest.approx(math.exp(2.5))
    with pytest.raises(UserError, match="'the end' in sentence 1 has zero probability"):
        perplexity([WordScores(0, np.array([1.0, math.inf]), 2)], ["A"])


WORDS_TXT = "<eps> 0\n!SIL 1\n<SPOKEN_NOISE> 2\n<UNK> 3\nA 4\nB 5\n#0 6\n<s> 7\n</s> 8\n"


@pytest.mark.parametrize("content", [WORDS_TXT, "A\nB\n", "A a\nB b ee\n", "B 5\nA 4\nB 7\n", "A 0.5 a\nB 1 b\n"])
def test_word_lists_of_several_makers(tmp_path: Path, content: str) -> None:
    """A plain list, icefall's words.txt, and lexicons with and without probabilities."""
    from pruning.speech.text.text_files import read_words

    (tmp_path / "words.txt").write_text(content)
    assert sorted(read_words(tmp_path / "words.txt")) == ["A", "B"]
    (tmp_path / "words.txt").write_text("<eps> 0\n")
    with pytest.raises(UserError, match="words.txt has no words"):
        read_words(tmp_path / "words.txt")


def test_a_tokenizer_without_a_boundary(tmp_path: Path) -> None:
    """A character model also has <sos/eos>; blank replaces it if there is none."""
    from pruning.speech.text.sentences import boundary_id

    class Bare(Tokenizer):
        def __init__(self) -> None: ...

        def tokens(self) -> list[str]:
            return ["<blk>", "A"]

    assert boundary_id(Bare()) == 0


def test_spaces_that_cannot_be_seen(tmp_path: Path) -> None:
    from pruning.speech.text.text_files import read_sentences

    path = tmp_path / "text.txt"
    path.write_text("ONE\u200bTWO \ufeff\n\u200b\n", encoding="utf-8")
    assert list(read_sentences(path)) == ["ONE TWO", ""]
