"""Manifests: lazy reading, statistics, moved files, and damage reported by file."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet, load_manifest

from pruning.errors import UserError
from pruning.speech.data import contents, manifests, sampler


def cuts_path(data_dir: Path, part: str = "train-a") -> Path:
    return manifests.Paths(data_dir / "fbank").cuts(part)


def unpacked(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()


def test_reading_stops_where_the_reader_stops(data_dir: Path, tmp_path: Path) -> None:
    lines = unpacked(cuts_path(data_dir)).splitlines()
    path = tmp_path / "cuts.jsonl"
    path.write_text("\n".join([*lines[:3], "{broken"]) + "\n")
    iterator = manifests.iterate_cuts(path)
    assert [next(iterator).id for _ in range(3)] == [json.loads(line)["id"] for line in lines[:3]]
    with pytest.raises(UserError, match="cuts.jsonl is not a manifest or is damaged"):
        next(iterator)


@pytest.mark.parametrize("keep", [0.5, 0.98])
def test_a_truncated_manifest_is_named(data_dir: Path, tmp_path: Path, keep: float) -> None:
    whole = cuts_path(data_dir).read_bytes()
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(whole[: int(len(whole) * keep)])
    for read in (lambda: list(manifests.iterate_cuts(path)), lambda: contents.describe(path)):
        with pytest.raises(UserError, match="cuts.jsonl.gz is not a manifest or is damaged"):
            read()
    with pytest.raises(UserError, match="cuts.jsonl.gz is not a manifest or is damaged"):
        manifests.count_lines(path)


def test_missing_manifests_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.jsonl.gz does not exist; run the stage"):
        manifests.check_exists([tmp_path / "nowhere.jsonl.gz"])
    (tmp_path / "empty.jsonl.gz").touch()
    with pytest.raises(UserError, match="empty.jsonl.gz is empty"):
        manifests.check_exists([tmp_path / "empty.jsonl.gz"])
    with pytest.raises(UserError, match="no manifest"):
        manifests.check_exists([])


def test_a_data_directory_that_moved_is_found(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As made by icefall's prepare.sh: paths are relative to the directory that contains ``data``."""
    recipe = tmp_path / "ASR"
    shutil.copytree(data_dir, recipe / "data")
    path = cuts_path(recipe / "data")
    content = unpacked(path).replace(str(data_dir), "data")
    with gzip.open(path, "wt") as stream:
        stream.write(content)
    monkeypatch.chdir(tmp_path)  # not the recipe's directory
    cut = next(manifests.iterate_cuts(path))
    assert cut.load_features().shape == (cut.num_frames, 80)
    assert cut.load_audio().shape[0] == 1
    monkeypatch.chdir(recipe)
    cut = next(manifests.iterate_cuts(path))
    assert cut.features.storage_path.startswith("data/")
    assert cut.load_features().shape == (cut.num_frames, 80)


@pytest.mark.parametrize("link", ["data", "data/fbank"])
def test_a_data_directory_behind_a_link_is_found(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    """Its own features are read, even if the working directory has others with the same name."""
    recipe, disk, other = tmp_path / "ASR", tmp_path / "disk", tmp_path / "other"
    shutil.copytree(data_dir, recipe / "data")
    path = cuts_path(recipe / "data")
    content = unpacked(path).replace(str(data_dir), "data")
    with gzip.open(path, "wt") as stream:
        stream.write(content)
    (recipe / link).rename(disk)
    (recipe / link).symlink_to(disk)
    monkeypatch.chdir(tmp_path)
    cut = next(manifests.iterate_cuts(path))
    assert cut.load_features().shape == (cut.num_frames, 80)
    decoy = other / Path(cut.features.storage_path).relative_to(recipe)
    decoy.parent.mkdir(parents=True)
    decoy.write_bytes(b"no features")
    monkeypatch.chdir(other)
    cut = next(manifests.iterate_cuts(path))
    assert cut.load_features().shape == (cut.num_frames, 80)


def test_manifests_of_another_recipe_are_found(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warm-up of AN4 makes cuts from the manifests of the LibriSpeech recipe and trains on them."""
    corpus = Path(load_manifest(manifests.Paths(data_dir / "manifests").recordings("dev"))[0].sources[0].source)
    corpus = next(parent for parent in corpus.parents if parent.name == "LibriSpeech")
    recipe, other = tmp_path / "librispeech", tmp_path / "an4"
    other.mkdir()
    shutil.copytree(data_dir / "manifests", recipe / "data" / "manifests")
    shutil.copytree(corpus, recipe / "corpus" / "LibriSpeech")
    paths = manifests.Paths(recipe / "data" / "manifests")
    content = unpacked(paths.recordings("dev")).replace(str(corpus), "corpus/LibriSpeech")
    with gzip.open(paths.recordings("dev"), "wt") as stream:
        stream.write(content)
    monkeypatch.chdir(other)
    made = manifests.read(manifests.Paths(Path("../librispeech/data/manifests")), "dev")
    made.to_file(recipe / "data" / "cuts.jsonl.gz")
    for place in (other, tmp_path, recipe):
        monkeypatch.chdir(place)
        cut = next(manifests.iterate_cuts(recipe / "data" / "cuts.jsonl.gz"))
        assert not Path(cut.recording.sources[0].source).is_absolute() or place == tmp_path
        assert cut.load_audio().shape[0] == 1


def load(data_dir: Path) -> tuple[RecordingSet, SupervisionSet]:
    paths = manifests.Paths(data_dir / "manifests")
    return load_manifest(paths.recordings("dev")), load_manifest(paths.supervisions("dev"))


def test_validation_passes_what_was_prepared(data_dir: Path) -> None:
    manifests.validate(*load(data_dir), "dev")


def test_validation_names_the_item(data_dir: Path) -> None:
    recordings, supervisions = load(data_dir)
    first = next(iter(supervisions))
    others = [item for item in supervisions if item.id != first.id]

    def check(message: str, *items: object) -> None:
        with pytest.raises(UserError, match=message):
            manifests.validate(recordings, SupervisionSet.from_segments([*others, *items]), "dev")

    check(f"dev: recording {first.id} has no transcript")
    check(f"dev: the transcript of {first.id} is empty", replace(first, text=" "))
    check(f"dev: the transcript of {first.id} is empty", replace(first, text=None))
    check(f"dev: the transcript of {first.id} is empty", replace(first, text="\u200b\u200e\x01"))
    check(f"dev: recording other of utterance {first.id} is missing", replace(first, recording_id="other"))
    check(f"dev: utterance {first.id} lies at .* which lasts", replace(first, duration=1000.0))
    check(f"dev: utterance {first.id} lies at .* which lasts", replace(first, start=first.duration, duration=0.04))
    check(f"dev: utterance {first.id} lasts 0.0 s", replace(first, duration=0.0))
    check(f"dev: utterance {first.id} lasts -1.0 s", replace(first, start=1.5, duration=-1.0))
    check(f"dev: utterance {first.id} occurs twice", first, replace(first, start=0.5, duration=0.1))
    check(f"dev: utterance {first.id} is in channel 1 of recording {first.id}", replace(first, channel=1))
    check(f"dev: utterance {first.id} is in channel .0. of recording", replace(first, channel=[0]))
    check(f"dev: the transcript of {first.id}, 5, is not a string; put it in quotes", replace(first, text=5))
    check(f"dev: utterance {first.id} lasts nan s, less than one sample", replace(first, duration=float("nan")))
    check(f"dev: utterance {first.id} lasts None s", replace(first, duration=None))
    check(f"dev: utterance {first.id} lasts 1e-07 s, less than one sample", replace(first, duration=1e-7))
    with pytest.raises(UserError, match="dev has no recordings"):
        manifests.validate(RecordingSet.from_recordings([]), supervisions, "dev")
    recording = recordings[first.id]
    for other, message in (
        (recording, f"dev: recording {first.id} occurs twice"),
        (replace(recording, id="b", num_samples=0, duration=0.0), "dev: recording b has 0.0 s, 0 samples at 16000 Hz"),
        (replace(recording, id="b", duration="1.0"), "dev: recording b has .1.0. s, "),
        (replace(recording, id="b", sources=[]), "dev: recording b has no sources"),
    ):
        with pytest.raises(UserError, match=message):
            manifests.validate(RecordingSet.from_recordings([*recordings, other]), supervisions, "dev")


@pytest.mark.parametrize("segments", [[(0.0, 0.04)], [(0.0, -1.0), (0.5, 0.04)]])
def test_utterances_that_end_past_the_recording_are_trimmed(
    data_dir: Path, tmp_path: Path, segments: list[tuple[float, float]]
) -> None:
    """By less than the rounding of segment files; parameters are start and overshoot (s)."""
    recordings, supervisions = load(data_dir)
    first, recording = supervisions[0], recordings[0]
    segments_of = [
        replace(first, id=f"a{index}", start=start, duration=recording.duration + past - start)
        for index, (start, past) in enumerate(segments)
    ]
    paths = manifests.Paths(tmp_path)
    manifests.write(RecordingSet.from_recordings([recording]), SupervisionSet.from_segments(segments_of), paths, "dev")
    cuts = list(manifests.read(paths, "dev"))
    assert [cut.supervisions[0].id for cut in cuts] == [each.id for each in segments_of]
    assert [cut.end for cut in cuts] == [pytest.approx(min(recording.duration, each.end)) for each in segments_of]
    assert all(cut.load_audio().shape[1] == cut.num_samples for cut in cuts)


def recording(directory: Path, name: str, samples: int, rate: int, channels: int) -> Recording:
    path = directory / f"{name}.wav"
    soundfile.write(path, np.random.default_rng(samples).normal(scale=0.1, size=(samples, channels)), rate)
    return Recording.from_file(path, recording_id=name)


@settings(max_examples=25)
@given(data=st.data(), resampled=st.sampled_from([None, 16000]))
def test_no_transcript_is_lost_or_given_to_others(data: st.DataObject, resampled: Optional[int]) -> None:
    """Of utterances that overlap, are of the same time or in other channels, with rounded times, in files of any order:
    each becomes a cut of its own time and channel, with the samples that it promises.
    """
    draw = data.draw
    with tempfile.TemporaryDirectory() as directory:
        paths = manifests.Paths(Path(directory))
        recordings, spoken = [], []
        for name in "ba":
            rate, channels = draw(st.sampled_from([8000, 22050, 44100])), draw(st.integers(1, 2))
            recordings.append(recording(Path(directory), name, draw(st.integers(rate // 2, rate)), rate, channels))
            end, digits = recordings[-1].duration, draw(st.sampled_from([2, 3, 8]))
            for index in range(draw(st.integers(1, 4))):
                start = (
                    draw(st.sampled_from([0.0, 0.1])) * end if draw(st.booleans()) else draw(st.floats(0, end - 0.1))
                )
                stop = end if draw(st.booleans()) else draw(st.floats(start + 0.05, end))
                spoken.append(SupervisionSegment(
                    f"{name}{index}", name, round(start, digits), round(stop - start, digits), text=f"{name} {index}",
                    channel=draw(st.integers(0, channels - 1)),
                ))  # fmt: skip
        RecordingSet.from_recordings(recordings).to_file(paths.recordings("x"))
        SupervisionSet.from_segments(draw(st.permutations(spoken))).to_file(paths.supervisions("x"))
        cuts = {cut.id: cut for cut in manifests.read(paths, "x", resampled)}
        assert sorted(cuts) == sorted(one.id for one in spoken)
        for one in spoken:
            cut = cuts[one.id]
            assert [each.text for each in cut.supervisions] == [one.text] == [sampler.transcript(cut).strip()]
            assert cut.channel == one.channel
            assert cut.start == pytest.approx(one.start, abs=1e-3) and cut.end == pytest.approx(one.end, abs=0.02)
            assert cut.load_audio().shape == (1, cut.num_samples)


@pytest.mark.parametrize("resampled", [None, 16000])
def test_cuts_have_the_ids_of_their_utterances(tmp_path: Path, resampled: Optional[int]) -> None:
    """Also where every recording is one utterance, and where resampling rounds a duration."""
    recordings = [recording(tmp_path, f"r{rate}", samples, rate, 1)
                  for rate, samples in ((16000, 20001), (44100, 44101), (48000, 100001))]  # fmt: skip
    spoken = [SupervisionSegment(f"u-{one.id}", one.id, 0.0, one.duration, text="X") for one in recordings]
    paths = manifests.Paths(tmp_path)
    for count in (1, 3):
        manifests.write(
            RecordingSet.from_recordings(recordings[:count]), SupervisionSet.from_segments(spoken[:count]), paths, "x"
        )
        cuts = list(manifests.read(paths, "x", resampled))
        assert [cut.id for cut in cuts] == [one.id for one in spoken[:count]]
        assert [cut.duration for cut in cuts] == [pytest.approx(one.duration, abs=1e-4) for one in spoken[:count]]
        assert all(cut.start == 0 and cut.load_audio().shape == (1, cut.num_samples) for cut in cuts)


def test_other_manifests_than_cuts_are_named(data_dir: Path) -> None:
    path = manifests.Paths(data_dir / "manifests").supervisions("dev")
    with pytest.raises(UserError, match="dev.jsonl.gz contains SupervisionSegment items, not cuts; give a fi"):
        list(manifests.iterate_cuts(path))


@pytest.mark.parametrize("change", [{"id": 3}, {"duration": "1.0"}, {"duration": 0}, {"duration": float("nan")}])
def test_cuts_without_id_or_duration_are_named(data_dir: Path, tmp_path: Path, change: dict) -> None:
    with gzip.open(manifests.Paths(data_dir / "fbank").cuts("dev")) as stream:
        rows = [json.loads(line) for line in stream]
    rows[2].update(change)
    path = tmp_path / "x_cuts_dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        UserError, match=f"x_cuts_dev.jsonl: cut {rows[2]['id']!r} has an invalid id or duration .*, or remove it"
    ):
        list(manifests.iterate_cuts(path))


def test_a_transcript_that_is_no_text_is_named(data_dir: Path) -> None:
    cut = next(manifests.iterate_cuts(manifests.Paths(data_dir / "fbank").cuts("dev")))
    cut.supervisions[0].text = 5
    with pytest.raises(UserError, match=f"the transcript of cut {cut.id}, 5, is not a string"):
        sampler.transcript(cut)


def test_manifests_of_another_format_are_named(data_dir: Path, tmp_path: Path) -> None:
    """As ``cuts_*.json.gz`` of early icefall."""
    load_manifest(cuts_path(data_dir)).to_file(tmp_path / "cuts_dev.json.gz")
    with pytest.raises(UserError, match=r"cuts_dev\.json\.gz is not in JSON Lines format; convert it: lhotse copy"):
        next(manifests.iterate_cuts(tmp_path / "cuts_dev.json.gz"))


def test_validation_finds_absent_audio(data_dir: Path) -> None:
    recordings, supervisions = load(data_dir)
    next(iter(recordings)).sources[0].source = "/absent.flac"
    with pytest.raises(UserError, match=r"dev: /absent.flac of recording \S+ does not exist"):
        manifests.validate(recordings, supervisions, "dev")
