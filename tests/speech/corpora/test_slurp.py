"""SLURP's official layout: conversion of annotations and recordings, and messages about unusable ones."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pruning.errors import UserError
from pruning.speech.corpora import slurp
from pruning.speech.data import manifests


def line(slurp_id: int, sentence: str, pair: tuple[str, str], files: list[str], **changes: Any) -> dict[str, Any]:
    words = sentence.split()
    return {
        "slurp_id": slurp_id, "sentence": sentence, "sentence_annotation": sentence, "intent": "_".join(pair),
        "scenario": pair[0], "action": pair[1],
        "tokens": [{"surface": word, "id": place, "lemma": word, "pos": "NN"} for place, word in enumerate(words)],
        "recordings": [{"file": name, "wer": 0.0, "ent_wer": 0.0, "status": "correct"} for name in files],
        "entities": [], **changes,
    }  # fmt: skip


def noise(path: Path, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, rate // 2), rate, format="FLAC")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a corpus with two sentences and three recordings."""
    rows = [
        line(7, "wake me at eight o'clock", ("alarm", "set"), ["audio-1-headset.flac", "audio-1.flac"],
             entities=[{"span": [3, 4], "type": "time"}]),
        line(9, "play jazz", ("play", "music"), ["audio-2.flac"], intent="music"),
    ]  # fmt: skip
    write(tmp_path, rows)
    for name in ("audio-1-headset", "audio-1", "audio-2"):
        noise(tmp_path / "slurp_real" / f"{name}.flac")
    metadata = {"7": {"recordings": {"audio-1.flac": {"usrid": "FE-141"}, "audio-1-headset.flac": {"usrid": "FE-141"}}}}
    (tmp_path / "dataset/slurp/metadata.json").write_text(json.dumps(metadata))
    return tmp_path


def write(corpus: Path, rows: list[dict[str, Any]], part: str = "test", more: str = "") -> None:
    path = corpus / "dataset" / "slurp" / f"{part}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + more)


def test_intent_and_entities_travel(corpus: Path, tmp_path: Path) -> None:
    paths = manifests.Paths(tmp_path / "manifests", "slurp")
    manifests.write(*slurp.read_part(corpus, "test"), paths, "test")
    cuts = {cut.supervisions[0].id: cut.supervisions[0] for cut in manifests.read(paths, "test")}
    assert set(cuts) == {"audio-1-headset", "audio-1", "audio-2"}
    first = cuts["audio-1"]
    assert (first.text, first.speaker) == ("wake me at eight o'clock", "FE-141")
    assert first.custom == {"slurp_id": 7, "scenario": "alarm", "action": "set", "intent": "alarm_set",
                            "entities": [{"type": "time", "filler": "eight o'clock"}]}  # fmt: skip
    second = cuts["audio-2"]
    assert second.speaker is None and (second.custom["intent"], second.custom["action"]) == ("music", "music")


def test_one_microphone(corpus: Path) -> None:
    assert [one.id for one in slurp.read_part(corpus, "test", microphone="headset")[1]] == ["audio-1-headset"]
    assert [one.id for one in slurp.read_part(corpus, "test", microphone="distant")[1]] == ["audio-1", "audio-2"]


def test_synthetic_audio_lies_elsewhere(corpus: Path) -> None:
    write(corpus, [line(1, "play jazz", ("play", "music"), ["s.flac"])], "train_synthetic")
    with pytest.raises(UserError, match="slurp_synth does not exist"):
        slurp.read_part(corpus, "train_synthetic")
    noise(corpus / "audio" / "slurp_synth" / "s.flac")
    assert [one.id for one in slurp.read_part(corpus, "train_synthetic")[0]] == ["s"]


def broken(corpus: Path) -> None:
    write(corpus, [line(9, "play jazz", ("play", "music"), ["audio-2.flac"])], more='{"slurp_id": 3, "sent\n')


def incomplete(corpus: Path) -> None:
    row = line(3, "play jazz", ("play", "music"), [])
    del row["action"]
    write(corpus, [row, line(9, "play jazz", ("play", "music"), ["audio-2.flac"])])


def unnamed(corpus: Path) -> None:
    rows = [line(number, "play jazz", ("play", "music"), ["audio-2.flac"]) for number in (3, 9)]
    rows[0]["scenario"] = None
    write(corpus, rows)


def latin(corpus: Path) -> None:
    write(corpus, [line(9, "play jazz", ("play", "music"), ["audio-2.flac"])])
    path = slurp.annotation_path(corpus, "test")
    path.write_bytes(b'{"sentence": "caf\xe9"}\n' + path.read_bytes())


def missing(corpus: Path) -> None:
    (corpus / "slurp_real" / "audio-1.flac").unlink()


def no_audio(corpus: Path) -> None:
    (corpus / "slurp_real" / "audio-1.flac").write_bytes(b"not audio")


def other_rate(corpus: Path) -> None:
    noise(corpus / "slurp_real" / "audio-1.flac", 22050)


@pytest.mark.parametrize(
    ("damage", "message", "told", "left"),
    [
        (broken, "test.jsonl line 2 is not an annotation", "1 broken lines skipped", 1),
        (incomplete, r"test.jsonl line 1 is not an annotation \(KeyError: 'action'\)", "1 broken lines skipped", 1),
        (
            unnamed,
            "test.jsonl line 1 is not an annotation .*scenario must be one word, got None",
            "1 broken lines skipped",
            1,
        ),
        (latin, r"test.jsonl line 1 is not an annotation \(UnicodeDecodeError", "1 broken lines skipped", 1),
        (missing, "audio-1.flac of sentence 7 does not exist", "1 missing recordings skipped", 2),
        (no_audio, "audio-1.flac of audio-1 cannot be read", "1 unreadable recordings skipped", 2),
        (other_rate, "a sampling rate of 22050 Hz, not 16000", "1 recordings of another sampling rate skipped", 2),
    ],
)
def test_what_cannot_be_used(
    corpus: Path, damage: Any, message: str, told: str, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The first is an error that names the item, or all are counted, logged and skipped."""
    damage(corpus)
    with pytest.raises(UserError, match=f"{message}.*; .*or give --on-missing skip"):
        slurp.read_part(corpus, "test")
    with caplog.at_level(logging.WARNING):
        recordings, supervisions = slurp.read_part(corpus, "test", on_missing="skip")
    assert len(recordings) == len(supervisions) == left and told in caplog.text


def test_nothing_left(corpus: Path) -> None:
    for path in (corpus / "slurp_real").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no recording of test can be used"):
        slurp.read_part(corpus, "test", on_missing="skip")
    with pytest.raises(UserError, match="train.jsonl does not exist"):
        slurp.read_part(corpus, "train")
    (corpus / "dataset/slurp/metadata.json").write_text("[]")
    with pytest.raises(UserError, match="metadata.json is damaged"):
        slurp.read_part(corpus, "test")
