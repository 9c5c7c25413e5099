"""Kaldi data directories (wav.scp, text, utt2spk, optionally segments) as lhotse manifests, checked line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning import files
from pruning.errors import UserError

if TYPE_CHECKING:
    from lhotse import RecordingSet, SupervisionSet


def read_table(path: Path, value_may_be_empty: bool = False) -> dict[str, str]:
    """A Kaldi table: key, white space, value, one a line.

    Raises:
        UserError: the file is missing, a key occurs twice, or a value is empty.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist", "a Kaldi data directory holds wav.scp, text and utt2spk")
    table: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split(maxsplit=1)
        if not fields or (len(fields) < 2 and not value_may_be_empty):
            what = f"{path}: {fields[0]} has no value" if fields else f"{path}: line {number} is empty"
            raise UserError(what, "complete or remove the line")
        if fields[0] in table:
            raise UserError(f"{path}: {fields[0]} occurs twice (line {number})", "remove one of the lines")
        table[fields[0]] = fields[1].strip() if len(fields) == 2 else ""
    if not table:
        raise UserError(f"{path} is empty", "a Kaldi data directory holds wav.scp, text and utt2spk")
    return table


def read(directory: Path, audio_dir: Optional[Path] = None) -> tuple[RecordingSet, SupervisionSet]:
    """Read a Kaldi data directory.

    Args:
        directory: holds ``wav.scp`` (plain paths, also relative to the working directory; or commands ending in a
            pipe), ``text``, ``utt2spk`` and, where recordings hold several utterances, ``segments``.
        audio_dir: where NIST SPHERE files are converted to, because lhotse would need an external program for them;
            None: refuse them.

    Returns:
        recordings and supervisions, the latter with speakers.

    Raises:
        UserError: naming the file and the line's key: audio that is missing or unreadable, utterances without
            transcript, speaker or recording, transcripts or recordings without utterance.
    """
    from lhotse import RecordingSet, SupervisionSegment, SupervisionSet

    audio = read_table(directory / "wav.scp")
    texts = read_table(directory / "text", value_may_be_empty=True)
    speakers = read_table(directory / "utt2spk")
    recordings = {key: _recording(directory, key, value, audio_dir) for key, value in audio.items()}
    segments = list(_segments(directory, recordings))
    _check_keys(directory, {segment[0] for segment in segments}, texts, speakers)
    supervisions = [
        SupervisionSegment(
            id=utterance,
            recording_id=recording,
            start=start,
            duration=round(end - start, 8),
            channel=recordings[recording].channel_ids[0],
            text=texts[utterance],
            speaker=speakers[utterance],
        )
        for utterance, recording, start, end in segments
    ]
    return RecordingSet.from_recordings(recordings.values()), SupervisionSet.from_segments(supervisions)


def _segments(directory: Path, recordings: dict[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    """Utterance, recording, start and end (s): of ``segments``, or the recordings themselves where it is absent."""
    path = directory / "segments"
    if not path.is_file():
        for key, recording in recordings.items():
            yield key, key, 0.0, recording.duration
        return
    for utterance, value in read_table(path).items():
        fields = value.split()
        try:
            recording, start, end = fields[0], float(fields[1]), float(fields[2])
        except (IndexError, ValueError):
            what = f"{path}: the line of {utterance} is not `utterance recording start end`"
            raise UserError(what, "correct it") from None
        if recording not in recordings:
            raise UserError(f"{path}: {utterance} refers to {recording}, which wav.scp has not", "add or remove it")
        if end < 0:  # Kaldi: to the end of the recording
            end = recordings[recording].duration
        if not 0 <= start < end:
            raise UserError(f"{path}: {utterance} lasts from {start} to {end} s", "correct its times")
        yield utterance, recording, start, min(end, recordings[recording].duration)


def _check_keys(directory: Path, utterances: set[str], texts: dict[str, str], speakers: dict[str, str]) -> None:
    for name, table in (("text", texts), ("utt2spk", speakers)):
        if utterances - set(table):
            what = f"{directory / name} has no line for {min(utterances - set(table))}"
            raise UserError(what, "add it, or remove the utterance (utils/fix_data_dir.sh)")
        if set(table) - utterances:
            what = f"{directory / name} has a line for {min(set(table) - utterances)}, which has no audio"
            raise UserError(what, "add the audio, or remove the line (utils/fix_data_dir.sh)")


def _recording(directory: Path, key: str, value: str, audio_dir: Optional[Path]) -> Any:
    """The recording of one line of wav.scp."""
    if value.endswith("|"):
        return _piped(directory, key, value[:-1].strip())
    from lhotse import Recording

    path = Path(value)
    if not path.is_file():
        raise UserError(f"{directory / 'wav.scp'}: {path} of {key} does not exist", "restore it or correct the path")
    if path.suffix.lower() in (".sph", ".wv1", ".wv2"):
        path = _to_flac(path, key, audio_dir)
    try:
        return Recording.from_file(path, recording_id=key)
    except Exception as error:  # of whichever audio backend lhotse took
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} of {key} cannot be read as audio ({reason})", "restore the file") from None


def _piped(directory: Path, key: str, shell_command: str) -> Any:
    """The recording that a command of wav.scp writes to its standard output; runs it once to learn its length."""
    import io
    import subprocess

    import soundfile
    from lhotse import AudioSource, Recording

    done = subprocess.run(shell_command, shell=True, capture_output=True)  # a shell: that is Kaldi's contract
    try:
        information = soundfile.info(io.BytesIO(done.stdout))
    except (RuntimeError, OSError):
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no audio"]
        what = f"{directory / 'wav.scp'}: the command of {key} gives no audio (status {done.returncode}: {reason[0]})"
        raise UserError(what, "correct the command, or install the program") from None
    channels = list(range(information.channels))
    return Recording(
        id=key,
        sources=[AudioSource(type="command", channels=channels, source=shell_command)],
        sampling_rate=information.samplerate,
        num_samples=information.frames,
        duration=information.frames / information.samplerate,
    )


def _to_flac(path: Path, key: str, audio_dir: Optional[Path]) -> Path:
    """Convert a NIST SPHERE file once."""
    import io

    import soundfile

    if audio_dir is None:
        raise UserError(f"{path} of {key} is a NIST SPHERE file", "give a directory to convert such files to")
    target = audio_dir / f"{key}.flac"
    if target.is_file():
        return target
    try:
        samples, rate = soundfile.read(path, dtype="int16")
    except (RuntimeError, OSError) as error:
        raise UserError(f"{path} of {key} cannot be read as audio ({error})", "restore the file") from None
    announced = _announced_samples(path)
    if len(samples) < announced:  # libsndfile reads what is there and does not complain
        what = f"{path} of {key} is truncated: it has {len(samples)} of {announced} samples"
        raise UserError(what, "restore the file")
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, format="FLAC", subtype="PCM_16")
    with files.atomic_path(target) as temporary:
        temporary.write_bytes(encoded.getvalue())
    return target


def _announced_samples(path: Path) -> int:
    """How many samples (of each channel) the header of a NIST SPHERE file announces; 0 if it does not say."""
    with open(path, "rb") as stream:
        header = stream.read(1024)
    found = re.search(rb"^sample_count -i (\d+)", header, re.MULTILINE)
    return int(found[1]) if found else 0
