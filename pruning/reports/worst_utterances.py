"""A section of the page: the utterances with most errors of one system beyond those of another."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from pruning.errors import UserError
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


def compared(rows: Sequence[System]) -> tuple[System, System]:
    """Return the two rows that `section` compares.

    Raises:
        UserError: there is no second network with the same chunk.
    """
    for row in rows[1:]:
        if row.exp_dir != rows[0].exp_dir and row.chunk == rows[0].chunk:
            return rows[0], row
    raise UserError("the page needs a teacher and a pruned network that were decoded alike",
                    "decode both by the same method, and causal ones by the same chunks")  # fmt: skip


def section(rows: Sequence[System]) -> str:
    """Return the section as HTML: how utterances were chosen, and their table.

    It compares the first row with the first one of another network, which saw as much of an utterance at a time.

    Raises:
        UserError: there is no such row.
    """
    first, second = compared(rows)
    if first.transcripts is None or second.transcripts is None:
        return "<p>Not all sets were decoded.</p>"
    found = worst_utterances(first.transcripts, second.transcripts)
    names = (html.escape(first.title), html.escape(second.title))
    said = _CHOICE.format(shown=min(COUNT, len(found)), first=names[0], second=names[1], wrong=len(found),
                         all=len(second.transcripts), missing=_MISSING)  # fmt: skip
    return said + _worst_table(found[:COUNT], names)
