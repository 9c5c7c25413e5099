"""Reading text written by other programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning import files
from pruning.errors import UserError


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("a ÉTÉ\nb\n".encode(), ["a ÉTÉ", "b"]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"a ONE\r\nb TWO\r\n", ["a ONE", "b TWO"]),
        ("a ONE\nb\n".encode("utf-8-sig"), ["a ONE", "b"]),
        ("a ONE\u2028TWO\x85THREE\x0bFOUR\n".encode(), ["a ONE\u2028TWO\x85THREE\x0bFOUR"]),
        (b"", []),
    ],
)
def test_lines(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    (tmp_path / "text").write_bytes(content)
    assert files.read_lines(tmp_path / "text") == lines


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "text").write_bytes("a ÉTÉ\n".encode(encoding))
    with pytest.raises(UserError, match=r"text is not text in UTF-8 \(byte \d\); convert it, .*iconv -f latin1"):
        files.read_lines(tmp_path / "text")
