"""A self-contained HTML page about a pruned network: tables, pictures, and its worst utterances."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from pruning.core.structure import Structure
from pruning.experiments.structure_files import STRUCTURE
from pruning.files import PathLike, read_json
from pruning.models.facts import read_facts
from pruning.reports import document, pictures
from pruning.reports.report import System
from pruning.speech.scoring.word_errors import Transcript, count_errors

TERMS = ("transducer", "ctc", "intent", "task")
"""Loss terms whose curves are drawn, as far as a run has them."""


_KEPT = """<p>Kept units / units of the teacher, for each part of each layer. Gone: the whole part was removed, and its
residual connection stays. Below: what this means for parameters and multiply-accumulates.</p>"""
_LOSSES = """<p>Losses on the development set while each network was trained; for a pruned network, its fine-tuning.
Task: the sum of the losses that training minimises, without distillation and constraint.</p>"""


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
    results: str,
    structure_of: Optional[PathLike] = None,
    runs: Optional[Mapping[str, PathLike]] = None,
    compared: Sequence[System] = (),
    plot: Optional[PathLike] = None,
    title: str = "A pruned network",
) -> str:
    """Return the page as HTML.

    Args:
        results: the report of the network, in Markdown, of any kind of network.
        structure_of: experiment directory of the extracted network whose structure is shown; None: no structure.
        runs: name -> training run whose curves are drawn; None: no curves.
        compared: the teacher and the pruned network, whose worst utterances are shown; none: they are left out.
        plot: PNG of WER against size to include, as drawn by ``pruning.bin.compare``.
        title: title of the page.

    Raises:
        UserError: files are missing.
    """
    parts: list[tuple[str, str]] = []
    if structure_of is not None:
        structure = Structure.from_dict(read_json(Path(structure_of) / STRUCTURE, "give an extracted experiment"))
        costs = document.tabulated(costs_by_kind(read_facts(structure_of)), "html")
        parts.append(("Structure", _KEPT + document.picture(pictures.structure_picture(structure), "kept units")
                      + costs))  # fmt: skip
    curves = {name: pictures.read_metrics(exp_dir) for name, exp_dir in (runs or {}).items()}
    logged = {term for rows in curves.values() for row in rows if row["kind"] == "dev" for term in row}
    terms = [term for term in TERMS if term in logged]
    if terms:
        drawn = document.picture(pictures.training_curves(curves, terms), "training curves")
        parts.append(("Training", _LOSSES + drawn))
    if plot is not None:
        parts.append(("Error against size", document.picture(Path(plot).read_bytes(), "error against size")))
    if len(compared) > 1:
        parts.append(("Worst utterances", _worst(compared)))
    return document.page(title, results, parts)


def _worst(rows: Sequence[System]) -> str:
    first, second = rows[0], rows[1]
    if first.transcripts is None or second.transcripts is None:
        return "<p>Not all sets were decoded.</p>"
    found = worst_utterances(first.transcripts, second.transcripts)
    names = (html.escape(first.name), html.escape(second.name))
    return f"<p>Utterances with most errors of {names[1]} beyond those of {names[0]}.</p>{_worst_table(found, names)}"
