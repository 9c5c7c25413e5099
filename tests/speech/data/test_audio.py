"""Audio files: truncated ones are refused, those written to a pipe are not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import UserError
from pruning.speech.data import audio, containers


def wav(announced: int = 32000, held: int = 32000, chunk: bytes = b"") -> bytes:
    """Return one second of 16-bit audio whose header announces ``announced`` bytes, with ``held`` bytes of data."""
    stream = io.BytesIO()
    soundfile.write(stream, np.full(16000, 0.1), 16000, format="WAV", subtype="PCM_16")
    content = stream.getvalue()
    start = content.index(b"data")
    sound = content[start + 8 : start + 8 + held]
    return content[:start] + chunk + b"data" + announced.to_bytes(4, "little") + sound


FORMATS = {"WAV": "PCM_16", "RF64": "PCM_16", "W64": "PCM_24", "AIFF": "PCM_16", "AU": "PCM_16", "CAF": "PCM_16",
           "OGG": "VORBIS", "OGG ": "OPUS", "WAV ": "FLOAT", "WAVEX": "PCM_16", "MP3": "MPEG_LAYER_III"}  # fmt: skip


def written(name: str, frames: int = 32000) -> bytes:
    """Return noise in a format, written by soundfile."""
    container, subtype = name.strip(), FORMATS[name]
    if container not in soundfile.available_formats():
        pytest.skip(f"this libsndfile does not write {container}")
    stream = io.BytesIO()
    noise = np.random.default_rng(0).normal(scale=0.1, size=frames).clip(-1, 1)
    soundfile.write(stream, noise, 16000, format=container, subtype=subtype)
    return stream.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_whole_has_no_fault(name: str) -> None:
    for frames in (1600, 32000, 32001):
        assert containers.fault(io.BytesIO(written(name, frames))) is None


@pytest.mark.parametrize("name", FORMATS)
@given(share=st.floats(0.05, 0.98))
def test_what_is_cut_short_is_refused(name: str, share: float) -> None:
    """Or soundfile itself refuses it, so that it never becomes a shorter recording."""
    content = written(name)
    part = content[: int(share * len(content))]
    if containers.fault(io.BytesIO(part)) is not None:
        return
    try:
        frames = len(soundfile.read(io.BytesIO(part))[0])
    except (RuntimeError, OSError):
        return
    assert frames >= 32000, "only data after the audio is missing"


@given(named=st.integers(2, 31000).map(lambda half: 2 * (half // 2)))
def test_a_header_that_names_too_little_is_refused(named: int) -> None:
    fault = containers.fault(io.BytesIO(wav(announced=named)))
    assert fault is not None and fault.startswith(f"has a header for {named} bytes of audio, but {32000 - named} more")
    tagged = wav() + b"TAG" + bytes(125)
    assert containers.fault(io.BytesIO(tagged)) is None
    assert containers.fault(io.BytesIO(wav() + b"LIST" + (4).to_bytes(4, "little") + b"abcd")) is None


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (wav(), 0),
        (wav(held=31998), 2),
        (wav(held=0), 32000),
        (wav(chunk=b"LIST\x03\0\0\0abc\0"), 0),
        (wav(held=100, chunk=b"LIST\x03\0\0\0abc\0"), 31900),
        (wav(announced=0), 0),
        (wav(announced=0x7FFFF000), 0),
        (wav(announced=0x7FFFFFFF), 0),
        (wav(announced=0xFFFFFFFF), 0),
        (wav()[:20], 0),
        (b"fLaC" + bytes(100), 0),
        (b"", 0),
    ],
)
def test_missing_bytes(content: bytes, missing: int) -> None:
    wanted = f"is truncated: {missing} bytes are missing" if missing else None
    assert containers.fault(io.BytesIO(content)) == wanted


def test_recordings(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for announced in (32000, 0x7FFFF000, 0xFFFFFFFF):
        path.write_bytes(wav(announced))
        recording = audio.recording(path, "name")
        assert (recording.id, recording.num_samples, recording.duration) == ("name", 16000, 1.0)
    for content, message in (
        (wav(held=100), "a.wav of name is truncated: 31900 bytes are missing; restore the file"),
        (wav(0, 0), "a.wav of name contains no audio"),
        (b"RIFF", "a.wav of name cannot be read as audio"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            audio.recording(path, "name")
