"""What every report is built of: tables and their cells, sections with their origin, and HTML made of the same text."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from typing import Optional

from tabulate import tabulate

from pruning import provenance
from pruning.files import PathLike, write_text
from pruning.speech.scoring.bootstrap import Estimate

TERMINAL = "simple"
"""Style of tables for a terminal."""
WIDTH = 120
"""Number of columns of text of a terminal."""
_BETWEEN, _PADDING = 2, 2  # in that style: spaces between columns, and those that tabulate adds to a title
_FIGURE = re.compile(r"$|[-+]?\d|-$")
"""How a cell begins that holds a figure, or none."""
STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto; }
th, td { padding: 3px 9px; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th { background: #f4f4f4; white-space: normal; }
th:first-child, td:first-child { text-align: left; } img { max-width: 100%; } .wrong { color: #b00020; }
th.text { text-align: left; }
td.text { font-family: ui-monospace, monospace; font-size: 12px; text-align: left; white-space: normal; }
code { overflow-wrap: anywhere; }
"""


def tabulated(rows: Sequence[Mapping[str, str]], style: str = "pipe") -> str:
    """Return a table as text: columns of figures to the right, the first column and those with words to the left.

    Args:
        rows: column title -> cell; all rows have the same columns.
        style: a format of tabulate: ``pipe`` for a file (Markdown with alignment), or `TERMINAL`, in which a table that
            is too wide becomes several, each with the first column.
    """
    if style == TERMINAL:
        return "\n\n".join(_table(part, style) for part in _fitting(rows))
    return _table(rows, style)


def _fitting(rows: Sequence[Mapping[str, str]]) -> list[list[dict[str, str]]]:
    """Return the rows in tables that are at most `WIDTH` wide, as far as two columns fit; none without rows."""
    if not rows:
        return []
    first, *others = rows[0]
    widths = {title: max(len(title) + _PADDING, *(len(row[title]) for row in rows)) for title in rows[0]}
    parts: list[list[str]] = [[]]
    for title in others:
        wide = sum(widths[each] + _BETWEEN for each in (*parts[-1], title)) + widths[first]
        if parts[-1] and wide > WIDTH:
            parts.append([])
        parts[-1].append(title)
    return [[{title: row[title] for title in (first, *part)} for row in rows] for part in parts]


def _table(rows: Sequence[Mapping[str, str]], style: str) -> str:
    titles = list(rows[0]) if rows else []
    figures = [all(_FIGURE.match(row[title]) for row in rows) for title in titles[1:]]
    alignment = ["left", *("right" if each else "left" for each in figures)] if rows else None
    if style != TERMINAL:  # a bar ends a cell of Markdown
        rows = [{_escaped(title): _escaped(cell) for title, cell in row.items()} for row in rows]
    return tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=alignment)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def estimate(value: float, interval: Sequence[float], sign: bool = False) -> str:
    """Return a figure with its interval: ``9.39 (8.16 to 10.70)``, with ``sign`` ``+0.92 (0.35 to 1.51)``."""
    return Estimate(value, interval[0], interval[1]).words(sign)


def short_commit(commit: str) -> str:
    """The first 12 digits, and whether files were modified."""
    digits, *modified = commit.split("-")
    return "-".join([digits[:12], *modified])


def section(
    heading: str,
    body: str,
    module: str,
    argv: Optional[Sequence[str]],
    measured: Optional[Mapping[str, str]] = None,
) -> str:
    """Return a section of a results file with its origin, in Markdown.

    Args:
        heading: heading of the section.
        body: Markdown.
        module: the module that is run, e.g. ``pruning.bin.plan``.
        argv: its arguments; None: those of this process.
        measured: of figures that were measured before: the ``commit``, ``date`` and ``command`` of that.
    """
    if measured is None:
        command = provenance.command_line(module, argv)
        measured = {"commit": provenance.git_commit(), "date": provenance.today(), "command": command}
    origin = f"Commit {short_commit(measured['commit'])}, {measured['date'][:10]}:"
    return "\n\n".join([f"## {heading}", body, f"{origin}\n`{measured['command']}`"]) + "\n"


def write_section(
    path: PathLike,
    heading: str,
    body: str,
    module: str,
    argv: Optional[Sequence[str]],
    measured: Optional[Mapping[str, str]] = None,
) -> None:
    """Write a `section` to a Markdown file, for ``--append`` of `pruning.bin.report`."""
    write_text(path, section(heading, body, module, argv, measured))


def picture(png: bytes, words: str) -> str:
    """Return an image for a page; ``words`` is its alternative text."""
    encoded = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{encoded}">'


def page(title: str, text: str, parts: Sequence[tuple[str, str]] = ()) -> str:
    """Return a self-contained HTML page.

    Args:
        title: title of the page.
        text: Markdown of a report, at the top.
        parts: headings and HTML of what follows.
    """
    import markdown

    converter = markdown.Markdown(extensions=["tables"], tab_length=2)  # lists in lists are indented by two
    converter.preprocessors.deregister("html_block")  # names with < are names
    converter.inlinePatterns.deregister("html")
    body = converter.convert(text)
    more = "".join(f"<h2>{html.escape(heading)}</h2>{content}" for heading, content in parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{body}{more}</body></html>\n"
