"""The one form in which transcripts, hypotheses and sentences are read, so that equal texts are equal strings."""

from __future__ import annotations

import unicodedata

_INVISIBLE = dict.fromkeys((0x200B, 0x2060, 0xFEFF), " ")
"""Separators that cannot be seen, which word pieces take for spaces."""


def normalised(text: str) -> str:
    """``text`` in NFC (Unicode Standard Annex 15): accents and jamo joined to their letters; invisible separators as
    spaces.
    """
    return unicodedata.normalize("NFC", text).translate(_INVISIBLE)
