"""Audio files as lhotse recordings, refused where they are shorter than their headers say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pruning.errors import UserError

if TYPE_CHECKING:
    from lhotse import Recording

CHOOSE_CHANNEL = "mix it to one (sox IN OUT remix -), or choose one (sox IN OUT remix 1)"
"""The remedy for a recording of several channels where one is needed."""
NOT_FINITE = ("has samples that are not finite numbers", "write it anew, as 16-bit samples say")
"""What is wrong, and the remedy, where samples in floating point are NaN, infinite or beyond float32."""
_STREAMED = 0x7FFFF000
"""Sizes from here on are written by programs that cannot know the length, e.g. sox and ffmpeg into a pipe."""


def recording(path: Path, identifier: str) -> Recording:
    """The recording in an audio file.

    Args:
        path: the file, in a format that lhotse reads.
        identifier: of the recording.

    Raises:
        UserError: the file cannot be read as audio, holds none, or is a WAV file that was cut short.
    """
    from lhotse import Recording

    try:
        with open(path, "rb") as stream:
            missing = missing_bytes(stream)
        found = Recording.from_file(path, recording_id=identifier)
    except Exception as error:  # of whichever audio backend lhotse took
        what = f"{path} of {identifier} cannot be read as audio ({first_line(error)})"
        raise UserError(what, "restore the file, or convert it to WAV or FLAC") from None
    if missing:
        raise UserError(f"{path} of {identifier} is truncated: {missing} bytes are missing", "restore the file")
    if found.num_samples == 0:
        raise UserError(f"{path} of {identifier} holds no audio", "restore the file")
    return found


def missing_bytes(stream: BinaryIO) -> int:
    """How many bytes of sound a RIFF (WAV) file announces and does not hold; 0 for other formats.

    libsndfile takes what is there and does not complain. A length of 0, or of about 2 or 4 GiB, is what programs write
    that do not know it: such a file is whole.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return 0
    while len(chunk := stream.read(8)) == 8:
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            return 0 if length >= _STREAMED else max(0, length - (size - stream.tell()))
        stream.seek(length + length % 2, os.SEEK_CUR)
    return 0


def first_line(error: Exception) -> str:
    """What an exception says, in a line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
