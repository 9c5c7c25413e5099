"""How the transcripts of a pre-trained decoder begin and end, and which tokens it must not choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.limits import Count, Natural, check_fields


@dataclass(frozen=True)
class TranscriptForm:
    """Tokens around the text of a transcript.

    Attributes:
        vocab_size: number of tokens of the network.
        start: tokens that a transcript begins with, at least one: that of the start, then for Whisper those of the
            language, of the task and of no time stamps.
        end: token behind the last one.
        suppressed: tokens that decoding never chooses.
        suppressed_first: tokens that decoding does not choose as the first one after ``start``.
        before: characters before the text, such as the space that Whisper's transcripts begin with.
    """

    vocab_size: Count
    start: tuple[Natural, ...]
    end: Natural
    suppressed: tuple[Natural, ...] = ()
    suppressed_first: tuple[Natural, ...] = ()
    before: str = ""

    def __post_init__(self) -> None:
        for name in ("start", "suppressed", "suppressed_first"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_fields(self)
        if not self.start:
            raise ValueError("start must have at least one token")
        last = max(*self.start, self.end, *self.suppressed, *self.suppressed_first)
        if last >= self.vocab_size:
            raise ValueError(f"token {last} is not below vocab_size {self.vocab_size}")

    def whole(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens of a text with those around it."""
        return [*self.start, *tokens, self.end]
