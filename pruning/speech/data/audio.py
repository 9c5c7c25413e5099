"""Audio files as lhotse recordings, refused where they are not what their headers say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pruning.errors import UserError
from pruning.speech.data import containers

if TYPE_CHECKING:
    from lhotse import Recording

CHOOSE_CHANNEL = "mix it to one (sox IN OUT remix -), or choose one (sox IN OUT remix 1)"
"""The remedy for a recording of several channels where one is needed."""
NOT_FINITE = ("has samples that are not finite numbers", "write it anew, as 16-bit samples say")
"""What is wrong, and the remedy, where samples in floating point are NaN, infinite or beyond float32."""


def recording(path: Path, identifier: str) -> Recording:
    """The recording in an audio file.

    Args:
        path: the file, in a format that lhotse reads.
        identifier: of the recording.

    Raises:
        UserError: the file cannot be read as audio, holds none, or does not hold what its header promises.
    """
    from lhotse import Recording

    try:
        with open(path, "rb") as stream:
            wrong = containers.fault(stream)
        found = Recording.from_file(path, recording_id=identifier)
    except Exception as error:  # of whichever audio backend lhotse took
        what = f"{path} of {identifier} cannot be read as audio ({first_line(error)})"
        raise UserError(what, "restore the file, or convert it to WAV or FLAC") from None
    if wrong is not None:
        raise UserError(f"{path} of {identifier} {wrong}", "restore the file")
    if found.num_samples == 0:
        raise UserError(f"{path} of {identifier} holds no audio", "restore the file")
    return found


def first_line(error: Exception) -> str:
    """What an exception says, in a line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
