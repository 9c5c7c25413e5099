"""Texts that a network with its own tokens is trained on: transcripts, or what a teacher recognised."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

TRANSCRIPT, EQUAL, TEACHER = LABELS = ("transcript", "equal", "teacher")
"""``transcript``: the transcript, written as a sentence; ``equal``: the teacher's text where its normalised words are
those of the transcript, else the transcript as before; ``teacher``: the teacher's text alone, but none that loops or
has no words."""
_REPETITIVE = 2.4
"""A text that zlib compresses more than this repeats itself (``compression_ratio_threshold`` of openai/whisper)."""
_FIRST_PERSON = re.compile(r"\bi\b(?=$|['\s])")
_ENDED = re.compile(
    r"[.?!\u2026\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964\u0965][\"'\u201d\u2019\u00bb\u300d\u300f)\]]*$"
)
"""A mark that ends a sentence, also of Chinese, Japanese, Arabic and Hindi, and closing quotes behind it."""


@dataclass
class Labelled:
    """Number of texts of each kind.

    Attributes:
        replaced: texts of the teacher.
        kept: transcripts, written as sentences.
        loops, empty: texts of the teacher that were left out.
        long: utterances that were left out because they do not fit the teacher.
    """

    replaced: int = 0
    kept: int = 0
    loops: int = 0
    empty: int = 0
    long: int = 0

    def __str__(self) -> str:
        """The numbers in one line."""
        whole = self.replaced + self.kept
        return (f"{whole} texts: {self.replaced} of the teacher, {self.kept} transcripts; "
                f"left out: {self.loops} that loop, {self.empty} that are empty, "
                f"{self.long} that are longer than the network takes")  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What a teacher recognised in an utterance.

    Attributes:
        text: its words.
        ended: whether the text ended before it had the largest number of tokens.
    """

    text: str
    ended: bool = True

    @property
    def loops(self) -> bool:
        """Whether the text repeats itself."""
        data = self.text.encode()
        return not self.ended or (len(data) > 0 and len(data) / len(zlib.compress(data)) > _REPETITIVE)


@dataclass
class Labeller:
    """Chooses the text of each utterance and counts.

    Attributes:
        labels: one of `LABELS`.
        words_of: splits a text into normalised words, by which the texts of ``equal`` are compared.
        english: whether transcripts are English, in which the pronoun I is a capital.
        counts: number of texts of each kind so far.
    """

    labels: str
    words_of: Callable[[str], list[str]]
    english: bool = True
    counts: Labelled = field(default_factory=Labelled)

    def text(self, transcript: str, said: Said) -> str:
        """Return the text of an utterance; empty: it is left out."""
        if self.labels == TEACHER:
            if said.loops:
                self.counts.loops += 1
                return ""
            if not any(letter.isalnum() for letter in said.text):  # punctuation alone is not a transcript
                self.counts.empty += 1
                return ""
        elif self.labels == TRANSCRIPT or self.words_of(said.text) != self.words_of(transcript):
            self.counts.kept += 1
            return as_sentence(transcript, self.english)
        self.counts.replaced += 1
        return said.text


def as_sentence(transcript: str, english: bool = True) -> str:
    """Return a transcript with a stop at its end and, if all its letters have one case, a capital at its beginning."""
    text = " ".join(transcript.split())
    if text in (text.upper(), text.lower()):
        text = _FIRST_PERSON.sub("I", text.lower()) if english else text.lower()
        text = text[:1].upper() + text[1:]
    return text if _ENDED.search(text) else f"{text}."
