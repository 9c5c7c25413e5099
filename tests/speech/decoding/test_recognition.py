"""Timing of features, which must not make decoding fail."""

from __future__ import annotations

import gzip
import logging
import shutil
from pathlib import Path

import pytest
from lhotse import Fbank

from pruning.speech.data import manifests
from pruning.speech.decoding import recognition


def cuts_of(data_dir: Path) -> Path:
    return manifests.Paths(data_dir / "fbank").cuts("dev")


def test_relative_recordings_are_found_from_elsewhere(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in icefall: relative to the directory that contains ``data``."""
    shutil.copytree(data_dir / "LibriSpeech/dev", tmp_path / "ASR/data/LibriSpeech/dev")
    path = tmp_path / "ASR/data/fbank/cuts.jsonl.gz"
    path.parent.mkdir()
    with gzip.open(cuts_of(data_dir), "rt") as source, gzip.open(path, "wt") as target:
        target.write(source.read().replace(str(data_dir), "data"))
    monkeypatch.chdir(tmp_path)
    timing = recognition.time_features(path)
    assert timing is not None and timing.seconds > 0
    assert timing.audio_seconds == pytest.approx(sum(cut.duration for cut in manifests.iterate_cuts(path)))


def test_an_extractor_that_fails_leaves_the_time_unknown(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("too short")

    monkeypatch.setattr(Fbank, "extract", fail)
    with caplog.at_level(logging.WARNING):
        assert recognition.time_features(cuts_of(data_dir)) is None
    assert "features cannot be computed (too short)" in caplog.text
