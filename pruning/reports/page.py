"""A self-contained HTML page about a pruned network: tables, pictures, and its worst utterances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from pruning.core.structure import Structure
from pruning.experiments.structure_files import STRUCTURE
from pruning.files import PathLike, read_json
from pruning.models.facts import read_facts
from pruning.reports import document, pictures, worst_utterances
from pruning.reports.loss_curves import Training
from pruning.reports.report import System
from pruning.reports.unit_names import cost_kind

_KEPT = """<p>Kept units / units of the teacher, for each part of each layer. Layers and convolutions are numbered from
1, layers as in <code>distillation.layers</code>, where 0 is the input of the first. Gone: the whole part was removed,
and its residual connection stays. Below: what this means for parameters and multiply-accumulates (MACs).</p>"""


def costs_by_kind(network: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return rows of parameters and MACs of each kind of costs, dense and kept, and of all together."""
    dense, kept, length = network["dense"]["by_kind"], network["by_kind"], _length(network)
    rows = [_costs(cost_kind(kind), before, kept.get(kind, {}), length) for kind, before in dense.items()]
    before, after = ({cost: sum(row[cost] for row in of.values()) for cost in ("size", "macs")} for of in (dense, kept))
    return [*rows, _costs("all", before, after, length)] if rows else []


def _costs(part: str, before: Mapping[str, int], after: Mapping[str, int], length: str) -> dict[str, str]:
    row = {"part": part}
    units = {"size": ("M parameters", "parameters", 1e6), "macs": (f"GMACs{length}", "MACs", 1e9)}
    for cost, (unit, of, scale) in units.items():
        left = after.get(cost, 0)
        row[f"{unit} before"] = f"{before[cost] / scale:.3f}"
        row[f"{unit} after"] = f"{left / scale:.3f}"
        row[f"{of} removed"] = f"{1 - left / before[cost]:.1%}" if before[cost] else "-"
    return row


def _length(network: Mapping[str, Any]) -> str:
    """Return at what length of the input a network's MACs are counted."""
    if "macs_10s" in network:
        tokens = f", {network['tokens_10s']} tokens" if "tokens_10s" in network else ""
        return f" at 10 s{tokens}"
    return f" at {network['tokens']} tokens" if "tokens" in network else ""


def page(
    results: str,
    structure_of: Optional[PathLike] = None,
    training: Optional[Training] = None,
    compared: Sequence[System] = (),
    plot: Optional[PathLike] = None,
    title: str = "A pruned network",
) -> str:
    """Return the page as HTML.

    Args:
        results: the report of the network, in Markdown, of any kind of network.
        structure_of: experiment directory of the extracted network whose structure is shown; None: no structure.
        training: runs whose curves are drawn; None: no curves.
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
    drawn = training.shown() if training is not None else ""
    if drawn:
        parts.append(("Training", drawn))
    if plot is not None:
        parts.append(("Error against size", document.picture(Path(plot).read_bytes(), "error against size")))
    if len(compared) > 1:
        parts.append(("Worst utterances", worst_utterances.section(compared)))
    return document.page(title, results, parts)
