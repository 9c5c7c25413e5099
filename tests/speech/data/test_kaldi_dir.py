"""Kaldi data directories: plain paths, segments, commands, SPHERE files, and the message of every inconsistency."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pruning.errors import UserError
from pruning.speech.data import kaldi_dir, manifests


@pytest.fixture()
def directory(tmp_path: Path) -> Path:
    """Return a directory with three recordings of 2 s by two speakers."""
    generator = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
    for index in range(3):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, generator.normal(scale=0.1, size=32000), 16000)
        lines["wav.scp"].append(f"utt{index} {path}")
        lines["text"].append(f"utt{index} WORD{index} AGAIN")
        lines["utt2spk"].append(f"utt{index} spk{index % 2}")
    for name, content in lines.items():
        (tmp_path / name).write_text("\n".join(content) + "\n")
    return tmp_path


def test_plain_paths(directory: Path, tmp_path: Path) -> None:
    recordings, supervisions = kaldi_dir.read(directory)
    assert [(item.id, item.text, item.speaker) for item in supervisions] == [
        ("utt0", "WORD0 AGAIN", "spk0"), ("utt1", "WORD1 AGAIN", "spk1"), ("utt2", "WORD2 AGAIN", "spk0"),
    ]  # fmt: skip
    assert all(item.duration == 2.0 for item in supervisions)
    paths = manifests.Paths(tmp_path / "manifests", "an4")
    manifests.write(recordings, supervisions, paths, "train")
    cuts = list(manifests.read(paths, "train"))
    assert [cut.load_audio().shape for cut in cuts] == [(1, 32000)] * 3


def test_segments_cut_recordings(directory: Path, tmp_path: Path) -> None:
    (directory / "segments").write_text("a utt0 0.5 1.25\nb utt0 1.25 -1\nc utt1 0 2.0\nd utt2 0.0 0.5\n")
    (directory / "text").write_text("a ONE\nb TWO\nc THREE\nd FOUR\n")
    (directory / "utt2spk").write_text("a x\nb x\nc y\nd z\n")
    paths = manifests.Paths(tmp_path / "manifests", "an4")
    manifests.write(*kaldi_dir.read(directory), paths, "train")
    cuts = {cut.id: cut for cut in manifests.read(paths, "train")}
    assert {name: (cut.start, cut.duration) for name, cut in cuts.items()} == {
        "a": (0.5, 0.75), "b": (1.25, 0.75), "c": (0.0, 2.0), "d": (0.0, 0.5),
    }  # fmt: skip
    whole, _ = soundfile.read(directory / "0.wav", dtype="float32")
    assert np.array_equal(cuts["b"].load_audio()[0], whole[20000:])
    assert cuts["b"].supervisions[0].text == "TWO"


def test_commands(directory: Path) -> None:
    lines = (directory / "wav.scp").read_text().splitlines()
    lines[1] = f"utt1 cat {shlex.quote(str(directory / '1.wav'))} |"
    (directory / "wav.scp").write_text("\n".join(lines))
    recordings, _ = kaldi_dir.read(directory)
    expected, _ = soundfile.read(directory / "1.wav", dtype="float32")
    assert np.array_equal(recordings["utt1"].load_audio()[0], expected)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_what_a_command_writes_is_kept(directory: Path, subtype: str) -> None:
    """As a FLAC file, until the command or a file that it names changes; not if FLAC would lose something."""
    path, audio = directory / "a b.wav", directory / "audio"
    samples = np.random.default_rng(1).normal(scale=0.1, size=32000)
    command = f"echo >> {directory}/count; cat {shlex.quote(str(path))}"
    (directory / "wav.scp").write_text(f"call/0 {command} |\n")
    (directory / "segments").write_text("utt0 call/0 0.5 1.25\nutt1 call/0 1.25 -1\nutt2 call/0 0 2\n")
    for gain, runs in ((1.0, 1), (1.0, 1), (0.5, 2)):
        if gain < 1 or not path.exists():
            soundfile.write(path, gain * samples, 16000, subtype=subtype)
        (recording,), _ = kaldi_dir.read(directory, audio)
        expected, _ = soundfile.read(path, dtype="float32")
        if subtype != "FLOAT":
            assert (directory / "count").read_text().count("\n") == runs
            assert recording.sources[0].type == "file" and recording.id == "call/0"
        assert np.array_equal(recording.load_audio()[0], expected)
    assert len(list(audio.glob("*.flac"))) == (0 if subtype == "FLOAT" else 2)


def test_commands_that_fail(directory: Path) -> None:
    (directory / "wav.scp").write_text("utt0 no-such-program file.sph |\n")
    with pytest.raises(UserError, match="wav.scp: the command of utt0 failed .status 127: .*no-such-program"):
        kaldi_dir.read(directory)


def test_sphere_files_are_converted_once(directory: Path, shared_data: Path) -> None:
    sphere = next((shared_data / "an4" / "wav" / "an4test_clstk").rglob("*.sph"))
    (directory / "wav.scp").write_text(f"utt0 {sphere}\n")
    (directory / "text").write_text("utt0 WORD\n")
    (directory / "utt2spk").write_text("utt0 spk0\n")
    with pytest.raises(UserError, match="is a NIST SPHERE file"):
        kaldi_dir.read(directory)
    recordings, _ = kaldi_dir.read(directory, directory / "audio")
    expected, _ = soundfile.read(sphere, dtype="float32")
    assert np.array_equal(recordings["utt0"].load_audio()[0], expected)
    (converted,) = (directory / "audio").iterdir()
    made = converted.stat().st_mtime_ns
    kaldi_dir.read(directory, directory / "audio")
    assert [path.stat().st_mtime_ns for path in (directory / "audio").iterdir()] == [made]


def one_utterance(directory: Path, key: str, audio: object) -> Path:
    """Return a Kaldi directory with one recording that is one utterance."""
    directory.mkdir()
    (directory / "wav.scp").write_text(f"{key} {audio}\n")
    (directory / "text").write_text(f"{key} WORD\n")
    (directory / "utt2spk").write_text(f"{key} spk0\n")
    return directory


def test_sphere_files_of_one_key_are_kept_apart(tmp_path: Path) -> None:
    """The same key in two parts, a key that leads out of the directory, and a changed file."""
    generator = np.random.default_rng(0)
    path = tmp_path / "a.sph"
    for part, key in (("train", "utt0"), ("test", "utt0"), ("dev", "../../utt0")):
        soundfile.write(path, generator.normal(scale=0.1, size=16000), 16000, format="NIST", subtype="PCM_16")
        recordings, _ = kaldi_dir.read(one_utterance(tmp_path / part, key, path), tmp_path / "data/audio")
        expected, _ = soundfile.read(path, dtype="float32")
        assert np.array_equal(recordings[key].load_audio()[0], expected)
    assert len(list((tmp_path / "data/audio").iterdir())) == len(list(tmp_path.rglob("*.flac"))) == 3


def test_of_stereo_the_channel_is_to_be_said(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(scale=0.1, size=(32000, 2))
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    directory = one_utterance(tmp_path / "train", "a", tmp_path / "a.wav")
    with pytest.raises(UserError, match="wav.scp: a is in a recording with 2 channels, .* fifth column .*sox"):
        kaldi_dir.read(directory)
    (directory / "segments").write_text("a a 0 2.0\n")
    with pytest.raises(UserError, match="segments: a is in a recording with 2 channels, .* fifth column"):
        kaldi_dir.read(directory)
    (directory / "segments").write_text("a a 0 2.0 2\n")
    with pytest.raises(UserError, match="segments: a is in channel 2 of a, which has 2"):
        kaldi_dir.read(directory)
    (directory / "segments").write_text("a a 0 2.0 1\n")
    paths = manifests.Paths(tmp_path / "manifests", "an4")
    manifests.write(*kaldi_dir.read(directory), paths, "train")
    (cut,) = manifests.read(paths, "train")
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert cut.id == "a" and np.array_equal(cut.load_audio(), expected.T[1:])
    (directory / "segments").write_text("a a 0 2.0 1\nb a 0.5 1.5 0\n")
    for name in ("text", "utt2spk"):
        (directory / name).write_text("a A\nb B\n")
    manifests.write(*kaldi_dir.read(directory), paths, "both")
    left = {cut.id: cut for cut in manifests.read(paths, "both")}["b"]
    assert np.array_equal(left.load_audio(), expected.T[:1, 8000:24000])


def test_segments_may_overshoot_as_in_kaldi(directory: Path) -> None:
    for name in ("text", "utt2spk"):
        (directory / name).write_text("a A\n")
    (directory / "segments").write_text("a utt0 0.5 2.4\n")
    _, supervisions = kaldi_dir.read(directory)
    assert supervisions["a"].end == 2.0


def test_audio_that_a_command_gives_in_part_is_refused(directory: Path) -> None:
    path = shlex.quote(str(directory / "0.wav"))
    for command, message in (
        (f"cat {path}; echo broken disk >&2; exit 3", "failed .status 3: broken disk"),
        (f"head -c 30000 {path}", "writes audio that is truncated: 34044 bytes are missing"),
        ("echo no sound", "writes no audio"),
    ):
        (directory / "wav.scp").write_text(f"utt0 {command} |\n")
        with pytest.raises(UserError, match=f"wav.scp: the command of utt0 {message}"):
            kaldi_dir.read(directory)


def test_texts_of_other_programs(directory: Path) -> None:
    """A byte order mark and Windows line ends; Unicode line ends within a text; and another encoding."""
    text = directory / "text"
    text.write_text("utt0 WORD0\r\nutt1 A\u2028B\r\nutt2 É\r\n", encoding="utf-8-sig", newline="")
    assert [each.text for each in kaldi_dir.read(directory)[1]] == ["WORD0", "A\u2028B", "É"]
    text.write_text("utt0 WORD0\nutt1 B\nutt2 É\n", encoding="latin-1")
    with pytest.raises(UserError, match="text is not text in UTF-8 .*iconv"):
        kaldi_dir.read(directory)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("text", "utt1 WORD1 AGAIN\n", "", "text has no line for utt1"),
        ("text", "utt2", "utt9", "text has no line for utt2"),
        ("text", "utt0 ", "utt9 X\nutt0 ", "text has a line for utt9, which has no audio"),
        ("utt2spk", "utt1 spk1\n", "", "utt2spk has no line for utt1"),
        ("utt2spk", "utt1 spk1", "utt1", "utt2spk: utt1 has no value"),
        ("utt2spk", "utt1 spk1", "utt1 spk1 male", "utt2spk: the line of utt1 has more than two columns"),
        ("utt2spk", "utt1 spk1", "utt0 spk1", r"utt2spk: utt0 occurs twice \(line 2\)"),
        ("wav.scp", "0.wav", "absent.wav", r"wav.scp: \S+absent.wav of utt0 does not exist"),
        ("wav.scp", "0.wav", "text", r"text of utt0 cannot be read as audio"),
        ("segments", "", "utt0 utt7 0 1\n", "segments: utt0 refers to utt7, which is not in wav.scp"),
        ("segments", "", "utt0 utt0 1.5 1\n", "segments: utt0 runs from 1.5 to 1.0 s"),
        ("segments", "", "utt0 utt0 1.5\n", "segments: the line of utt0 is not"),
        ("segments", "", "utt0 utt0 0 1 left\n", "segments: the line of utt0 is not"),
        ("segments", "", "utt0 utt0 0 1 0 0\n", "segments: the line of utt0 is not"),
        ("segments", "", "utt0 utt0 0 2.6\n", "segments: utt0 runs from 0.0 to 2.6 s, but utt0 lasts 2.0 s"),
        ("segments", "", "utt0 utt0 2.1 2.4\n", "segments: utt0 runs from 2.1 to 2.4 s, but utt0 lasts 2.0 s"),
    ],
)
def test_inconsistencies_are_named(directory: Path, name: str, old: str, new: str, message: str) -> None:
    path = directory / name
    content = path.read_text() if path.exists() else ""
    path.write_text(content.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        kaldi_dir.read(directory)


@pytest.mark.parametrize("value", ["x/wav.ark:123", "wav.ark:123[0:10]", "wav.ark.gz:5", "ark:all.ark"])
def test_archives_of_kaldi_are_refused_with_what_to_do(directory: Path, value: str) -> None:
    (directory / "wav.scp").write_text(f"utt0 {value}\n")
    with pytest.raises(UserError, match="utt0 is in a Kaldi archive .*; replace it with a command .* wav-copy"):
        kaldi_dir.read(directory)


@pytest.mark.parametrize("place", ["data/train", "data", "."])
def test_relative_paths_are_looked_for_from_the_corpus_too(
    directory: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """From the working directory first, as in Kaldi."""
    for name in ("wav.scp", "text", "utt2spk"):
        content = (directory / name).read_text().replace(f"{directory}/", "audio/")
        (directory / place).mkdir(parents=True, exist_ok=True)
        (directory / place / name).write_text(content)
    (directory / "audio").mkdir()
    for path in directory.glob("*.wav"):
        path.rename(directory / "audio" / path.name)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    recordings, _ = kaldi_dir.read(directory / place)
    assert [recording.num_samples for recording in recordings] == [32000] * 3
    (elsewhere / "audio").mkdir()
    for index in range(3):
        soundfile.write(elsewhere / "audio" / f"{index}.wav", np.zeros(1600), 16000)
    recordings, _ = kaldi_dir.read(directory / place)
    assert [recording.num_samples for recording in recordings] == [1600] * 3


def test_missing_tables_are_named(directory: Path) -> None:
    (directory / "utt2spk").unlink()
    with pytest.raises(UserError, match="utt2spk does not exist"):
        kaldi_dir.read(directory)
    (directory / "wav.scp").write_text("")
    with pytest.raises(UserError, match="wav.scp is empty"):
        kaldi_dir.read(directory)


def test_empty_transcripts_are_named(directory: Path) -> None:
    text = directory / "text"
    text.write_text(text.read_text().replace("utt1 WORD1 AGAIN", "utt1"))
    with pytest.raises(UserError, match="train: the transcript of utt1 is empty"):
        manifests.validate(*kaldi_dir.read(directory), "train")
