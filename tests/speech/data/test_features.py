"""Features: several jobs give the same result as one, and failures leave nothing behind."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, LilcomChunkyWriter, MultiCut, RecordingSet, SupervisionSet, load_manifest

from pruning.errors import UserError
from pruning.speech.corpora import librispeech
from pruning.speech.data import audio, features, manifests

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
    features.combine(config, source, paths, PART, num_splits)
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
    message = "cuts-2-of-2-[0-9a-f]{8}.jsonl.gz does not exist; compute split 2 of 2 of dev-clean-2"
    with pytest.raises(UserError, match=message):
        features.combine(features.FeatureConfig(), source, paths, PART, 2)
    assert not paths.cuts(PART).exists()


def test_splits_of_older_manifests_are_computed_again(source: manifests.Paths, tmp_path: Path) -> None:
    """Two of two splits exist when a text is corrected and an utterance is removed."""
    paths, config = manifests.Paths(tmp_path / "fbank"), features.FeatureConfig()
    for split in (1, 2):
        features.compute_split(config, source, features.Job(paths, PART, split, 2))
    next((tmp_path / "LibriSpeech").rglob("1-7-0001.flac")).unlink()
    transcript = next((tmp_path / "LibriSpeech").rglob("*.trans.txt"))
    lines = transcript.read_text().splitlines()
    transcript.write_text("\n".join([*lines[:1], *lines[2:4], "1-7-0004 CORRECTED"]) + "\n")
    librispeech.prepare(tmp_path / "LibriSpeech", [PART], tmp_path / "newer")
    newer = manifests.Paths(tmp_path / "newer")
    with pytest.raises(UserError, match="cuts-1-of-2-[0-9a-f]{8}.jsonl.gz does not exist; compute split 1 of 2"):
        features.combine(config, newer, paths, PART, 2)
    assert not paths.cuts(PART).exists()
    made = compute(newer, tmp_path / "fbank", 2, config)
    expected = [line.split(maxsplit=1) for line in transcript.read_text().splitlines()]
    assert [[cut.supervisions[0].id, cut.supervisions[0].text] for cut in made] == expected


def test_splits_of_another_configuration_are_computed_again(source: manifests.Paths, tmp_path: Path) -> None:
    paths = manifests.Paths(tmp_path / "fbank")
    for config in (features.FeatureConfig(), features.FeatureConfig(40, speed_factors=(0.9,))):
        features.compute_split(config, source, features.Job(paths, PART, 1, 2))
    made = compute(source, tmp_path / "fbank", 2, features.FeatureConfig(speed_factors=(0.9, 1.1)))
    assert len(made) == 15 and all(cut.num_features == 80 for cut in made)


@pytest.mark.parametrize("damage", ["repeated", "missing", "other text", "extra"])
def test_splits_that_are_not_the_manifests_are_refused(source: manifests.Paths, tmp_path: Path, damage: str) -> None:
    paths, config = manifests.Paths(tmp_path / "fbank"), features.FeatureConfig(speed_factors=(0.9,))
    features.compute_split(config, source, features.Job(paths, PART, 1, 1))
    (path,) = (tmp_path / "fbank").rglob("cuts-1-of-1-*")
    cuts = list(load_manifest(path))
    if damage == "other text":
        cuts[3] = cuts[3].map_supervisions(lambda each: each.transform_text(str.lower))
    changed = {"repeated": [*cuts[:4], *cuts[3:]], "missing": cuts[:-1], "extra": [*cuts, cuts[0]]}.get(damage, cuts)
    CutSet.from_cuts(changed).to_file(path)
    with pytest.raises(UserError, match=r"librispeech_feats_dev-clean-2 has (no )?features of 1-7-000\d"):
        features.combine(config, source, paths, PART, 1)
    assert not paths.cuts(PART).exists()


def test_finished_cuts_of_another_configuration_are_refused(source: manifests.Paths, tmp_path: Path) -> None:
    compute(source, tmp_path / "fbank", 1, features.FeatureConfig(speed_factors=(0.9, 1.1)))
    paths, other = manifests.Paths(tmp_path / "fbank"), features.FeatureConfig()
    message = r'dev-clean-2.jsonl.gz was made with .*"speed_factors": \[0.9, 1.1\]., not with .*\[\]'
    with pytest.raises(UserError, match=message):
        features.compute_split(other, source, features.Job(paths, PART, 1, 1))
    with pytest.raises(UserError, match=message):
        features.combine(other, source, paths, PART, 1)
    (tmp_path / "fbank" / f"librispeech_feats_{PART}" / "config.json").unlink()  # as in icefall
    assert len(compute(source, tmp_path / "fbank", 1, other)) == 15


def test_finished_cuts_of_other_utterances_are_refused(source: manifests.Paths, tmp_path: Path) -> None:
    """A text is corrected and the manifests are made again; moved audio is accepted."""
    compute(source, tmp_path / "fbank", 1, features.FeatureConfig())
    (tmp_path / "LibriSpeech").rename(tmp_path / "moved")
    transcript = next((tmp_path / "moved").rglob("*.trans.txt"))
    librispeech.prepare(tmp_path / "moved", [PART], tmp_path / "same")
    transcript.write_text(transcript.read_text().rstrip() + " CORRECTED\n")
    librispeech.prepare(tmp_path / "moved", [PART], tmp_path / "newer")
    assert len(compute(manifests.Paths(tmp_path / "same"), tmp_path / "fbank", 1, features.FeatureConfig())) == 5
    with pytest.raises(UserError, match=r"was made from other utterances than .*newer/.*supervisions.* or remove "):
        compute(manifests.Paths(tmp_path / "newer"), tmp_path / "fbank", 1, features.FeatureConfig())


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9])
def test_truncated_audio_is_named_and_leaves_nothing(source: manifests.Paths, tmp_path: Path, keep: float) -> None:
    audio = next((tmp_path / "LibriSpeech").rglob("1-7-0003.flac"))
    whole = audio.read_bytes()
    audio.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(UserError, match="1-7-0003.flac: the audio of 1-7-0003 is truncated or unreadable"):
        compute(source, tmp_path / "fbank", 1, features.FeatureConfig())
    assert not [path for path in (tmp_path / "fbank").rglob("*") if path.is_file()]


def test_audio_of_another_length_is_named(source: manifests.Paths, tmp_path: Path) -> None:
    one, other = (next((tmp_path / "LibriSpeech").rglob(f"1-7-000{index}.flac")) for index in (2, 3))
    one.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="1-7-0002.flac: the audio of 1-7-0002 is truncated or unreadable"):
        compute(source, tmp_path / "fbank", 1, features.FeatureConfig())


def test_a_tenth_of_a_second_that_is_missing_is_not_made_up(source: manifests.Paths, tmp_path: Path) -> None:
    path = next((tmp_path / "LibriSpeech").rglob("1-7-0002.flac"))
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[:-1600], rate)
    with pytest.raises(UserError, match="1-7-0002.flac: the audio of 1-7-0002 is truncated or unreadable"):
        compute(source, tmp_path / "fbank", 1, features.FeatureConfig(speed_factors=(0.9, 1.1)))


def test_no_channel_of_several_is_taken(source: manifests.Paths, tmp_path: Path) -> None:
    path = next((tmp_path / "LibriSpeech").rglob("1-7-0002.flac"))
    samples, rate = soundfile.read(path)
    soundfile.write(path, np.stack([samples, samples], axis=1), rate)
    recordings = load_manifest(source.recordings(PART))
    stereo = [audio.recording(path, each.id) if each.id == "1-7-0002" else each for each in recordings]
    RecordingSet.from_recordings(stereo).to_file(source.recordings(PART))
    made = compute(source, tmp_path / "said", 1, features.FeatureConfig())
    assert made[2].channel == 0 and made[2].num_features == 80
    both = CutSet.from_cuts([MultiCut("a", 0, made[2].duration, [0, 1], made[2].supervisions, recording=stereo[2])])
    with pytest.MonkeyPatch.context() as patch:  # manifests.read returns no such cut
        patch.setattr(manifests, "read", lambda *_: both)
        with pytest.raises(UserError, match="1-7-0002.flac: a has 2 channels; mix the channels"):
            compute(source, tmp_path / "both", 1, features.FeatureConfig())


def give(source: manifests.Paths, path: Path) -> None:
    """The recording in a file in the place of one of the corpus."""
    recordings = load_manifest(source.recordings(PART))
    changed = [audio.recording(path, each.id) if each.id == "1-7-0002" else each for each in recordings]
    RecordingSet.from_recordings(changed).to_file(source.recordings(PART))
    duration = {each.id: each.duration for each in changed}
    supervisions = [replace(each, duration=duration[each.recording_id])
                    for each in load_manifest(source.supervisions(PART))]  # fmt: skip
    SupervisionSet.from_segments(supervisions).to_file(source.supervisions(PART))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "has samples that are not finite"),
        (float("inf"), "has samples that are not finite"),
        (1e300, "has samples that are not finite"),
        (
            -9000.0,
            "has samples of up to 9000, but full scale is 1: integers were written as floats; write it again",
        ),
    ],
)
def test_samples_that_are_no_parts_of_full_scale_are_named(
    source: manifests.Paths, tmp_path: Path, value: float, message: str
) -> None:
    """Values beyond float32 become infinite when they are read."""
    path = tmp_path / "broken.wav"
    samples = np.zeros(16000)
    samples[500] = value
    soundfile.write(path, samples, 16000, subtype="DOUBLE")
    give(source, path)
    with pytest.raises(UserError, match=f"broken.wav: the audio of 1-7-0002.* {message}"):
        compute(source, tmp_path / "fbank", 1, features.FeatureConfig())


@pytest.mark.parametrize(("name", "rate"), [("MP3", 44100), ("MP3", 16000), ("OGG", 48000), ("WAV", 22050)])
def test_compressed_audio_of_any_rate_has_the_features_of_its_time(
    source: manifests.Paths, tmp_path: Path, name: str, rate: int
) -> None:
    """Resampled and at other speeds; decoders have been off by a frame of theirs."""
    if name not in soundfile.available_formats():
        pytest.skip(f"this libsndfile does not write {name}")
    path = tmp_path / f"a.{name.lower()}"
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=int(1.2345 * rate)), rate, format=name)
    give(source, path)
    made = compute(source, tmp_path / "fbank", 1, features.FeatureConfig(speed_factors=(0.9, 1.1)))
    for cut, factor in zip(made[6:9], (1.0, 0.9, 1.1)):
        assert cut.id.startswith("1-7-0002") and cut.duration == pytest.approx(1.2345 / factor, abs=1e-3)
        assert len(cut.load_features()) == pytest.approx(123.45 / factor, abs=1)


def test_silence_has_features_that_are_numbers(source: manifests.Paths, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    give(source, tmp_path / "a.wav")
    silent = compute(source, tmp_path / "fbank", 1, features.FeatureConfig())[2].load_features()
    assert silent.shape == (100, 80) and np.ptp(silent) < 0.1 and -30 < silent.min() < -10


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


def test_a_speed_of_1_adds_no_copies() -> None:
    """As users of Kaldi and ESPnet write it: 0.9 1.0 1.1."""
    assert features.FeatureConfig(speed_factors=(0.9, 1.0, 1.1)) == features.FeatureConfig(speed_factors=(0.9, 1.1))
    for factors in ((0.9, 0.9), (0.0,), (float("nan"),), (3.0,)):
        with pytest.raises(UserError, match="speed_factors must"):
            features.FeatureConfig(speed_factors=factors)
