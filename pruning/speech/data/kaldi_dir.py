"""Convert Kaldi data directories (wav.scp, text, utt2spk, optionally segments) to lhotse manifests, with checks."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from pruning import files
from pruning.errors import UserError
from pruning.speech.data import audio as audio_files
from pruning.speech.data import containers

if TYPE_CHECKING:
    from lhotse import RecordingSet, SupervisionSet

_OVERSHOOT = 0.5
"""Seconds by which a segment may end after its recording, as in Kaldi's extract-segments."""

_IN_ARCHIVE = re.compile(r".*\.ark(\.gz)?:[0-9]+(\[.*\])?|ark:.*")
"""Pattern of the wav.scp entries that Kaldi reads from an archive."""
_IN_FLAC = {"PCM_16": ("int16", "PCM_16"), "ULAW": ("int16", "PCM_16"), "ALAW": ("int16", "PCM_16"),
            "PCM_24": ("int32", "PCM_24")}  # fmt: skip
"""Forms of samples that FLAC holds without loss: the type to read them as, and FLAC's form."""
_FLAC_CHANNELS = 8
_CORRECT_COMMAND = "correct the command, install the program, or restore the file"


def read_table(path: Path, value_may_be_empty: bool = False) -> dict[str, str]:
    """Read a Kaldi table of key, white space and value, one per line.

    Raises:
        UserError: the file is missing or not UTF-8, a key occurs twice, or a value is empty.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist", "give a Kaldi data directory with wav.scp, text and utt2spk")
    table: dict[str, str] = {}
    for number, line in enumerate(files.read_lines(path), 1):
        fields = line.split(maxsplit=1)
        if not fields or (len(fields) < 2 and not value_may_be_empty):
            what = f"{path}: {fields[0]} has no value" if fields else f"{path}: line {number} is empty"
            raise UserError(what, "complete or remove the line")
        if fields[0] in table:
            raise UserError(f"{path}: {fields[0]} occurs twice (line {number})", "remove one of the lines")
        table[fields[0]] = fields[1].strip() if len(fields) == 2 else ""
    if not table:
        raise UserError(f"{path} is empty", "give a Kaldi data directory with wav.scp, text and utt2spk")
    return table


def read(directory: Path, audio_dir: Optional[Path] = None) -> tuple[RecordingSet, SupervisionSet]:
    """Read a Kaldi data directory.

    Args:
        directory: Kaldi data directory with ``wav.scp`` (plain paths, which may be relative to the working directory,
            or commands ending in a pipe), ``text``, ``utt2spk`` and, if recordings have several utterances,
            ``segments``, whose optional fifth column is the channel (from 0).
        audio_dir: directory to which NIST SPHERE files are converted, since lhotse would need an external program for
            them, and the output of commands is written, which lhotse would run again for every segment; None: refuse
            the former, and leave the latter to lhotse.

    Returns:
        Recordings and supervisions, the latter with speakers.

    Raises:
        UserError: audio is missing, unreadable or truncated; an utterance has no transcript, speaker or recording,
            lies beyond its recording, or is in a recording of several channels and none is given; a transcript or
            recording has no utterance. The message names the file and the key of the line.
    """
    from lhotse import RecordingSet, SupervisionSegment, SupervisionSet

    audio = read_table(directory / "wav.scp")
    texts = read_table(directory / "text", value_may_be_empty=True)
    speakers = read_table(directory / "utt2spk")
    for utterance, speaker in speakers.items():
        if len(speaker.split()) > 1:
            what = f"{directory / 'utt2spk'}: the line of {utterance} has more than two columns"
            raise UserError(what, "keep the first two columns: cut -d ' ' -f 1,2")
    recordings = {key: _recording(directory, key, value, audio_dir) for key, value in audio.items()}
    segments = list(_segments(directory, recordings))
    _check_keys(directory, {segment.utterance for segment in segments}, texts, speakers)
    supervisions = [
        SupervisionSegment(
            id=segment.utterance,
            recording_id=segment.recording,
            start=segment.start,
            duration=round(segment.end - segment.start, 8),
            channel=segment.channel,
            text=texts[segment.utterance],
            speaker=speakers[segment.utterance],
        )
        for segment in segments
    ]
    return RecordingSet.from_recordings(recordings.values()), SupervisionSet.from_segments(supervisions)


class _Segment(NamedTuple):
    """Place of an utterance; times in seconds."""

    utterance: str
    recording: str
    start: float
    end: float
    channel: int


def _segments(directory: Path, recordings: dict[str, Any]) -> Iterator[_Segment]:
    """Yield the utterances in ``segments``, or the whole recordings if there is no such file."""
    path = directory / "segments"
    if not path.is_file():
        for key, recording in recordings.items():
            yield _Segment(key, key, 0.0, recording.duration, _channel(directory / "wav.scp", key, recording, None))
        return
    for utterance, value in read_table(path).items():
        name, start, end, chosen = _parsed(path, utterance, value)
        if name not in recordings:
            raise UserError(
                f"{path}: {utterance} refers to {name}, which is not in wav.scp",
                "add it to wav.scp or remove the utterance",
            )
        recording = recordings[name]
        if end < 0:  # Kaldi: to the end of the recording
            end = recording.duration
        if not 0 <= start < end:
            raise UserError(f"{path}: {utterance} runs from {start} to {end} s", "correct its times")
        if start >= recording.duration or end > recording.duration + _OVERSHOOT:
            what = f"{path}: {utterance} runs from {start} to {end} s, but {name} lasts {recording.duration} s"
            raise UserError(what, "correct its times or restore the recording")
        channel = _channel(path, utterance, recording, chosen)
        yield _Segment(utterance, name, start, min(end, recording.duration), channel)


def _parsed(path: Path, utterance: str, value: str) -> tuple[str, float, float, Optional[int]]:
    """Return recording, start and end (s), and channel, if given, of a line of ``segments``."""
    try:
        name, start, end, *channels = value.split()
        (channel,) = (int(each) for each in channels or ["-1"])
        return name, float(start), float(end), channel if channels else None
    except ValueError:  # also raised by another number of fields
        what = f"{path}: the line of {utterance} is not `utterance recording start end [channel]`"
        raise UserError(what, "correct the line") from None


def _channel(path: Path, utterance: str, recording: Any, chosen: Optional[int]) -> int:
    """Return the channel of an utterance; ``path`` is the table that error messages name."""
    if chosen is None and recording.num_channels > 1:
        what = f"{path}: {utterance} is in a recording with {recording.num_channels} channels, but no channel is given"
        raise UserError(what, f"add the channel (from 0) as fifth column of segments, or {audio_files.CHOOSE_CHANNEL}")
    if chosen is not None and chosen not in recording.channel_ids:
        what = (
            f"{path}: {utterance} is in channel {chosen} of {recording.id}, which has {recording.num_channels} channels"
        )
        raise UserError(what, "correct the fifth column; channels are counted from 0")
    return recording.channel_ids[0] if chosen is None else chosen


def _check_keys(directory: Path, utterances: set[str], texts: dict[str, str], speakers: dict[str, str]) -> None:
    for name, table in (("text", texts), ("utt2spk", speakers)):
        if utterances - set(table):
            what = f"{directory / name} has no line for {min(utterances - set(table))}"
            raise UserError(what, "add the line or remove the utterance (utils/fix_data_dir.sh)")
        if set(table) - utterances:
            what = f"{directory / name} has a line for {min(set(table) - utterances)}, which has no audio"
            raise UserError(what, "add the audio or remove the line (utils/fix_data_dir.sh)")


def _recording(directory: Path, key: str, value: str, audio_dir: Optional[Path]) -> Any:
    """Return the recording of one line of wav.scp."""
    if value.endswith("|"):
        return _piped(directory, key, value[:-1].strip(), audio_dir)
    if _IN_ARCHIVE.fullmatch(value):
        what = f"{directory / 'wav.scp'}: {key} is in a Kaldi archive ({value}), which is not supported"
        raise UserError(what, f"replace it with a command that uses Kaldi's wav-copy: wav-copy {value} - |")
    path = _found(directory, Path(value))
    if path is None:
        what = f"{directory / 'wav.scp'}: {value} of {key} does not exist"
        where = (
            ""
            if Path(value).is_absolute()
            else f" (searched from here, from {directory} and from the directories above it)"
        )
        raise UserError(what + where, "restore the file or correct the path")
    if path.suffix.lower() in (".sph", ".wv1", ".wv2"):
        path = _to_flac(path, key, audio_dir)
    return audio_files.recording(path, key)


def _found(directory: Path, path: Path) -> Optional[Path]:
    """Find a file of wav.scp; a relative path is searched from the working directory, as in Kaldi, and then from the
    data directory and those above it, as corpora are often shipped.
    """
    for place in (Path(), directory, *directory.resolve().parents[:-1]):
        if (place / path).is_file():
            return place / path
    return None


def _piped(directory: Path, key: str, shell_command: str, audio_dir: Optional[Path]) -> Any:
    """Return the recording that a command of wav.scp writes to standard output: a FLAC file of it in ``audio_dir``, if
    one is given and FLAC can hold its samples, or else the command, which is run once to get its length.
    """
    import io

    import soundfile
    from lhotse import AudioSource, Recording

    target = None if audio_dir is None else _target(audio_dir, key.replace("/", "_"), _of_command(shell_command))
    if target is not None and target.is_file():
        return audio_files.recording(target, key)
    output, reason = _output(directory, key, shell_command)
    what = f"{directory / 'wav.scp'}: the command of {key}"
    try:
        information = soundfile.info(io.BytesIO(output))
    except (RuntimeError, OSError):
        raise UserError(f"{what} writes no audio ({reason})", _CORRECT_COMMAND) from None
    if information.frames == 0:
        raise UserError(f"{what} writes no audio", _CORRECT_COMMAND)
    if target is not None and information.subtype in _IN_FLAC and information.channels <= _FLAC_CHANNELS:
        width, subtype = _IN_FLAC[information.subtype]
        samples, rate = soundfile.read(io.BytesIO(output), dtype=width)
        _write_flac(target, samples, rate, subtype)
        return audio_files.recording(target, key)
    channels = list(range(information.channels))
    return Recording(
        id=key,
        sources=[AudioSource(type="command", channels=channels, source=shell_command)],
        sampling_rate=information.samplerate,
        num_samples=information.frames,
        duration=information.frames / information.samplerate,
    )


def _output(directory: Path, key: str, shell_command: str) -> tuple[bytes, str]:
    """Run a command of wav.scp; return its output, and its last message for errors."""
    import io
    import subprocess

    done = subprocess.run(shell_command, shell=True, capture_output=True)  # with a shell, as Kaldi does
    reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    what = f"{directory / 'wav.scp'}: the command of {key}"
    if done.returncode != 0:  # there may still be audio up to where the program stopped
        raise UserError(f"{what} failed (status {done.returncode}: {reason})", _CORRECT_COMMAND)
    wrong = containers.fault(io.BytesIO(done.stdout))
    if wrong is not None:
        raise UserError(f"{what} writes audio that {wrong} ({reason})", _CORRECT_COMMAND)
    return done.stdout, reason


def _of_command(shell_command: str) -> str:
    """Return a command with size and time of every file that it names, which change when its output may change."""
    try:
        words = shlex.split(shell_command)
    except ValueError:  # quotes that only a shell understands
        words = shell_command.split()
    return " ".join([shell_command, *(_of_file(Path(word)) for word in words if Path(word).is_file())])


def _of_file(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def _target(audio_dir: Path, name: str, identity: str) -> Path:
    """Return the path of converted audio, which changes with the identity of what it is made from."""
    return audio_dir / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.flac"


def _write_flac(target: Path, samples: Any, rate: int, subtype: str) -> None:
    import io

    import soundfile

    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, format="FLAC", subtype=subtype)
    with files.atomic_path(target) as temporary:
        temporary.write_bytes(encoded.getvalue())


def _to_flac(path: Path, key: str, audio_dir: Optional[Path]) -> Path:
    """Convert a NIST SPHERE file once; the name of the target changes with the file and its size and time."""
    import soundfile

    if audio_dir is None:
        raise UserError(f"{path} of {key} is a NIST SPHERE file", "give a directory in which to convert such files")
    target = _target(audio_dir, path.stem, _of_file(path))
    if target.is_file():
        return target
    try:
        samples, rate = soundfile.read(path, dtype="int16")
    except (RuntimeError, OSError) as error:
        raise UserError(f"{path} of {key} cannot be read as audio ({error})", "restore the file") from None
    announced = _announced_samples(path)
    if len(samples) < announced:  # libsndfile silently reads what is there
        what = f"{path} of {key} is truncated: it has only {len(samples)} of {announced} samples"
        raise UserError(what, "restore the file")
    _write_flac(target, samples, rate, "PCM_16")
    return target


def _announced_samples(path: Path) -> int:
    """Return the number of samples per channel in the header of a NIST SPHERE file; 0 if it is not given."""
    with open(path, "rb") as stream:
        header = stream.read(1024)
    found = re.search(rb"^sample_count -i (\d+)", header, re.MULTILINE)
    return int(found[1]) if found else 0
