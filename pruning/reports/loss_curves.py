"""A section of the page: the losses on dev over the steps of training, and what the losses are the sum of."""

from __future__ import annotations

import html
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from pruning import configuration, registry
from pruning.errors import UserError
from pruning.experiments.directory import CONFIG
from pruning.files import PathLike
from pruning.kinds import kind as kinds
from pruning.reports import document, pictures
from pruning.tasks.formula import LossFormula

logger = logging.getLogger(__name__)
TERMS = ("task", "transducer", "simple", "ctc")
"""Loss terms whose curves are drawn, as far as a run has them."""
_LOSSES = """<p>Losses on the development set. {unit}The terms of distillation and the penalty of a constraint are not
drawn.</p>"""
_SUMS = "<p>Sums, with the weights after their warm-up:</p>"
_FURTHER = """<p>Runs that follow the teacher, on one axis of further steps: {names}. A dotted line is where the next
begins.</p>"""


@dataclass(frozen=True)
class Training:
    """Training runs whose curves are drawn.

    Attributes:
        runs: name -> experiment directory, each drawn from its first step.
        further: runs that follow the teacher and one another, such as pruning and fine-tuning.
    """

    runs: Mapping[str, PathLike] = field(default_factory=dict)
    further: Mapping[str, PathLike] = field(default_factory=dict)

    def shown(self) -> str:
        """Return the curves as HTML; nothing if no run logged a loss on dev.

        Raises:
            UserError: a run has no log.
        """
        curves, further = ({name: pictures.read_metrics(place) for name, place in of.items()}
                           for of in (self.runs, self.further))  # fmt: skip
        logged = {term for of in (curves, further) for rows in of.values() for row in rows if row["kind"] == "dev"
                  for term in row}  # fmt: skip
        terms = [term for term in TERMS if term in logged]
        if not terms:
            return ""
        parts = [_formulas({**self.runs, **self.further})]
        if curves:
            heading = "<h3>Each run from its first step</h3>" if further else ""
            parts += [heading, document.picture(pictures.training_curves(curves, terms), "training curves")]
        if further:
            joined, begins = pictures.one_after_the_other(further)
            names = ", then ".join(map(html.escape, further))
            parts += [f"<h3>After the teacher: {names}</h3>", _FURTHER.format(names=names),
                      document.picture(pictures.training_curves(joined, terms, "further step", begins),
                                       "curves of further steps")]  # fmt: skip
        return "".join(parts)


def _formulas(places: Mapping[str, PathLike]) -> str:
    """Return the caption: what the losses are the sum of, in each run whose configuration is there, and their unit."""
    found: dict[str, list[str]] = {}
    units: list[str] = []
    for name, place in places.items():
        formula = _formula(Path(place) / CONFIG)
        if formula is not None:
            units.append(formula.unit)
            for said in filter(None, (formula.of_task, formula.of_loss)):
                found.setdefault(said, []).append(name)
    rows = "".join(f"<li><code>{said}</code>: {html.escape(', '.join(names))}</li>" for said, names in found.items())
    unit = f"Unit: {' and '.join(dict.fromkeys(units))}. " if units else ""
    return f"{_LOSSES.format(unit=unit)}{_SUMS}<ul>{rows}</ul>" if rows else _LOSSES.format(unit=unit)


def _formula(path: Path) -> Optional[LossFormula]:
    """Return the formula of a run's loss; None if its configuration is not there, or of a version not read here."""
    if not path.is_file():
        return None
    try:
        kind = kinds.find(registry.name_for(configuration.read(path), registry.CUTS), str(path))
        return kind.loss_formula(kind.config_of(path))
    except UserError as error:
        logger.warning("the page does not say what the loss of %s is the sum of: %s", path.parent, error)
        return None
