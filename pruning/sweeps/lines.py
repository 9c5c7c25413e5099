"""The lines and claims of a sweep file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Optional

from pruning.limits import Count, Natural, NonNegative, OneOf, Positive, Range, Seed, check_fields
from pruning.methods.names import NO_CELL
from pruning.models.names import NARROW

TEACHER = "teacher"
FURTHER, TOTAL = "further", "total"
_ALIKE = "criterion.ranking=group"


def check_list(values: Optional[Sequence[object]], name: str) -> None:
    """Check a list of names or numbers.

    Raises:
        ValueError: the list is empty, or an entry occurs twice.
    """
    if values is not None and (not values or len(set(values)) < len(values)):
        raise ValueError(f"{name} must list at least one entry, each only once, got {list(values)}")


@dataclass(frozen=True)
class BudgetConfig:
    """Training steps of the lines. A user who has the teacher pays the *further* steps only.

    Attributes:
        steps: further steps of a line: of pruning and fine-tuning together, or of training from scratch.
        prune_share: share of the steps that goes to pruning; the rest goes to fine-tuning. Without fine-tuning,
            pruning takes all steps.
        teacher_steps: steps of the teacher, which lines with ``budget: total`` get in addition; None: as recorded in
            its experiment directory.
    """

    steps: Count
    prune_share: Annotated[float, Range(above=0, below=1)] = 0.25
    teacher_steps: Optional[Count] = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class MethodConfig:
    """One line of a sweep, defined by exactly one of ``method``, ``structure_from``, ``uniform`` and ``dense``.

    Attributes:
        method: method of `pruning.methods.names.METHODS` by which to prune the teacher, extract and fine-tune.
        settings: overrides of the pruning configuration, e.g. ``["constraint.ramp=cubic"]``.
        structure_from: another line whose structure is taken (same target and seed) and fine-tuned.
        uniform: train a uniform network from scratch with the configuration ``scratch``: narrowed in its ``units``, in
            its whole ``width``, or in its ``depth`` (`pruning.bin.uniform`).
        inherit: for ``uniform``: start with the teacher's decoder, joiner and heads where they have the same shape.
        distil: for ``uniform``: distil from the teacher; ``finetune_settings`` give the weights.
        dense: train the teacher further with the configuration ``finetune``, to see the effect of more steps without
            pruning. Set ``finetune_settings`` to the steps of pruning and fine-tuning together.
        counts_from: for ``method``: another line whose numbers of kept units are taken.
        chain: for ``method``: an override of the target for each cut that comes before the line's own target, e.g.
            ``[constraint.size=0.5]``; each cut is extracted and fine-tuned, and all share the steps equally.
        reinitialise: use new random weights instead of inherited ones.
        repair: number of utterances for one-shot repair before fine-tuning; 0: no repair. Each cut of a chain is
            repaired towards the network that it began from.
        finetune: whether to fine-tune; if False, the extracted network is measured as it is.
        finetune_settings: overrides of the fine-tuning (or ``scratch``) configuration.
        budget: ``further``: the steps of the sweep's budget; ``total``: for weights from scratch, also the teacher's.
        times: multiple of the budget's steps.
        prune_share: for ``method``: share of pruning, if not the budget's. Without fine-tuning, the rest is not used.
        shown: name in tables and plots, if the line has another: for words that mean something else in other tables.
        curve: name of the curve over several budgets that the line is a point of; None: its own name.
        targets, seeds: targets and seeds of this line, if not all of the sweep's.
        more_seeds: target -> additional seeds for this target.
    """

    method: Optional[str] = None
    settings: tuple[str, ...] = ()
    structure_from: Optional[str] = None
    uniform: Optional[str] = None
    dense: bool = False
    inherit: bool = False
    distil: bool = False
    counts_from: Optional[str] = None
    chain: tuple[str, ...] = ()
    reinitialise: bool = False
    repair: Natural = 0
    finetune: bool = True
    finetune_settings: tuple[str, ...] = ()
    budget: Annotated[str, OneOf((FURTHER, TOTAL))] = FURTHER
    times: Positive = 1.0
    prune_share: Annotated[Optional[float], Range(above=0, below=1)] = None
    shown: Optional[str] = None
    curve: Optional[str] = None
    targets: Optional[tuple[str, ...]] = None
    seeds: Optional[tuple[Seed, ...]] = None
    more_seeds: dict[str, list[Seed]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        given = [self.method is not None, self.structure_from is not None, self.uniform is not None, self.dense]
        if sum(given) != 1:
            raise ValueError("give exactly one of method, structure_from, uniform and dense")
        if self.uniform not in (None, *NARROW):
            raise ValueError(f"uniform must be {', '.join(NARROW)}, got {self.uniform!r}")
        unused = {"settings": self.method is None, "counts_from": self.method is None,
                  "chain": self.method is None or not self.finetune or self.counts_from is not None,
                  "prune_share": self.method is None, "inherit": self.uniform is None, "distil": self.uniform is None,
                  "reinitialise": self._whole or bool(self.repair), "repair": self._whole,
                  "finetune_settings": not self.finetune}  # fmt: skip
        for name, of_no_effect in unused.items():
            if getattr(self, name) and of_no_effect:
                raise ValueError(f"{name} has no effect on this line")
        if self.budget == TOTAL and not self.fresh:
            raise ValueError("budget: total is for weights from scratch (uniform, reinitialise)")
        for name in ("targets", "seeds"):
            check_list(getattr(self, name), name)
        if self._whole and not self.finetune:
            raise ValueError("finetune must be true on a line that extracts no network")

    @property
    def fresh(self) -> bool:
        """Whether the encoder starts with random weights."""
        return self.uniform is not None or self.reinitialise

    @property
    def budgeted(self) -> bool:
        """Whether the line's steps depend on the budget of the sweep in another way than most."""
        return self.budget == TOTAL or self.times != 1 or self.prune_share is not None or bool(self.chain)

    @property
    def _whole(self) -> bool:
        return self.uniform is not None or self.dense

    @property
    def words(self) -> str:
        """Description for the legend of a table."""
        if self.uniform:
            what = f"uniform network, narrow in its {self.uniform}, from scratch"
            what += ", teacher's decoder and joiner" * self.inherit + ", distilled" * self.distil
        elif self.dense:
            what = "dense, trained on"
        elif self.structure_from is not None:
            what = f"structure of {self.structure_from}"
        else:
            what = str(self.method) + (f", counts of {self.counts_from}" if self.counts_from else "")
            what += f", cut first to {', '.join(self.chain)}" if self.chain else ""
            what = f"every group narrowed alike, trained weights kept: {what}" if _ALIKE in self.settings else what
        more = ["fresh weights"] * self.reinitialise + [f"repair on {self.repair}"] * bool(self.repair)
        more += ["not fine-tuned"] * (not self.finetune)
        more += [f"{self.times:g} times the further steps"] * (self.times != 1)
        more += ["the teacher's steps as well"] * (self.budget == TOTAL)
        more += [f"{self.prune_share:g} of them pruning"] if self.prune_share is not None else []
        later = [setting for setting in self.finetune_settings if setting not in self.settings]
        if not self._whole:
            later = [f"{setting} (fine-tuning)" for setting in later]
        return ", ".join([what, *more, *self.settings, *later])

    @property
    def stands_on(self) -> Optional[str]:
        """The line whose runs must finish first."""
        return self.structure_from or self.counts_from


@dataclass(frozen=True)
class GridConfig:
    """Lines for all combinations, named METHOD-TECHNIQUE-RAMP, without those that are not defined.

    Attributes:
        method, technique: see `pruning.methods.config.PruningConfig`.
        ramp: see `pruning.core.constraint.ConstraintConfig`.
        settings, finetune_settings, targets, seeds: values for all these lines, see `MethodConfig`.
        more_seeds: line -> target -> additional seeds.
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
        """Return the lines by name.

        Raises:
            ValueError: ``more_seeds`` names an unknown line.
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
                raise ValueError(f"more_seeds names {name!r}, which is not a line of the grid")
        return found


@dataclass(frozen=True)
class ClaimConfig:
    """The claim that one line errs less than others, or hardly more; the comparison ends with its verdict.

    Attributes:
        better: name of the line.
        than: names of the other lines; ``teacher`` is the dense network.
        margin: how much more it may err, in points of error or accuracy, or in hundredths of a nat per word (about the
            same number of percent of perplexity); 0: it must err less.
    """

    better: str
    than: tuple[str, ...]
    margin: NonNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
