"""Normalise transcripts, hypotheses and sentences to one form, so that equal texts are equal strings."""

from __future__ import annotations

import unicodedata

_INVISIBLE = dict.fromkeys((0x200B, 0x2060, 0xFEFF), " ")
"""Invisible separators, which word pieces treat as spaces."""


def normalised(text: str) -> str:
    """Return ``text`` in NFC (Unicode Standard Annex 15): accents and jamo composed, invisible separators as spaces."""
    return unicodedata.normalize("NFC", text).translate(_INVISIBLE)
