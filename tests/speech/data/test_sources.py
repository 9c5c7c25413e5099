"""Inputs of networks: samples of cuts in batches, and errors about unusable recordings."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import UserError
from pruning.speech.data import checks, sources
from pruning.speech.data.batches import evaluation_batches, training_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.data.whisper_features import WhisperFeatureConfig, whisper_features

SOURCE = sources.audio(16000, lambda samples: samples // 320)


def cuts(directory: Path, rate: int = 16000, channels: int = 1, level: float = 0.1) -> Path:
    """Write a manifest of six recordings of noise."""
    from lhotse import CutSet, Recording, SupervisionSegment

    generator, found = np.random.default_rng(0), []
    for index in range(6):
        path = directory / (f"{index}.flac" if np.isfinite(level) else f"{index}.wav")
        noise = level * generator.normal(size=(rate // 2 + 400 * index, channels))
        soundfile.write(path, noise, rate, subtype="PCM_16" if np.isfinite(level) else "FLOAT")
        recording = Recording.from_file(path, recording_id=f"r{index}")
        cut = recording.to_cut()
        cut.supervisions = [SupervisionSegment(f"s{index}", recording.id, 0.0, recording.duration, text="ONE TWO")]
        found.append(cut)
    path = directory / "slurp_cuts_test.jsonl.gz"
    CutSet.from_cuts(found).to_file(path)
    return path


def test_batches_of_samples(tmp_path: Path) -> None:
    path = cuts(tmp_path)
    config = DataConfig(max_duration=1.7, num_buckets=2, num_workers=0)
    batches = list(evaluation_batches(config, [path], source=SOURCE))
    assert sorted(name for batch in batches for name in batch.ids) == [f"r{index}" for index in range(6)]
    for batch in batches:
        assert batch.features.shape == (len(batch.ids), int(batch.lengths.max()))
        for row, length, name in zip(batch.features, batch.lengths.tolist(), batch.ids):
            samples, _ = soundfile.read(tmp_path / f"{name[1:]}.flac", dtype="float32")
            assert torch.equal(row[:length], torch.from_numpy(samples)) and not row[length:].any()


def test_what_is_too_short_for_its_tokens(tmp_path: Path) -> None:
    """The limit is the number of encoder frames, as the source counts them."""
    from pruning.speech.text import bpe

    path = cuts(tmp_path)
    tokenizer = bpe.train(["ONE TWO"] * 20, tmp_path / "lang", None, "char")
    config = DataConfig(max_duration=10.0, num_buckets=1, num_workers=0)
    tokens = len(tokenizer.encode("ONE TWO"))
    limit = 8000 + 400 * 3  # samples of the fourth recording
    source = sources.audio(16000, lambda samples: tokens if samples >= limit else tokens - 1)
    (batch,) = training_batches(config, [path], tokenizer, 0, 1, source=source)
    assert sorted(batch.ids) == ["r3", "r4", "r5"]


def test_what_cannot_be_heard(tmp_path: Path) -> None:
    config = DataConfig(max_duration=1.7, num_buckets=2, num_workers=0)
    (tmp_path / "rate").mkdir()
    with pytest.raises(UserError, match="r0 has a sampling rate of 8000 Hz, not 16000"):
        list(evaluation_batches(config, [cuts(tmp_path / "rate", 8000)], source=SOURCE))
    (tmp_path / "stereo").mkdir()
    with pytest.raises(UserError, match="has 2 channels"):
        sources.load_audio(16000, _first(cuts(tmp_path / "stereo", channels=2)))
    (tmp_path / "nan").mkdir()
    with pytest.raises(UserError, match="the audio of cut r0 has samples that are not finite numbers"):
        sources.load_audio(16000, _first(cuts(tmp_path / "nan", level=float("nan"))))
    (tmp_path / "loud").mkdir()
    cut = _first(cuts(tmp_path / "loud"))
    soundfile.write(cut.recording.sources[0].source, np.full(8000, 0.5), 16000, format="WAV", subtype="FLOAT")
    assert float(sources.load_audio(16000, cut).max()) == 0.5
    soundfile.write(cut.recording.sources[0].source, np.full(8000, 5000.0), 16000, format="WAV", subtype="FLOAT")
    with pytest.raises(UserError, match="the audio of cut r0 has samples of up to 5000, but full scale is 1"):
        sources.load_audio(16000, cut)
    path = cuts(tmp_path)
    (tmp_path / "0.flac").write_bytes(b"fLaC and nothing more")
    with pytest.raises(UserError, match="cannot read the audio of cut r0"):
        list(evaluation_batches(config, [path], source=SOURCE))
    cut = _first(path)
    cut.recording = None
    for hear in (lambda: sources.load_audio(16000, cut), lambda: SOURCE.frames(cut)):
        with pytest.raises(UserError, match="has no recording"):
            hear()


@pytest.mark.parametrize(("tail", "window"), [(None, 100), (0.2, 100), (0.2, 70)])
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_whispers_features(tmp_path: Path, tail: float, window: int, workers: int) -> None:
    """All frames are input, those of silence too; the source counts them without loading anything."""
    path = cuts(tmp_path)
    features = WhisperFeatureConfig(10, tail, window)
    source = sources.whisper(features, lambda frames: frames // 2)
    config = DataConfig(max_duration=1.7, num_buckets=2, num_workers=workers)
    seen = 0
    for batch in evaluation_batches(config, [path], source=source):
        assert batch.features.shape == (len(batch.ids), int(batch.lengths.max()), 10)
        for row, length, name in zip(batch.features, batch.lengths.tolist(), batch.ids):
            samples, _ = soundfile.read(tmp_path / f"{name[1:]}.flac", dtype="float32")
            frames = window if tail is None else min(window, math.ceil((len(samples) / 16000 + tail) * 100))
            assert length == frames and not row[length:].any()
            assert torch.equal(row[:length], whisper_features(torch.from_numpy(samples), features))
            seen += 1
    assert seen == 6 and source.frames(_first(path)) == (window if tail is None else min(window, 70)) // 2


def test_what_does_not_fit_the_window_is_named_first(tmp_path: Path) -> None:
    """Before anything is loaded; training may leave long cuts out."""
    path = cuts(tmp_path)  # 0.5 to 0.625 s
    source = sources.whisper(WhisperFeatureConfig(10, window=60), int)
    message = "cut r5: audio of 0.625 s does not fit Whisper's window of 0.6 s; give recordings that are not empty, and"
    for load in (source.load, source.frames):
        with pytest.raises(UserError, match=message):
            list(map(load, _all(path)))
    with pytest.raises(UserError, match=message):
        checks.check_recordings([], [path], source, 20.0)
    with pytest.raises(UserError, match=message):
        checks.check_recordings([path], [], source, 20.0)
    checks.check_recordings([path], [], source, 0.6)
    (tmp_path / "rate").mkdir()
    with pytest.raises(UserError, match="r0 has a sampling rate of 8000 Hz, not 16000"):
        checks.check_recordings([], [cuts(tmp_path / "rate", 8000)], source, 20.0)


@pytest.mark.parametrize("part", ["train", "dev"])
def test_all_recordings_are_checked(tmp_path: Path, part: str) -> None:
    from lhotse import CutSet

    (tmp_path / "rate").mkdir()
    good, bad = _all(cuts(tmp_path)), _all(cuts(tmp_path / "rate", 8000))
    first = next(iter(good))
    path = tmp_path / "many.jsonl.gz"
    CutSet.from_cuts([*(first.with_id(f"a{index}") for index in range(150)), next(iter(bad))]).to_file(path)
    with pytest.raises(UserError, match="cut r0 has a sampling rate of 8000 Hz, not 16000"):
        checks.check_recordings(*([path], []) if part == "train" else ([], [path]), SOURCE, 20.0)


def _all(path: Path) -> Any:
    from lhotse import load_manifest

    return load_manifest(path)


def _first(path: Path) -> Any:
    from lhotse import load_manifest

    return next(iter(load_manifest(path)))


def with_features(values: np.ndarray, start: float = 0.0, duration: float = 0.3, bins: int = 4) -> Any:
    """A cut of features (30, 4) of 0 to 0.3 s."""
    from lhotse import Features, MonoCut

    features = Features(
        type="fbank", num_frames=30, num_features=bins, frame_shift=0.01, sampling_rate=16000, start=0, duration=0.3,
        storage_type="memory_raw", storage_path="", storage_key=pickle.dumps(values),
    )  # fmt: skip
    return MonoCut("cut-7", start=start, duration=duration, channel=0, features=features)


@given(value=st.sampled_from([math.nan, math.inf, -math.inf]), frame=st.integers(0, 29), channel=st.integers(0, 3))
def test_features_that_are_not_finite_are_named_by_cut(value: float, frame: int, channel: int) -> None:
    values = np.zeros((30, 4), dtype=np.float32)
    values[frame, channel] = value
    with pytest.raises(UserError, match=rf"features of cut cut-7 are not finite .first in frame {frame}.; run the"):
        sources.load_features(with_features(values))


COUNTED = np.arange(30, dtype=np.float32)[:, None].repeat(4, 1)


@given(start=st.floats(-0.5, 0.5), duration=st.floats(0.02, 0.6))
def test_a_cut_has_the_features_of_its_time_or_is_named(start: float, duration: float) -> None:
    """To a few frames, by which the features of some programs are short; before any is loaded."""
    start, duration = round(start, 3), round(duration, 3)
    cut = with_features(COUNTED, start, duration)
    if start >= -0.025 and start + duration <= 0.325 and start < 0.27:
        found = sources.load_features(cut)
        assert sources.num_frames(cut) - 3 <= len(found) <= sources.num_frames(cut)
        assert abs(float(found[0, 0]) - max(start, 0.0) / 0.01) <= 1
    elif start < -0.031 or start + duration > 0.331:
        with pytest.raises(
            UserError, match="cut cut-7 is of .* s of its recording, and its features are of 0 to 0.3 s"
        ):
            sources.num_frames(cut)


def test_a_start_that_was_rounded_is_no_fault() -> None:
    """By more than lhotse lets pass."""
    cut = with_features(COUNTED, 0.0)
    cut.features.start = 0.0000136
    assert torch.equal(sources.load_features(cut), torch.from_numpy(COUNTED))


@pytest.mark.parametrize(
    ("values", "bins", "there"),
    [(COUNTED[:20], 4, "20 x 4"), (COUNTED[:0], 4, "0 x 4"), (COUNTED, 80, "30 x 4"), (COUNTED[:, 0], 4, "30")],
)
def test_features_that_are_not_what_the_manifest_says(values: np.ndarray, bins: int, there: str) -> None:
    """Of an archive that was overwritten, say: they would be a shorter cut with a whole transcript."""
    with pytest.raises(UserError, match=f"cut cut-7 promises 30 frames of {bins} features, and {there} are there; cor"):
        sources.load_features(with_features(values, bins=bins))


def test_silence_behind_features() -> None:
    features = torch.randn(7, 3)
    source = sources.with_silence(sources.Source(lambda cut: features, lambda cut: 1, -9.0), 30)
    found = source.load(None)
    assert torch.equal(found[:7], features) and found.shape == (37, 3) and bool((found[7:] == -9).all())
    assert sources.with_silence(sources.FEATURES, 0) is sources.FEATURES
