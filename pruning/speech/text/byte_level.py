"""The alphabet of byte-level word pieces: a character for each byte (``bytes_to_unicode`` of openai/gpt-2)."""

from __future__ import annotations

from functools import lru_cache


@lru_cache
def byte_of_character() -> dict[str, int]:
    """Return the byte that each character stands for.

    Printable bytes of Latin-1 but the space and the soft hyphen stand for themselves, the others are numbered from 256.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + index): byte for index, byte in enumerate(others)}}


def bytes_of(symbol: str) -> bytes:
    """Return the bytes of a piece; characters beyond the alphabet are taken as UTF-8."""
    known = byte_of_character()
    return b"".join(bytes([known[one]]) if one in known else one.encode() for one in symbol)
