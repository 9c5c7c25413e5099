"""Normalise transcripts, hypotheses and sentences to one form, so that equal texts are equal strings."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

_SEPARATORS = (0x200B, 0x200C, 0x2060, 0xFEFF)
"""Invisible separators, which Python takes for parts of words and word pieces for spaces."""
_MARKS = (0x00AD, 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Soft hyphen and direction marks: hints for typesetting."""


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
    """Return ``text`` in NFC (Unicode Standard Annex 15), with each separator as a space.

    Accents and jamo are joined to their letters. Control characters and others that are neither visible nor separate
    anything are removed. Word pieces take some of these characters for spaces, drop some and learn others as letters,
    unlike Python when it splits texts into words.
    """
    return unicodedata.normalize("NFC", text.translate(_REWRITTEN))  # in this order: an accent may follow a removed one
