"""The lines of a sweep file: what is compared, and what is claimed of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

from pruning.limits import Natural, NonNegative, Seed, check_fields
from pruning.methods.names import NO_CELL
from pruning.models.names import NARROW

TEACHER = "teacher"


def check_list(values: Optional[Sequence[object]], name: str) -> None:
    """Of names or numbers.

    Raises:
        ValueError: there is none, or one is there twice.
    """
    if values is not None and (not values or len(set(values)) < len(values)):
        raise ValueError(f"{name} is {list(values)}; name each once, and at least one")


@dataclass(frozen=True)
class MethodConfig:
    """One line of the comparison. Just one of ``method``, ``structure_from``, ``uniform`` and ``dense`` says what
    it is.

    Attributes:
        method: prune the teacher by this method of `pruning.methods.names.METHODS`, extract and fine-tune.
        settings: over the pruning configuration, e.g. ``["constraint.ramp=cubic"]``.
        structure_from: take the structure that another line found (same target and seed), and fine-tune.
        uniform: a uniformly narrowed network from scratch, by the configuration ``scratch``: of its ``units`` or in its
            whole ``width`` (`pruning.bin.uniform`).
        dense: the teacher itself, trained on by the configuration ``finetune``: what more steps do without pruning.
            Give ``finetune_settings`` the steps of pruning and fine-tuning together.
        counts_from: of ``method``: another line whose kept counts are taken.
        reinitialise: fresh weights in place of inherited ones.
        repair: utterances of one-shot repair before fine-tuning; 0: none.
        finetune: False measures the extraction as it is.
        finetune_settings: over the fine-tuning (or ``scratch``) configuration.
        targets, seeds: of this line, where they are not all of the sweep's.
        more_seeds: target -> seeds besides, at this target alone.
    """

    method: Optional[str] = None
    settings: tuple[str, ...] = ()
    structure_from: Optional[str] = None
    uniform: Optional[str] = None
    dense: bool = False
    counts_from: Optional[str] = None
    reinitialise: bool = False
    repair: Natural = 0
    finetune: bool = True
    finetune_settings: tuple[str, ...] = ()
    targets: Optional[tuple[str, ...]] = None
    seeds: Optional[tuple[Seed, ...]] = None
    more_seeds: dict[str, list[Seed]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        given = [self.method is not None, self.structure_from is not None, self.uniform is not None, self.dense]
        if sum(given) != 1:
            raise ValueError("give just one of method, structure_from, uniform and dense")
        if self.uniform not in (None, *NARROW):
            raise ValueError(f"uniform is {self.uniform!r}; choose {' or '.join(NARROW)}")
        unused = {"settings": self.method is None, "counts_from": self.method is None,
                  "reinitialise": self._whole or bool(self.repair), "repair": self._whole,
                  "finetune_settings": not self.finetune}  # fmt: skip
        for name, of_no_effect in unused.items():
            if getattr(self, name) and of_no_effect:
                raise ValueError(f"{name} would have no effect on this line")
        for name in ("targets", "seeds"):
            check_list(getattr(self, name), name)
        if self._whole and not self.finetune:
            raise ValueError("a network that nothing is cut out of has to be trained")

    @property
    def _whole(self) -> bool:
        return self.uniform is not None or self.dense

    @property
    def words(self) -> str:
        """What it is, for the legend of a table."""
        if self.uniform:
            what = f"uniformly narrowed {self.uniform}, from scratch"
        elif self.dense:
            what = "dense, trained on"
        elif self.structure_from is not None:
            what = f"structure of {self.structure_from}"
        else:
            what = str(self.method) + (f", counts of {self.counts_from}" if self.counts_from else "")
        more = ["fresh weights"] * self.reinitialise + [f"repair on {self.repair}"] * bool(self.repair)
        more += ["not fine-tuned"] * (not self.finetune)
        return ", ".join([what, *more, *self.settings, *self.finetune_settings])

    @property
    def stands_on(self) -> Optional[str]:
        """The line whose runs must be there first."""
        return self.structure_from or self.counts_from


@dataclass(frozen=True)
class GridConfig:
    """Lines of every combination, named METHOD-TECHNIQUE-RAMP; those without a definition are left out.

    Attributes:
        method, technique: see `pruning.methods.config.PruningConfig`.
        ramp: see `pruning.core.constraint.ConstraintConfig`.
        settings, finetune_settings, targets, seeds: of all of them, as of `MethodConfig`.
        more_seeds: line -> target -> seeds besides.
    """

    method: tuple[str, ...]
    technique: tuple[str, ...] = ("structured",)
    ramp: tuple[str, ...] = ("cubic",)
    settings: tuple[str, ...] = ()
    finetune_settings: tuple[str, ...] = ()
    targets: Optional[tuple[str, ...]] = None
    seeds: Optional[tuple[Seed, ...]] = None
    more_seeds: dict[str, dict[str, list[Seed]]] = field(default_factory=dict)

    def lines(self) -> dict[str, MethodConfig]:
        """The lines.

        Raises:
            ValueError: ``more_seeds`` names none of them.
        """
        found = {}
        for method, technique, ramp in itertools.product(self.method, self.technique, self.ramp):
            if (method, technique) in NO_CELL:
                continue
            name = f"{method}-{technique}-{ramp}"
            settings = (f"technique={technique}", f"constraint.ramp={ramp}", *self.settings)
            found[name] = MethodConfig(method, settings, finetune_settings=self.finetune_settings, targets=self.targets,
                                       seeds=self.seeds, more_seeds=self.more_seeds.get(name, {}))  # fmt: skip
        for name in self.more_seeds:
            if name not in found:
                raise ValueError(f"more_seeds names {name!r}, which is no line of the grid")
        return found


@dataclass(frozen=True)
class ClaimConfig:
    """That one line errs less than others, or hardly more; its verdict is written under the comparison.

    Attributes:
        better: the line.
        than: the others; ``teacher`` is the dense network.
        margin: how much more it may err, in points of error or accuracy, or hundredths of a nat a word (about as many
            percent of perplexity); 0: it has to err less.
    """

    better: str
    than: tuple[str, ...]
    margin: NonNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
