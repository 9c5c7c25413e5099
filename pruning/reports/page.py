"""A self-contained HTML page about a pruned network: tables, pictures, and its worst utterances."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from tabulate import tabulate

from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.files import PathLike, read_json
from pruning.models.facts import read_facts
from pruning.reports import pictures
from pruning.reports.report import System, collect, differences, table
from pruning.speech.scoring.word_errors import Transcript, count_errors

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; color: #222; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: 3px 9px; border-bottom: 1px solid #ddd; }
th { text-align: left; background: #f4f4f4; } img { max-width: 100%; } .wrong { color: #b00020; }
td.text { font-family: ui-monospace, monospace; font-size: 12px; }
"""


class Wrong(NamedTuple):
    """An utterance with the hypotheses of two systems."""

    id: str
    reference: list[str]
    first: list[str]
    second: list[str]
    errors: tuple[int, int]


def worst_utterances(first: Sequence[Transcript], second: Sequence[Transcript], count: int = 30) -> list[Wrong]:
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
    return sorted(found, key=lambda wrong: (wrong.errors[0] - wrong.errors[1], -wrong.errors[1], wrong.id))[:count]


def costs_by_kind(network: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return rows of parameters and MACs at 10 s for each unit kind, dense and kept."""
    rows = []
    for kind, before in network["dense"]["by_kind"].items():
        after = network["by_kind"].get(kind, {"size": 0, "macs": 0})
        row = {"kind": kind}
        for cost, unit, letter in (("size", 1e6, "M parameters"), ("macs", 1e9, "GMACs")):
            row[f"{letter} before"] = f"{before[cost] / unit:.3f}"
            row[f"{letter} after"] = f"{after[cost] / unit:.3f}"
            row[f"{letter} gone"] = f"{1 - after[cost] / before[cost]:.1%}" if before[cost] else "-"
        rows.append(row)
    return rows


def _image(data: bytes, text: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{encoded}">'


def _marked(reference: Sequence[str], hypothesis: Sequence[str]) -> str:
    """Return the hypothesis with its errors marked."""
    import kaldialign

    nothing = "\0"  # cannot occur in a text
    pairs = kaldialign.align(list(reference), list(hypothesis), nothing)
    shown = [(r == h, "***" if h == nothing else html.escape(h)) for r, h in pairs]
    return " ".join(word if right else f'<span class="wrong">{word}</span>' for right, word in shown)


def _worst_table(rows: Sequence[Wrong], names: tuple[str, str]) -> str:
    lines = [f"<tr><th>utterance</th><th>reference</th><th>{names[0]}</th><th>{names[1]}</th></tr>"]
    for row in rows:
        cells = [html.escape(row.id), html.escape(" ".join(row.reference)), _marked(row.reference, row.first),
                 _marked(row.reference, row.second)]  # fmt: skip
        lines.append("<tr>" + "".join(f'<td class="text">{cell}</td>' for cell in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def page(
    systems: Sequence[tuple[str, PathLike]],
    sets: Sequence[str],
    method: str,
    structure_of: PathLike,
    runs: Mapping[str, PathLike],
    terms: Sequence[str] = ("transducer", "ctc", "task"),
    plot: Optional[PathLike] = None,
    title: str = "A pruned network",
) -> str:
    """Return the page as HTML.

    Args:
        systems: name and experiment directory of each row of the table: the teacher first, then the pruned network.
        sets: names of the test sets.
        method: decoding method.
        structure_of: experiment directory of the extracted network whose structure is shown.
        runs: name -> training run whose curves are drawn.
        terms: loss terms to draw.
        plot: PNG of WER against size to include, as drawn by ``pruning.bin.compare``.
        title: heading.

    Raises:
        UserError: a system was not decoded, or files are missing.
    """
    rows = collect(systems, sets, method)
    if len(rows) < 2:
        raise UserError("the page needs a teacher and a pruned network", f"decode two systems with {method} first")
    structure = Structure.from_dict(read_json(Path(structure_of) / "structure.json", "give an extracted experiment"))
    network = read_facts(structure_of)
    curves = {name: pictures.read_metrics(exp_dir) for name, exp_dir in runs.items()}
    compared = differences(rows, "html")
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<h2>Word error rates</h2>{table(rows, sets, 'html')}{compared}",
        f"<h2>Structure</h2>{_image(pictures.structure_picture(structure), 'kept units')}",
        tabulate(costs_by_kind(network), headers="keys", tablefmt="html", disable_numparse=True),
        f"<h2>Training</h2>{_image(pictures.training_curves(curves, terms), 'training curves')}" if curves else "",
        f"<h2>Error against size</h2>{_image(Path(plot).read_bytes(), 'error against size')}" if plot else "",
        f"<h2>Worst utterances</h2>{_worst(rows)}",
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _worst(rows: Sequence[System]) -> str:
    first, second = rows[0], rows[1]
    if first.transcripts is None or second.transcripts is None:
        return "<p>Not all sets were decoded.</p>"
    found = worst_utterances(first.transcripts, second.transcripts)
    names = (html.escape(first.name), html.escape(second.name))
    return f"<p>Utterances with most errors of {names[1]} beyond those of {names[0]}.</p>{_worst_table(found, names)}"
