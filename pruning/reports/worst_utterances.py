"""A section of the page: the utterances with most errors of one system beyond those of another."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from pruning.reports.report import System
from pruning.speech.scoring.word_errors import Transcript, count_errors

COUNT = 30
"""Number of utterances that are shown."""
_CHOICE = """<p>The {shown} utterances with most errors of {second} beyond those of {first}, of {wrong} in which
{second} errs ({all} were decoded): sorted by errors of {second} minus errors of {first}, then by errors of {second}.
Errors are wrong, missing and additional words of the hypothesis; after the slash, the words of the reference. Red: a
word that the reference does not have at this place; <span class="wrong">{missing}</span>: a word of the reference that
is missing.</p>"""
_MISSING = "***"


class Wrong(NamedTuple):
    """An utterance with the hypotheses of two systems."""

    id: str
    reference: list[str]
    first: list[str]
    second: list[str]
    errors: tuple[int, int]


def worst_utterances(first: Sequence[Transcript], second: Sequence[Transcript]) -> list[Wrong]:
    """Return the utterances sorted by errors of ``second`` beyond ``first``, leaving out those it has right.

    An id that several sets share (a clean and a noisy copy) is an utterance of each.
    """
    others = {one.key: one for one in second}
    found = []
    for one in first:
        other = others.get(one.key)
        if other is not None:
            errors = count_errors(one)["total"], count_errors(other)["total"]
            found.append(Wrong(one.id, one.reference, one.hypothesis, other.hypothesis, errors))
    found = [wrong for wrong in found if wrong.errors[1]]
    return sorted(found, key=lambda wrong: (wrong.errors[0] - wrong.errors[1], -wrong.errors[1], wrong.id))


def _marked(reference: Sequence[str], hypothesis: Sequence[str]) -> str:
    """Return the hypothesis with its errors marked."""
    import kaldialign

    nothing = "\0"  # cannot occur in a text
    pairs = kaldialign.align(list(reference), list(hypothesis), nothing)
    shown = [(r == h, _MISSING if h == nothing else html.escape(h)) for r, h in pairs]
    return " ".join(word if right else f'<span class="wrong">{word}</span>' for right, word in shown)


def _worst_table(rows: Sequence[Wrong], names: tuple[str, str]) -> str:
    counts = "".join(f'<th>errors / words</th><th class="text">{name}</th>' for name in names)
    lines = [f'<tr><th>utterance</th><th class="text">reference</th>{counts}</tr>']
    for row in rows:
        words = (html.escape(row.id), html.escape(" ".join(row.reference)))
        cells = "".join(f'<td class="text">{each}</td>' for each in words)
        for errors, said in zip(row.errors, (row.first, row.second)):
            cells += f'<td>{errors} / {len(row.reference)}</td><td class="text">{_marked(row.reference, said)}</td>'
        lines.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def section(rows: Sequence[System]) -> str:
    """Return the section as HTML, of the first two rows: how utterances were chosen, and their table."""
    first, second = rows[0], rows[1]
    if first.transcripts is None or second.transcripts is None:
        return "<p>Not all sets were decoded.</p>"
    found = worst_utterances(first.transcripts, second.transcripts)
    names = (html.escape(first.name), html.escape(second.name))
    said = _CHOICE.format(shown=min(COUNT, len(found)), first=names[0], second=names[1], wrong=len(found),
                         all=len(second.transcripts), missing=_MISSING)  # fmt: skip
    return said + _worst_table(found[:COUNT], names)
