"""Audio files: what is cut short is refused, what a pipe wrote is not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pruning.errors import UserError
from pruning.speech.data import audio


def wav(announced: int = 32000, held: int = 32000, chunk: bytes = b"") -> bytes:
    """One second of 16 bits, whose header announces so many bytes of which so many are there."""
    stream = io.BytesIO()
    soundfile.write(stream, np.full(16000, 0.1), 16000, format="WAV", subtype="PCM_16")
    content = stream.getvalue()
    start = content.index(b"data")
    sound = content[start + 8 : start + 8 + held]
    return content[:start] + chunk + b"data" + announced.to_bytes(4, "little") + sound


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
    assert audio.missing_bytes(io.BytesIO(content)) == missing


def test_recordings(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for announced in (32000, 0x7FFFF000, 0xFFFFFFFF):
        path.write_bytes(wav(announced))
        recording = audio.recording(path, "name")
        assert (recording.id, recording.num_samples, recording.duration) == ("name", 16000, 1.0)
    for content, message in (
        (wav(held=100), "a.wav of name is truncated: 31900 bytes are missing; restore the file"),
        (wav(0, 0), "a.wav of name holds no audio"),
        (b"RIFF", "a.wav of name cannot be read as audio"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            audio.recording(path, "name")
