"""Cached token ids: equal to the tokeniser's, encoded once, and again if the text changes."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from pruning.errors import UserError
from pruning.speech.text import bpe, tokenized
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.sentences import Sentences, TextConfig
from tests.speech.text.test_sentences import lines


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return bpe.train(lines(200), tmp_path_factory.mktemp("lang"), 28, "unigram")


def check(found: tokenized.TokenizedText, expected: list[str], tokenizer: Tokenizer) -> None:
    rows = np.split(found.ids, np.cumsum(found.lengths)[:-1])
    assert [row.tolist() for row in rows] == [tokenizer.encode(line) for line in expected]


@pytest.mark.parametrize("chunk", [7, 20_000])
def test_ids_are_the_tokenizers(
    tmp_path: Path, tokenizer: Tokenizer, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Independent of the chunks in which sentences are encoded; unknown tokens are reported with their line."""
    monkeypatch.setattr(tokenized, "_CHUNK", chunk)
    text = lines(40)
    (tmp_path / "a.txt").write_text("\n".join(text[:25]) + "\n\n\n")
    (tmp_path / "b.txt").write_text("\n".join([*text[25:36], "ONE ДВА", *text[36:]]) + "\n")
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for cache in (None, tmp_path / "cache"):
        found = tokenized.tokenized(paths, tokenizer, cache)
        check(found, [*text[:36], "ONE ДВА", *text[36:]], tokenizer)
        assert found.ids.dtype == np.uint16
        first, second = found.files
        assert (first.sentences, first.empty, first.unknown, first.first) == (25, 2, 0, "")
        assert (second.sentences, second.unknown) == (16, tokenizer.encode("ONE ДВА").count(2))
        assert second.first == "line 12, 'ONE ДВА'"
        marks = sum(tokenizer.count_unknown(tokenizer.encode(line))[1] for line in text[:25])
        assert first.tokens == marks


def test_they_are_made_once(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = tmp_path / "train.txt", tmp_path / "cache"
    path.write_text("ONE TWO\nTHREE\n")
    check(tokenized.tokenized([path], tokenizer, cache), ["ONE TWO", "THREE"], tokenizer)
    with monkeypatch.context() as patched:
        patched.setattr(Tokenizer, "encode_all", lambda self, texts: pytest.fail("encoded again"))
        found = tokenized.tokenized([path], tokenizer, cache)
    assert isinstance(found.ids, np.memmap)
    check(found, ["ONE TWO", "THREE"], tokenizer)
    path.write_text("FOUR\n")
    os.utime(path, ns=(1, 1))
    check(tokenized.tokenized([path], tokenizer, cache), ["FOUR"], tokenizer)
    check(found, ["ONE TWO", "THREE"], tokenizer)  # open arrays stay valid
    assert sum(1 for one in cache.iterdir() if one.is_dir()) == 1
    (next(one for one in cache.iterdir() if one.is_dir()) / "ids.npy").write_bytes(b"x")
    with pytest.raises(UserError, match="are broken"):
        tokenized.tokenized([path], tokenizer, cache)


def test_no_sentence_at_all(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "train.txt"
    path.write_text("\n\n")
    found = tokenized.tokenized([path], tokenizer, tmp_path / "cache")
    assert not len(found.ids) and found.files[0].empty == 2
    with pytest.raises(UserError, match="no sentences found"):
        Sentences([path], tokenizer, TextConfig(on_empty="skip"), keep=True)


def test_without_a_place_they_are_in_memory(
    tmp_path: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "train.txt"
    path.write_text("ONE TWO\n")
    (tmp_path / "file").write_text("in the way")
    check(tokenized.tokenized([path], tokenizer, tmp_path / "file" / "cache"), ["ONE TWO"], tokenizer)
    assert "cannot cache token ids" in caplog.text


def _make(arguments: tuple[Path, Path, Path]) -> int:
    path, lang_dir, cache = arguments
    return len(tokenized.tokenized([path], Tokenizer(lang_dir), cache).lengths)


def test_several_processes_at_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "train.txt"
    path.write_text("\n".join(lines(3000)))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(_make, [(path, tokenizer.lang_dir, tmp_path / "cache")] * 3) == [3000] * 3
    assert not list((tmp_path / "cache").glob(".tmp-*"))


def test_batches_are_those_without_a_cache(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path, config = tmp_path / "train.txt", TextConfig(max_tokens=60, max_length=4)
    path.write_text("\n".join(lines(50)))
    whole, kept = (Sentences([path], tokenizer, config, keep) for keep in (False, True))
    assert (tokenizer.lang_dir / "text").is_dir()
    for one, other in zip(whole.training_batches(3, 2), kept.training_batches(3, 2)):
        assert one.inputs.equal(other.inputs) and one.targets.equal(other.targets) and one.places.equal(other.places)
