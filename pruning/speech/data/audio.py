"""Audio files as lhotse recordings, refused where they are not what their headers say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from pruning.errors import UserError
from pruning.speech.data import containers

if TYPE_CHECKING:
    from lhotse import Recording

CHOOSE_CHANNEL = "mix it to one (sox IN OUT remix -), or choose one (sox IN OUT remix 1)"
"""The remedy for a recording of several channels where one is needed."""
_LOUDEST = 8.0
"""Full scale is 1. Formats that lose something may go a little beyond it; 16-bit numbers as they are go far."""


def fault(peak: float) -> Optional[tuple[str, str]]:
    """What is wrong with samples, and the remedy; None: nothing.

    Args:
        peak: the largest of their absolute values.
    """
    remedy = "write it anew, as 16-bit samples say"
    if not math.isfinite(peak):  # NaN, infinite or beyond float32
        return "has samples that are not finite numbers", remedy
    if peak > _LOUDEST:
        return f"has samples of up to {peak:g}, where full scale is 1: whole numbers were written as floats", remedy
    return None


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
