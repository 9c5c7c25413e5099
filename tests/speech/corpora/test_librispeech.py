"""LibriSpeech's layout: manifests of a valid corpus, and errors that name the fault of an invalid one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lhotse import load_manifest

from pruning.errors import UserError
from pruning.speech.corpora import librispeech
from pruning.speech.data import manifests


@pytest.fixture()
def corpus(tmp_path: Path, make_corpus: Callable[..., Path]) -> Path:
    return make_corpus(tmp_path / "LibriSpeech", {"train-clean-5": 5, "dev-clean-2": 3})


def transcript(corpus: Path, part: str = "train-clean-5") -> Path:
    return next((corpus / part).rglob("*.trans.txt"))


def test_manifests_hold_every_utterance_in_order(corpus: Path, tmp_path: Path) -> None:
    librispeech.prepare(corpus, ["train-clean-5", "dev-clean-2"], tmp_path / "manifests")
    supervisions = load_manifest(tmp_path / "manifests" / "librispeech_supervisions_train-clean-5.jsonl.gz")
    lines = transcript(corpus).read_text().splitlines()
    assert [f"{item.id} {item.text}" for item in supervisions] == lines
    assert {item.speaker for item in supervisions} == {"1"}
    cuts = manifests.read(manifests.Paths(tmp_path / "manifests"), "dev-clean-2")
    assert len(cuts) == 3 and all(len(cut.supervisions) == 1 for cut in cuts)


def test_a_finished_part_is_not_prepared_again(corpus: Path, tmp_path: Path) -> None:
    librispeech.prepare(corpus, ["dev-clean-2"], tmp_path / "manifests")
    transcript(corpus, "dev-clean-2").write_text("")
    librispeech.prepare(corpus, ["dev-clean-2"], tmp_path / "manifests")


def test_a_linked_part_is_read_and_linked_speakers_are_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/dev-clean-2").symlink_to(corpus / "dev-clean-2")
    librispeech.prepare(tmp_path / "linked", ["dev-clean-2"], tmp_path / "manifests")
    (tmp_path / "linked/dev-clean").mkdir()
    (tmp_path / "linked/dev-clean/1").symlink_to(next((corpus / "dev-clean-2").iterdir()))
    with pytest.raises(UserError, match="dev-clean/1 is a link to a directory, which is not followed; link the whole"):
        librispeech.prepare(tmp_path / "linked", ["dev-clean"], tmp_path / "manifests")


def damage(corpus: Path, how: str) -> None:
    """Damage train-clean-5 in one way."""
    path = transcript(corpus)
    lines = path.read_text().splitlines()
    if how == "empty transcript":
        lines[2] = lines[2].split()[0]
    elif how == "missing line":
        del lines[2]
    elif how == "blank line":
        lines[2] = ""
    elif how == "double line":
        lines.append(lines[2])
    path.write_text("\n".join(lines) + "\n")
    audio = path.parent / "1-7-0002.flac"
    if how == "missing audio":
        audio.unlink()
    elif how == "empty audio":
        audio.write_bytes(b"")
    elif how == "no audio":
        audio.write_text("this is no audio file\n" * 100)
    elif how == "another layout":
        for directory in list(path.parent.parent.parent.iterdir()):
            (directory / "7").rename(corpus / "train-clean-5" / f"{directory.name}-7")
    elif how == "missing transcript":
        path.unlink()
        other = path.parent.parent / "8"
        other.mkdir()
        (other / "1-8.trans.txt").write_text("")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty transcript", r"1-7\.trans\.txt: the transcript of 1-7-0002 is empty"),
        ("missing line", r"1-7-0002\.flac has no line in 1-7\.trans\.txt"),
        ("blank line", r"1-7\.trans\.txt: line 3 is empty"),
        ("double line", r"1-7\.trans\.txt: 1-7-0002 occurs twice"),
        ("missing audio", r"1-7-0002\.flac of 1-7\.trans\.txt does not exist"),
        ("empty audio", r"1-7-0002\.flac cannot be read as audio"),
        ("no audio", r"1-7-0002\.flac cannot be read as audio"),
        ("missing transcript", r"train-clean-5/1/7 has audio but no \*\.trans\.txt"),
        ("another layout", r"train-clean-5 is not laid out as SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER\.flac"),
    ],
)
def test_a_damaged_part_is_refused_by_name(corpus: Path, tmp_path: Path, how: str, message: str) -> None:
    damage(corpus, how)
    with pytest.raises(UserError, match=message):
        librispeech.prepare(corpus, ["train-clean-5"], tmp_path / "manifests")
    assert not list((tmp_path / "manifests").glob("*"))


def test_missing_and_empty_directories_are_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="corpus directory .*/nowhere does not exist; run the download stage"):
        librispeech.check_parts(tmp_path / "nowhere", ["train-clean-5"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="corpus directory .*/empty is empty"):
        librispeech.check_parts(tmp_path / "empty", ["train-clean-5"])
    with pytest.raises(UserError, match="has no part train-clean-100; .*choose from dev-clean-2, train-clean-5"):
        librispeech.check_parts(corpus, ["train-clean-100"])
    (corpus / "test-clean").mkdir()
    with pytest.raises(UserError, match="test-clean has no transcripts"):
        librispeech.check_parts(corpus, ["test-clean"])


def test_real_recordings(shared_data: Path, tmp_path: Path) -> None:
    corpus = shared_data / "LibriSpeech"
    if not corpus.is_dir():
        pytest.skip(f"no LibriSpeech in {shared_data}")
    librispeech.prepare(corpus, ["train-clean-5"], tmp_path)
    cuts = manifests.read(manifests.Paths(tmp_path), "train-clean-5")
    speakers = {cut.supervisions[0].speaker for cut in cuts}
    assert speakers == {path.name for path in (corpus / "train-clean-5").iterdir()}
    assert len(cuts) == len(list((corpus / "train-clean-5").rglob("*.flac")))
