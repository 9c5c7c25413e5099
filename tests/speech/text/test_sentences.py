"""Sentences in batches: each once, in a reproducible order; errors of bad text name the line."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pruning.errors import UserError
from pruning.speech.text import bpe
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.sentences import SentenceBatch, Sentences, TextConfig, boundary_id
from pruning.speech.text.text_files import read_sentences

WORDS = ["ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "TEN"]


def lines(count: int) -> list[str]:
    return [" ".join(WORDS[(i * 7 + j) % 10] for j in range(1 + i % 9)) for i in range(count)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return bpe.train(lines(200), tmp_path_factory.mktemp("lang"), 28, "unigram")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines(57)) + "\n")
    return path


def unpacked(batches: Iterator[SentenceBatch], boundary: int) -> dict[int, list[int]]:
    """Return tokens by place, after checking each row."""
    found: dict[int, list[int]] = {}
    for batch in batches:
        for inputs, targets, mask, place in zip(batch.inputs, batch.targets, batch.mask, batch.places.tolist()):
            length = int(mask.sum())
            assert bool(mask[:length].all()) and inputs[0] == boundary and targets[length - 1] == boundary
            assert torch.equal(inputs[1:length], targets[: length - 1])
            assert bool((inputs[length:] == boundary).all())
            found.setdefault(place, []).extend(targets[: length - 1].tolist())
    return found


@pytest.mark.parametrize("max_length", [4, 200])
def test_every_sentence_comes_once(text: Path, tokenizer: Tokenizer, max_length: int) -> None:
    """In training and in evaluation; longer sentences in pieces."""
    sentences = Sentences([text], tokenizer, TextConfig(max_tokens=210, max_length=max_length))
    expected = {place: tokenizer.encode(line) for place, line in enumerate(lines(57))}
    boundary = boundary_id(tokenizer)
    assert boundary == 1
    if max_length == 200:
        assert unpacked(sentences.evaluation_batches(), boundary) == expected
    for batches in (sentences.evaluation_batches(), sentences.training_batches(1, 1)):  # pieces may come in any order
        found = unpacked(batches, boundary)
        assert {place: sorted(tokens) for place, tokens in found.items()} == {
            place: sorted(tokens) for place, tokens in expected.items()
        }
    assert sentences.num_tokens == sum(map(len, expected.values())) + len(sentences)
    for batch in sentences.training_batches(1, 2):
        assert batch.inputs.numel() <= 210


def test_the_order_is_of_seed_and_epoch(text: Path, tokenizer: Tokenizer) -> None:
    sentences = Sentences([text], tokenizer, TextConfig(max_tokens=60, max_length=50))

    def places(*arguments: int) -> list[list[int]]:
        return [batch.places.tolist() for batch in sentences.training_batches(*arguments)]

    whole = places(1, 1)
    assert places(1, 1) == whole and places(1, 2) != whole and places(2, 1) != whole
    assert places(1, 1, 3) == whole[3:]
    shares = [places(1, 1, 0, rank, 2) for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) == sentences.count_batches(1, 2)
    assert {tuple(places) for share in shares for places in share} <= {tuple(places) for places in whole}
    parts = [[b.places.tolist() for b in sentences.evaluation_batches(rank, 2)] for rank in range(2)]
    assert sorted(place for part in parts for places in part for place in places) == list(range(57))


def test_empty_lines_and_gzip(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "text.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.write("ONE  TWO\n\n \nTHREE\n")
    assert list(read_sentences(path)) == ["ONE TWO", "", "", "THREE"]
    with pytest.raises(UserError, match="line 2 is empty; remove it, or give data.on_empty=skip"):
        Sentences([path], tokenizer, TextConfig())
    assert unpacked(Sentences([path], tokenizer, TextConfig(on_empty="skip")).evaluation_batches(), 1) == {
        0: tokenizer.encode("ONE TWO"), 1: tokenizer.encode("THREE"),
    }  # fmt: skip


def test_bad_text_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "text.txt"
    with pytest.raises(UserError, match="does not exist"):
        Sentences([path], tokenizer, TextConfig())
    path.write_text("\n\n")
    with pytest.raises(UserError, match="no sentences found"):
        Sentences([path], tokenizer, TextConfig(on_empty="skip"))
    path.write_text("")
    with pytest.raises(UserError, match="no sentences found"):
        Sentences([path], tokenizer, TextConfig())
    path.write_text("ONE\nTWO ДВА\n")
    with pytest.raises(UserError, match=r"text.txt: .* are unknown, first at line 2, 'TWO ДВА'"):
        Sentences([path], tokenizer, TextConfig())
    assert len(Sentences([path], tokenizer, TextConfig(max_unknown=1.0))) == 2
    path.write_bytes(b"ONE\n\xff\xfe\n")
    with pytest.raises(UserError, match="cannot be read after line"):
        Sentences([path], tokenizer, TextConfig())
    packed = bytearray(gzip.compress(" ".join(map(str, range(9000))).encode()))
    for place in range(2000, 2100):
        packed[place] ^= 0xFF
    (tmp_path / "damaged.txt.gz").write_bytes(packed)
    with pytest.raises(UserError, match="damaged.txt.gz cannot be read after line"):
        list(read_sentences(tmp_path / "damaged.txt.gz"))
    with pytest.raises(ValueError, match="max_tokens must be above"):
        TextConfig(max_tokens=10, max_length=10)
