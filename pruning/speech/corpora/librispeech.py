"""LibriSpeech's directory layout: list its parts, check them, and create their manifests with lhotse."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pruning import files
from pruning.errors import UserError
from pruning.speech.data import manifests

_GET_CORPUS = "run the download stage or give another --corpus-dir"
_REMEDY = "restore the file from the corpus"


def present_parts(corpus_dir: Path) -> list[str]:
    """Return the names of the parts (train-clean-5, ...) that have a directory in ``corpus_dir``."""
    if not corpus_dir.is_dir():
        return []
    return sorted(path.name for path in corpus_dir.iterdir() if path.is_dir() and not path.name.startswith("."))


def check_parts(corpus_dir: Path, parts: Sequence[str]) -> None:
    """Check that ``corpus_dir`` has transcripts for all ``parts``.

    Raises:
        UserError: the directory is missing or empty, or lacks a part.
    """
    if not corpus_dir.is_dir():
        raise UserError(f"corpus directory {corpus_dir} does not exist", _GET_CORPUS)
    present = present_parts(corpus_dir)
    if not present:
        raise UserError(f"corpus directory {corpus_dir} is empty", _GET_CORPUS)
    for part in parts:
        if part not in present:
            raise UserError(f"{corpus_dir} has no part {part}", f"download it or choose from {', '.join(present)}")
        if next((corpus_dir / part).rglob("*.trans.txt"), None) is None:
            linked = next((path for path in (corpus_dir / part).glob("*") if path.is_symlink() and path.is_dir()), None)
            if linked is not None:
                raise UserError(
                    f"{linked} is a link to a directory, which is not followed", "link the whole part, or copy"
                )
            raise UserError(f"{corpus_dir / part} has no transcripts (*.trans.txt)", "download the part again")


def check_utterances(part_dir: Path, num_jobs: int = 4) -> int:
    """Check every utterance of a part: transcripts and audio files match, and the audio can be opened.

    Returns:
        The number of utterances.

    Raises:
        UserError: an utterance has no audio or no transcript, or an audio file cannot be opened; the message names the
            first.
    """
    audio: list[Path] = []
    for transcript in sorted(part_dir.rglob("*.trans.txt")):
        expected = {path.stem: path for path in transcript.parent.glob("*.flac")}
        for identifier in _transcribed(transcript):
            path = expected.pop(identifier, None)
            if path is None:
                raise UserError(f"{transcript.parent / identifier}.flac of {transcript.name} does not exist", _REMEDY)
            audio.append(path)
        if expected:
            raise UserError(f"{min(expected.values())} has no line in {transcript.name}", "add its transcript")
    stray = {path.parent for path in part_dir.rglob("*.flac")} - {path.parent for path in audio}
    if stray:
        raise UserError(f"{min(stray)} has audio but no *.trans.txt", _REMEDY)
    with ThreadPoolExecutor(num_jobs) as executor:
        for _ in executor.map(_check_audio, audio):
            pass
    return len(audio)


def _transcribed(transcript: Path) -> Iterator[str]:
    """Yield the ids in a transcript file and check that each has words."""
    seen = set()
    for number, line in enumerate(files.read_lines(transcript), 1):
        fields = line.split(maxsplit=1)
        if len(fields) < 2:
            what = f"the transcript of {fields[0]}" if fields else f"line {number}"
            raise UserError(f"{transcript}: {what} is empty", "add its words or remove the line and the audio")
        if fields[0] in seen:
            raise UserError(f"{transcript}: {fields[0]} occurs twice", "remove one of its lines")
        seen.add(fields[0])
        yield fields[0]


def _check_audio(path: Path) -> None:
    import soundfile

    try:
        frames = soundfile.info(str(path)).frames
    except (RuntimeError, OSError) as error:  # soundfile's own errors are RuntimeErrors
        raise UserError(f"{path} cannot be read as audio ({error})", _REMEDY) from None
    if frames == 0:
        raise UserError(f"{path} contains no audio", _REMEDY)


def prepare(corpus_dir: Path, parts: Sequence[str], output_dir: Path, num_jobs: int = 4) -> None:
    """Write manifests of recordings and supervisions for ``parts``; parts that are done are skipped.

    Raises:
        UserError: see ``check_parts``, ``check_utterances`` and ``manifests.validate``.
    """
    paths = manifests.Paths(output_dir)
    check_parts(corpus_dir, parts)
    for part in parts:
        if paths.recordings(part).is_file() and paths.supervisions(part).is_file():
            logging.info("%s: manifests already exist", part)
            continue
        manifests.quiet_progress()
        from lhotse.recipes import prepare_librispeech

        count = check_utterances(corpus_dir / part, num_jobs)
        try:
            made = prepare_librispeech(corpus_dir, dataset_parts=[part], output_dir=None, num_jobs=num_jobs)[part]
        except AssertionError as error:  # the files are not where their names say
            what = f"{corpus_dir / part} is not laid out as SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac ({error})"
            raise UserError(what, _REMEDY) from None
        if len(made["recordings"]) != count or len(made["supervisions"]) != count:
            raise UserError(f"lhotse read {len(made['recordings'])} of {count} utterances of {part}", _REMEDY)
        manifests.write(made["recordings"], made["supervisions"], paths, part)
        logging.info("%s: %d utterances", part, count)
