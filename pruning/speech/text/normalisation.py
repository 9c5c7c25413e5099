"""The one form in which transcripts, hypotheses and sentences are read, so that equal texts are equal strings."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

_SEPARATORS = (0x200B, 0x200C, 0x2060, 0xFEFF)
"""Invisible ones that Python takes for parts of words, and word pieces for spaces."""
_MARKS = (0x00AD, 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Soft hyphen, and marks of the direction of writing: hints to typesetters."""


_LAST = 0x3000
"""The last character that Python takes for a space; control characters come before it, too."""


def _rewritten() -> Iterator[tuple[int, str]]:
    for code in {*range(_LAST + 1), *_SEPARATORS, *_MARKS}:
        character = chr(code)
        if character.isspace() or code in _SEPARATORS:
            yield code, " "
        elif code in _MARKS or unicodedata.category(character) == "Cc":
            yield code, ""


_REWRITTEN = dict(_rewritten())


def normalised(text: str) -> str:
    """``text`` in NFC (Unicode Standard Annex 15): accents and jamo joined to their letters. Every character that
    separates words is a space; control characters and others that neither are seen nor separate anything are left out.

    Word pieces take some of these for spaces, leave some out, and learn the others as letters, unlike Python, which
    divides texts into words.
    """
    return unicodedata.normalize("NFC", text.translate(_REWRITTEN))  # in this order: an accent may follow what goes
