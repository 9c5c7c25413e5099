"""Batches are limited by what the network computes: Whisper's silence counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.speech.data import sources
from pruning.speech.data.batches import evaluation_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.data.whisper_features import WhisperFeatureConfig
from tests.speech.data.test_sources import cuts


@pytest.mark.parametrize(("tail", "expected"), [(None, [2, 2, 2]), (0.5, [3, 3]), (0.0, [6])])
def test_silence_counts(tmp_path: Path, tail: float, expected: list[int]) -> None:
    """Six recordings of 0.5 to 0.625 s, in a window of 2 s: batches of 4 s."""
    source = sources.whisper(WhisperFeatureConfig(80, tail, 200), lambda frames: frames)
    config = DataConfig(max_duration=4.0, num_buckets=1, num_workers=0)
    batches = list(evaluation_batches(config, [cuts(tmp_path)], source=source))
    assert sorted((len(batch.ids) for batch in batches), reverse=True) == expected
    assert all(batch.features.shape[:2].numel() <= 400 for batch in batches)
    assert all(batch.seconds < 0.63 * len(batch.ids) for batch in batches), "the seconds of audio are without silence"
