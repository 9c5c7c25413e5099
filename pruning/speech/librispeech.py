"""LibriSpeech's directory layout: which parts are there, what is wrong with them, and their manifests."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pruning import files
from pruning.errors import UserError
from pruning.speech import audio, manifests

if TYPE_CHECKING:
    from lhotse import Recording, RecordingSet, SupervisionSet

_GET_CORPUS = "run the download stage or give another --corpus-dir"
_REMEDY = "restore the file from the corpus"


def present_parts(corpus_dir: Path) -> list[str]:
    """Names of the parts (train-clean-5, ...) whose directories ``corpus_dir`` holds."""
    if not corpus_dir.is_dir():
        return []
    return sorted(path.name for path in corpus_dir.iterdir() if path.is_dir() and not path.name.startswith("."))


def check_parts(corpus_dir: Path, parts: Sequence[str]) -> None:
    """Check that ``corpus_dir`` holds transcripts of all ``parts``.

    Raises:
        UserError: the directory is missing or empty, or has no such part.
    """
    if not corpus_dir.is_dir():
        raise UserError(f"the corpus directory {corpus_dir} does not exist", _GET_CORPUS)
    present = present_parts(corpus_dir)
    if not present:
        raise UserError(f"the corpus directory {corpus_dir} is empty", _GET_CORPUS)
    for part in parts:
        if part not in present:
            raise UserError(f"{corpus_dir} has no part {part}", f"download it, or choose from {', '.join(present)}")
        if next((corpus_dir / part).rglob("*.trans.txt"), None) is None:
            raise UserError(f"{corpus_dir / part} has no transcripts (*.trans.txt)", "download the part again")


def read(part_dir: Path, num_jobs: int = 4) -> tuple[RecordingSet, SupervisionSet]:
    """Read a part, after checking that transcripts and audio belong together. (lhotse passes over what is missing.)

    Returns:
        recordings and supervisions, with speakers, as lhotse's own reader makes them.

    Raises:
        UserError: naming the first utterance without audio, without transcript or with an empty one, the transcript
            that is not UTF-8, or the first audio file that cannot be opened or has several channels.
    """
    from lhotse import RecordingSet, SupervisionSegment, SupervisionSet

    texts: dict[str, str] = {}
    audio_of: dict[str, Path] = {}
    for transcript in sorted(part_dir.rglob("*.trans.txt")):
        expected = {path.stem: path for path in transcript.parent.glob("*.flac")}
        for identifier, text in _transcribed(transcript):
            path = expected.pop(identifier, None)
            if path is None:
                raise UserError(f"{transcript.parent / identifier}.flac of {transcript.name} does not exist", _REMEDY)
            if identifier in texts:
                raise UserError(f"{transcript}: {identifier} occurs in {audio_of[identifier].parent} too", _REMEDY)
            texts[identifier], audio_of[identifier] = text, path
        if expected:
            raise UserError(f"{min(expected.values())} has no line in {transcript.name}", "add its transcript")
    stray = {path.parent for path in part_dir.rglob("*.flac")} - {path.parent for path in audio_of.values()}
    if stray:
        raise UserError(f"{min(stray)} has audio but no *.trans.txt", _REMEDY)
    with ThreadPoolExecutor(num_jobs) as executor:
        recordings = list(executor.map(_recording, audio_of.values()))
    supervisions = [
        SupervisionSegment(
            id=each.id,
            recording_id=each.id,
            start=0.0,
            duration=each.duration,
            channel=0,
            language="English",
            speaker=each.id.split("-")[0],
            text=texts[each.id],
        )
        for each in recordings
    ]
    return RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(supervisions)


def _transcribed(transcript: Path) -> Iterator[tuple[str, str]]:
    """Identifiers of a transcript file with their words."""
    seen = set()
    for number, line in enumerate(files.read_lines(transcript), 1):
        fields = line.split(maxsplit=1)
        if len(fields) < 2:
            what = f"the transcript of {fields[0]}" if fields else f"line {number}"
            raise UserError(f"{transcript}: {what} is empty", "add its words, or remove the line and the audio")
        if fields[0] in seen:
            raise UserError(f"{transcript}: {fields[0]} occurs twice", "remove one of its lines")
        seen.add(fields[0])
        yield fields[0], fields[1].strip()


def _recording(path: Path) -> Recording:
    found = audio.recording(path, path.stem)
    if found.num_channels > 1:
        raise UserError(f"{path} has {found.num_channels} channels", audio.CHOOSE_CHANNEL)
    return found


def prepare(corpus_dir: Path, parts: Sequence[str], output_dir: Path, num_jobs: int = 4) -> None:
    """Write recordings and supervisions manifests of ``parts``; parts that are done are skipped.

    Raises:
        UserError: see ``check_parts``, ``read`` and ``manifests.validate``.
    """
    paths = manifests.Paths(output_dir)
    check_parts(corpus_dir, parts)
    for part in parts:
        if paths.recordings(part).is_file() and paths.supervisions(part).is_file():
            logging.info("%s: manifests are there already", part)
            continue
        recordings, supervisions = read(corpus_dir / part, num_jobs)
        manifests.write(recordings, supervisions, paths, part)
        logging.info("%s: %d utterances", part, len(supervisions))
