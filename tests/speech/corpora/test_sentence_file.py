"""Sentences of a synthetic corpus from a text."""

from __future__ import annotations

import gzip
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pruning import files, provenance
from pruning.errors import UserError
from pruning.speech.corpora.synthetic import corpus, text
from pruning.speech.corpora.synthetic.config import CorpusConfig, TextConfig
from pruning.speech.corpora.synthetic.sentence_file import SentenceFile

LINES = ("IT'S FULL OF WORDS", "Two dogs  barked", "NUMBER 5 IS OUT", "YES", "it's full of words", "ONE TWO THREE FOUR")


def write(path: Path, lines: tuple[str, ...] = LINES) -> TextConfig:
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    return TextConfig(provenance.file_fingerprint(path), (2, 4))


def test_lines_of_plain_words_in_the_range_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    source = SentenceFile(path, write(path))
    assert source.sentences == ["it's full of words", "two dogs barked", "one two three four"]
    drawn = text.unique_sentences(source, np.random.default_rng(0), count=2, excluded=["two dogs barked"])
    assert sorted(drawn) == ["it's full of words", "one two three four"]
    with pytest.raises(UserError, match="found only 3 new sentences; request fewer utterances or give a longer text"):
        text.unique_sentences(source, np.random.default_rng(0), count=4)


def test_another_or_an_unusable_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    config = write(path)
    with pytest.raises(UserError, match="has no line of 8 to 9 words"):
        SentenceFile(path, replace(config, words=(8, 9)))
    write(path, LINES[1:])
    with pytest.raises(UserError, match="is not the configured text"):
        SentenceFile(path, config)
    with pytest.raises(UserError, match="does not exist"):
        SentenceFile(tmp_path / "none", config)
    with pytest.raises(UserError, match="words must go from low to high"):
        TextConfig("", (4, 2))
    with pytest.raises(UserError, match="none is given; give --text"):
        corpus.sentences_of(CorpusConfig(text=config))


def test_parts_share_no_sentence_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    words = ["apple", "bread", "camel", "dough", "eagle", "fudge", "grape", "honey", "igloo", "jelly"]
    lines = tuple(f"the {one} and the {other}" for one in words for other in words if one != other)
    config = CorpusConfig(train_utterances=40, dev_utterances=5, test_words=25, text=write(path, lines))
    config = replace(config, text=TextConfig(provenance.file_fingerprint(path), (5, 5)))
    parts = corpus.plan_corpus(config, corpus.sentences_of(config, path))
    sentences = [utterance.text for part in parts for utterance in part.utterances]
    assert len(sentences) == len(set(sentences)) == 40 + 5 + 2 * 5
    assert set(sentences) <= set(lines)


@pytest.mark.parametrize("old", [{"text": None}, {}])
def test_a_corpus_made_before_a_setting_existed_is_that_corpus(
    old: dict[str, None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A setting that is None is the same as no setting."""
    config = CorpusConfig(train_utterances=1, dev_utterances=1, test_words=1)
    monkeypatch.setattr(corpus.speaking, "speak_all", lambda tasks, workers: {one.identifier: 1.0 for one, _ in tasks})
    made = tmp_path / "LibriSpeech"
    corpus.make_corpus(config, made, 1)
    mark = made / ".synthetic.json"
    value = files.read_json(mark)
    files.write_json(mark, {**value, "config": {**value["config"], **old}})
    with caplog.at_level(logging.INFO):
        corpus.make_corpus(config, made, 1)
    assert "already exists" in caplog.text
