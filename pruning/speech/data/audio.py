"""Audio files as lhotse recordings; files that do not match their headers are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from pruning.errors import UserError
from pruning.speech.data import containers

if TYPE_CHECKING:
    from lhotse import Recording

CHOOSE_CHANNEL = "mix the channels (sox IN OUT remix -) or choose one (sox IN OUT remix 1)"
"""Remedy for a recording with several channels where one is required."""
_LOUDEST = 8.0
"""Full scale is 1. Lossy formats may exceed it a little; 16-bit integers written as floats exceed it by far."""


def fault(peak: float) -> Optional[tuple[str, str]]:
    """Return what is wrong with samples, and the remedy; None if nothing is.

    Args:
        peak: the largest absolute value of the samples.
    """
    remedy = "write it again, for example as 16-bit samples"
    if not math.isfinite(peak):  # NaN, infinite or beyond float32
        return "has samples that are not finite numbers", remedy
    if peak > _LOUDEST:
        return f"has samples of up to {peak:g}, but full scale is 1: integers were written as floats", remedy
    return None


def recording(path: Path, identifier: str) -> Recording:
    """Return the recording in an audio file.

    Args:
        path: file in a format that lhotse reads.
        identifier: id of the recording.

    Raises:
        UserError: the file cannot be read as audio, has no samples, or its size does not match its header.
    """
    from lhotse import Recording

    try:
        with open(path, "rb") as stream:
            wrong = containers.fault(stream)
        found = Recording.from_file(path, recording_id=identifier)
    except Exception as error:  # raised by any of lhotse's audio backends
        what = f"{path} of {identifier} cannot be read as audio ({first_line(error)})"
        raise UserError(what, "restore the file, or convert it to WAV or FLAC") from None
    if wrong is not None:
        raise UserError(f"{path} of {identifier} {wrong}", "restore the file")
    if found.num_samples == 0:
        raise UserError(f"{path} of {identifier} contains no audio", "restore the file")
    return found


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its class name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
