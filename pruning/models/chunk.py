"""The context that a causal encoder sees. Does not import torch."""

from __future__ import annotations

from typing import NamedTuple


class Chunk(NamedTuple):
    """Context that a causal network sees, in frames of the front end (50 a second).

    Attributes:
        size: frames of a chunk, to all of which each of them attends; 0: the whole utterance.
        left: earlier frames that are attended to, a multiple of ``size`` or rounded down to one; 0: all.
    """

    size: int = 0
    left: int = 0


WHOLE = Chunk()
FRAME_MS = 20
"""Milliseconds of a frame of the front end."""
