"""Pictures of a pruning run: the units kept in each layer, and the losses over training. PNG by matplotlib."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.files import PathLike
from pruning.reports.unit_names import place

METRICS = "metrics.jsonl"
"""The file in which a training run logs its losses."""


def grid(structure: Structure) -> tuple[list[str], list[str], dict[tuple[str, str], tuple[int, int]]]:
    """Arrange kept units as a table.

    Returns:
        Rows and columns as `pruning.reports.unit_names.place` names them, and (kept, size) by row and column. Rows of a
        stack are together. Groups of one unit are whole modules; they are shown only if no group of units lies inside.
    """
    cells: dict[tuple[str, str], tuple[int, int]] = {}
    inner = {name.rpartition(".")[0] for name in structure.groups}
    shown = [(place(name), units) for name, units in structure.groups.items() if units.size > 1 or name not in inner]
    for at, units in shown:
        cells[at.row, at.column] = (len(units.kept), units.size)
    stacks = list(dict.fromkeys(at.stack for at, _ in shown))
    rows = sorted({(stacks.index(at.stack), at.number, at.row) for at, _ in shown})
    return [row for *_, row in rows], list(dict.fromkeys(at.column for at, _ in shown)), cells


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    _pyplot().close(figure)
    return buffer.getvalue()


def structure_picture(structure: Structure, title: str = "") -> bytes:
    """Draw the kept units of every part of every layer as ``kept/size`` on a colour scale; return a PNG."""
    rows, columns, cells = grid(structure)
    figure, axes = _pyplot().subplots(figsize=(2.0 + 1.7 * len(columns), 1.2 + 0.42 * len(rows)))
    shares = [[cells[r, c][0] / cells[r, c][1] if (r, c) in cells else float("nan") for c in columns] for r in rows]
    picture = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            if (row, column) in cells:
                kept, size = cells[row, column]
                dark = kept / size < 0.6
                axes.text(x, y, f"{kept}/{size}" if kept else "gone", ha="center", va="center", fontsize=8,
                          color="white" if dark else "black")  # fmt: skip
    axes.set_xticks(range(len(columns)), columns, rotation=20, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    figure.colorbar(picture, ax=axes, label="share of units kept")
    if title:
        axes.set_title(title, fontsize=10)
    figure.tight_layout()
    return _png(figure)


def read_metrics(exp_dir: PathLike) -> list[dict[str, Any]]:
    """Read the rows that a run logged in its ``metrics.jsonl``.

    Raises:
        UserError: the file is missing or broken.
    """
    path = Path(exp_dir) / METRICS
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error})", "give the experiment directory of a training run") from None


Curves = Mapping[str, Sequence[Mapping[str, Any]]]
"""Name -> rows of `read_metrics`."""


def one_after_the_other(runs: Curves) -> tuple[dict[str, list[dict[str, Any]]], list[int]]:
    """Return runs with their steps counted on from the end of the run before, and the steps at which runs begin."""
    found: dict[str, list[dict[str, Any]]] = {}
    begins = [0]
    for name, rows in runs.items():
        found[name] = [{**row, "step": row["step"] + begins[-1]} for row in rows]
        begins.append(max((row["step"] for row in found[name]), default=begins[-1]))
    return found, begins[:-1]


def training_curves(runs: Curves, terms: Sequence[str], of: str = "step", begins: Sequence[int] = ()) -> bytes:
    """Draw the given terms on dev over the steps, one panel per term and one line per run; return a PNG.

    Args:
        runs: the runs.
        terms: names of terms that the runs logged.
        of: what the steps are called.
        begins: steps at which runs begin, where a line is drawn; 0 has none.
    """
    figure, panels = _pyplot().subplots(1, len(terms), figsize=(3.6 * len(terms), 3.4), squeeze=False)
    for panel, term in zip(panels[0], terms):
        for name, rows in runs.items():
            points = [(row["step"], row[term]) for row in rows if row["kind"] == "dev" and row.get(term) is not None]
            if points:
                panel.plot(*zip(*points), label=name, linewidth=1.2)
        panel.set_title(f"{term}, dev", fontsize=10)
        panel.set_xlabel(of)
        if all(value > 0 for line in panel.lines for value in line.get_ydata()):
            panel.set_yscale("log")
        for step in begins:
            if step:
                panel.axvline(step, color="grey", linestyle=":", linewidth=1.0)
        panel.grid(alpha=0.3)
    for panel in panels[0]:
        if panel.lines:  # a term that no run has leaves its panel empty
            panel.legend(fontsize=8)
            break
    figure.tight_layout()
    return _png(figure)
