"""Features: jobs that together make what one makes, and nothing left of what failed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse import LilcomChunkyWriter, load_manifest

from pruning.errors import UserError
from pruning.speech import features, librispeech, manifests

PART = "dev-clean-2"


@pytest.fixture()
def source(tmp_path: Path, make_corpus: Callable[..., Path]) -> manifests.Paths:
    corpus = make_corpus(tmp_path / "LibriSpeech", {PART: 5})
    librispeech.prepare(corpus, [PART], tmp_path / "manifests")
    return manifests.Paths(tmp_path / "manifests")


def compute(source: manifests.Paths, target: Path, num_splits: int, config: features.FeatureConfig) -> list[Any]:
    paths = manifests.Paths(target)
    for split in range(1, num_splits + 1):
        features.compute_split(config, source, features.Job(paths, PART, split, num_splits))
    features.combine(source, paths, PART, num_splits)
    return list(load_manifest(paths.cuts(PART)))


def test_splits_make_what_one_job_makes(source: manifests.Paths, tmp_path: Path) -> None:
    config = features.FeatureConfig(speed_factors=(0.9, 1.1))
    one = compute(source, tmp_path / "one", 1, config)
    many = compute(source, tmp_path / "many", 7, config)  # more splits than cuts
    assert [cut.id for cut in one] == [cut.id for cut in many]
    assert len(one) == 15
    for left, right in zip(one, many):
        assert np.array_equal(left.load_features(), right.load_features())
        assert left.num_frames == right.num_frames and left.num_features == 80


def test_features_follow_the_audio(source: manifests.Paths, tmp_path: Path) -> None:
    plain, slow, fast = compute(source, tmp_path / "fbank", 1, features.FeatureConfig(speed_factors=(0.9, 1.1)))[:3]
    for cut, factor in ((plain, 1.0), (slow, 0.9), (fast, 1.1)):
        assert cut.duration == pytest.approx(plain.duration / factor, abs=0.01)
        assert cut.num_frames == pytest.approx(100 * cut.duration, abs=1)
        assert cut.supervisions[0].text == plain.supervisions[0].text
    assert not np.allclose(plain.load_features(), plain.load_features()[::-1])


def test_other_sampling_rates_are_resampled(tmp_path: Path, make_corpus: Callable[..., Path]) -> None:
    corpus = make_corpus(tmp_path / "LibriSpeech", {PART: 2}, rate=8000)
    librispeech.prepare(corpus, [PART], tmp_path / "manifests")
    made = compute(manifests.Paths(tmp_path / "manifests"), tmp_path / "fbank", 1, features.FeatureConfig())
    for cut in made:
        assert cut.sampling_rate == 16000
        assert cut.num_frames == pytest.approx(100 * cut.duration, abs=1)


def test_a_missing_split_is_named(source: manifests.Paths, tmp_path: Path) -> None:
    paths = manifests.Paths(tmp_path / "fbank")
    features.compute_split(features.FeatureConfig(), source, features.Job(paths, PART, 1, 2))
    with pytest.raises(UserError, match="cuts-2-of-2.jsonl.gz does not exist; compute split 2 of 2 of dev-clean-2"):
        features.combine(source, paths, PART, 2)
    assert not paths.cuts(PART).exists()


def test_a_split_of_an_older_manifest_is_refused(source: manifests.Paths, tmp_path: Path, make_corpus: Any) -> None:
    paths = manifests.Paths(tmp_path / "fbank")
    features.compute_split(features.FeatureConfig(), source, features.Job(paths, PART, 1, 1))
    larger = make_corpus(tmp_path / "larger", {PART: 6})
    librispeech.prepare(larger, [PART], tmp_path / "larger-manifests")
    with pytest.raises(UserError, match="no features of 1-7-0005"):
        features.combine(manifests.Paths(tmp_path / "larger-manifests"), paths, PART, 1)
    assert not paths.cuts(PART).exists()


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9])
def test_truncated_audio_is_named_and_leaves_nothing(source: manifests.Paths, tmp_path: Path, keep: float) -> None:
    audio = next((tmp_path / "LibriSpeech").rglob("1-7-0003.flac"))
    whole = audio.read_bytes()
    audio.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(UserError, match="1-7-0003.flac: the audio of 1-7-0003-3 is truncated or unreadable"):
        compute(source, tmp_path / "fbank", 1, features.FeatureConfig())
    assert not [path for path in (tmp_path / "fbank").rglob("*") if path.is_file()]


def test_audio_of_another_length_is_named(source: manifests.Paths, tmp_path: Path) -> None:
    one, other = (next((tmp_path / "LibriSpeech").rglob(f"1-7-000{index}.flac")) for index in (2, 3))
    one.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="1-7-0002.flac: the audio of 1-7-0002-2 is truncated or unreadable"):
        compute(source, tmp_path / "fbank", 1, features.FeatureConfig())


def test_a_full_disk_leaves_nothing(source: manifests.Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = LilcomChunkyWriter.write, []

    def full(self: LilcomChunkyWriter, key: str, value: np.ndarray) -> str:
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.storage_path))
        written.append(key)
        return write(self, key, value)

    monkeypatch.setattr(LilcomChunkyWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        compute(source, tmp_path / "fbank", 1, features.FeatureConfig())
    assert not [path for path in (tmp_path / "fbank").rglob("*") if path.is_file()]
    monkeypatch.undo()
    assert len(compute(source, tmp_path / "fbank", 1, features.FeatureConfig())) == 5


def test_what_is_done_is_not_done_again(source: manifests.Paths, tmp_path: Path) -> None:
    config = features.FeatureConfig()
    compute(source, tmp_path / "fbank", 2, config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "fbank").rglob("*") if path.is_file()}
    compute(source, tmp_path / "fbank", 2, config)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "fbank").rglob("*") if path.is_file()}
