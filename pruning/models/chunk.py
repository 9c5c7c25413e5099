"""The context that a causal encoder sees. Does not import torch."""

from __future__ import annotations

from typing import NamedTuple


class Chunk(NamedTuple):
    """Context that a causal network sees, in frames of the front end (50 a second).

    Attributes:
        size: frames of a chunk, to all of which each of them attends; 0: the whole utterance.
        left: earlier frames that are attended to, a multiple of ``size``; 0: all.
    """

    size: int = 0
    left: int = 0

    def in_whole_chunks(self) -> Chunk:
        """Return the same with a left context of whole chunks, rounded down to at least one, as in icefall's training.

        A whole utterance and all earlier frames stay what they are.
        """
        if not self.size or not self.left:
            return self
        return self._replace(left=max(1, self.left // self.size) * self.size)


WHOLE = Chunk()
FRAME_MS = 20
"""Milliseconds of a frame of the front end."""
