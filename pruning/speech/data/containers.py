"""Compare the length that an audio file's header, chunk or last page announces with the file's actual length.

libsndfile silently reads what is there. A truncated file, or one whose header names too few bytes, would become a
shorter recording with a complete transcript.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, Optional

_STREAMED = 0x7FFFF000
"""Sizes from here on are placeholders of programs that cannot know the length, e.g. sox and ffmpeg in a pipe."""
_RF64 = 0xFFFFFFFF
"""Marks in an RF64 file that the size is in the ds64 chunk."""
_TAG = 512
"""Number of bytes after the audio that need not be a chunk: programs append tags (ID3v1: 128)."""
_LAST_PAGES = 2**17
"""Number of bytes at the end of an Ogg file in which the last page must begin; a page has at most 65,307."""


class _Chunk(NamedTuple):
    """A chunk of a file: name, start of its content, and announced number of bytes."""

    name: bytes
    start: int
    length: int


def fault(stream: BinaryIO) -> Optional[str]:
    """Return what is wrong with the size of an audio file; None if nothing is, or if its format announces no size.

    Supports WAV (RIFF, RF64), Wave64, AIFF, AU, CAF, Ogg (Vorbis, Opus, FLAC) and MP3 with a Xing header. WAV and AU
    files with an announced length of 0 or about 2 or 4 GiB pass: programs that do not know the length write this.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(16)
    for magic, check in _CHECKS:
        if magic(head):
            return check(stream, size)
    return None


def _chunks(stream: BinaryIO, start: int, size: int, form: str, padded: bool = True) -> Iterator[_Chunk]:
    """Yield the chunks from ``start`` on; ``form`` is the `struct` format of name and length."""
    at, width = start, struct.calcsize(form)
    while at + width <= size:
        stream.seek(at)
        name, length = struct.unpack(form, stream.read(width))
        yield _Chunk(name, at + width, length)
        at += width + max(length, 0) + (length % 2 if padded else 0)


def _missing(announced: int, there: int) -> Optional[str]:
    if announced > there:
        return f"is truncated: {announced - there} bytes are missing"
    return None


def _wav(stream: BinaryIO, size: int) -> Optional[str]:
    whole: Optional[int] = None  # size in the ds64 chunk of an RF64 file
    for name, start, length in _chunks(stream, 12, size, "<4sI"):
        if name == b"ds64":
            stream.seek(start + 8)
            whole = int.from_bytes(stream.read(8), "little")
        if name != b"data":
            continue
        if length == _RF64 and whole is not None:
            length = whole
        elif length >= _STREAMED or length == 0:
            return None
        return _missing(length, size - start) or _unnamed(stream, start + length, size, length)
    return None


def _unnamed(stream: BinaryIO, end: int, size: int, length: int) -> Optional[str]:
    """Check that only chunks or a short tag follow the audio; otherwise the header names too few bytes."""
    if size - end <= _TAG:
        return None
    for at in (end + end % 2, end):
        if size - at < 8:
            return None
        stream.seek(at)
        name, following = struct.unpack("<4sI", stream.read(8))
        if all(32 <= byte < 127 for byte in name) and following <= size - at - 8:
            return None
    return f"has a header for {length} bytes of audio, but {size - end} more bytes follow that belong to no chunk"


def _wave64(stream: BinaryIO, size: int) -> Optional[str]:
    at = 40
    while at + 24 <= size:
        stream.seek(at)
        name, length = struct.unpack("<16sQ", stream.read(24))
        if name[:4] == b"data":
            return _missing(length - 24, size - at - 24)
        if length < 24:
            return None
        at += (length + 7) // 8 * 8
    return None


def _aiff(stream: BinaryIO, size: int) -> Optional[str]:
    for name, start, length in _chunks(stream, 12, size, ">4sI"):
        if name == b"SSND":
            return _missing(length, size - start)
    return None


def _au(stream: BinaryIO, size: int) -> Optional[str]:
    stream.seek(4)
    start, length = struct.unpack(">II", stream.read(8))
    return None if length in (0, 0xFFFFFFFF) else _missing(length, size - start)


def _caf(stream: BinaryIO, size: int) -> Optional[str]:
    for name, start, length in _chunks(stream, 8, size, ">4sq", padded=False):
        if name == b"data":
            return None if length < 0 else _missing(length, size - start)
    return None


def _ogg(stream: BinaryIO, size: int) -> Optional[str]:
    """Check that the last page is complete and marked as the last."""
    begin = max(0, size - _LAST_PAGES)
    stream.seek(begin)
    tail = stream.read()
    at = tail.rfind(b"OggS")
    page = tail[at:]
    if at < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return "is truncated: its last page is incomplete"
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    if len(page) < length:
        return f"is truncated: {length - len(page)} bytes of its last page are missing"
    return None if page[5] & 4 else "is truncated: its last page does not end the stream"


def _mp3(stream: BinaryIO, size: int) -> Optional[str]:
    """Check the number of bytes that a Xing header announces, if there is one."""
    start = 0
    stream.seek(0)
    head = stream.read(10)
    if head[:3] == b"ID3":
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
    stream.seek(start)
    frame = stream.read(200)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16:
        return None
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    if not flags & 2:
        return None
    place = at + 8 + (4 if flags & 1 else 0)
    return _missing(int.from_bytes(frame[place : place + 4], "big"), size - start)


_CHECKS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], Optional[str]]], ...] = (
    (lambda head: head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE", _wav),
    (lambda head: head[:4] == b"riff" and head[4:6] == b"\x2e\x91", _wave64),
    (lambda head: head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"), _aiff),
    (lambda head: head[:4] == b".snd", _au),
    (lambda head: head[:4] == b"caff", _caf),
    (lambda head: head[:4] == b"OggS", _ogg),
    (lambda head: head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1] & 0xE0 == 0xE0), _mp3),
)
