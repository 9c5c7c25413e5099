"""A report for a terminal: the Markdown that reports write, in lines that fit, without commands and pictures."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from pruning.reports.document import TERMINAL, WIDTH, tabulated

_LEFT_OUT = re.compile(r"\s*(`[^`]*`|!\[.*\]\(.*\))\s*")
"""A line of a command or a picture alone."""
_RULE = re.compile(r"[|:\- ]+")


def shown(markdown: str) -> str:
    """Return a report as text for a terminal.

    Args:
        markdown: what ``pruning.bin.report`` and other reports wrote; tables have a ``|`` at the start of each line.
    """
    kept = [line for line in markdown.splitlines() if not _LEFT_OUT.fullmatch(line)]
    lines = [line for is_table, of in groupby(kept, lambda line: line.startswith("|")) for line in
             (_table(list(of)) if is_table else _text(of))]  # fmt: skip
    text = re.sub(r"^(Commit .*):$", r"\1.", "\n".join(lines), flags=re.MULTILINE)  # what follows is a command
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _table(lines: Sequence[str]) -> list[str]:
    titles, *rows = [_cells(line) for line in lines if not _RULE.fullmatch(line)]
    return tabulated([dict(zip(titles, row)) for row in rows], TERMINAL).splitlines() if rows else list(lines)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _text(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        begins = re.match(r"\s*(- )?", line)
        indent = " " * (begins.end() if begins else 0)
        yield from textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False,
                                 break_on_hyphens=False) or [""]  # fmt: skip
