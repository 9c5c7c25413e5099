"""Which method prunes, what may go, and what fits together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Optional

from pruning.core.constraint import ConstraintConfig
from pruning.limits import Count, Fraction, OneOf, check_fields
from pruning.methods.criterion import CriterionConfig
from pruning.methods.l0 import GatingConfig
from pruning.methods.names import HJ, L0, METHODS, NO_CELL, TECHNIQUES
from pruning.training.trainer_config import TrainerConfig

_OF_HJ = dict(zip(HJ, ("size", "macs", "parts")))


@dataclass(frozen=True)
class PruningConfig:
    """How a run prunes.

    Attributes:
        method: one of `METHODS`: L0 gates; `HJ`'s, which are L0 gates on units alone, not on whole modules, under
            ``constraint.size``, ``constraint.macs`` or ``constraint.parts`` alone, whatever else the constraint says;
            or a criterion (see `pruning.core.criteria.UnitScores`).
        technique: what goes: ``structured``: the units that the network declares (heads, FFN units, channels);
            ``unstructured``: single weights of its linear layers; ``low_rank``: rank-1 components of these.
        constraint: what the small network may cost, and on which way it comes there.
        gating: of ``l0``: gates and learning rates.
        criterion: of the others: how units are scored, ranked and cut.
        counts_from: of the others: a ``structure.json`` or pruning run whose kept counts are taken.
        snapshots: of the others: shares of the first constrained cost to be removed, at which the run keeps a network,
            too, ready under ``sizes/COST-PERCENT`` of its directory: several sizes from one run.
        calibration_batches: of ``low_rank`` by ``fisher`` and ``wanda``: training batches that give their metric.
    """

    method: Annotated[str, OneOf(METHODS)] = L0
    technique: Annotated[str, OneOf(TECHNIQUES)] = "structured"
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    gating: GatingConfig = field(default_factory=GatingConfig)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    counts_from: Optional[str] = None
    snapshots: tuple[Fraction, ...] = ()
    calibration_batches: Count = 50

    def __post_init__(self) -> None:
        check_fields(self)

    def asked(self) -> ConstraintConfig:
        """The constraint, of `HJ`'s methods that of their own cost alone.

        Raises:
            ValueError: it does not have that.
        """
        if self.method not in HJ:
            return self.constraint
        own = _OF_HJ[self.method]
        values: dict[str, Any] = {"size": 0.0, "macs": 0.0, "latency": 0.0, "parts": {}}
        values[own] = getattr(self.constraint, own)
        if not values[own]:
            raise ValueError(f"{self.method} needs constraint.{own}")
        return replace(self.constraint, **values)

    def check(self, trainer: TrainerConfig) -> None:
        """What does not fit together.

        Raises:
            ValueError: naming it.
        """
        reason = NO_CELL.get((self.method, self.technique))
        if reason is not None:
            raise ValueError(f"there is no {self.method} with {self.technique}: {reason}")
        if self.constraint.match and self.method not in (L0, *HJ):
            raise ValueError("constraint.match is of L0 gates; a criterion takes the other cost as its target")
        if self.counts_from is not None and self.technique != "structured":
            raise ValueError(f"counts_from has no effect with {self.technique}")
        if self.technique == "low_rank" and self.criterion.reopen:
            raise ValueError("criterion.reopen has no meaning with low_rank: what was cut is turned away")
        targets = self.asked().targets()
        if self.method == "hj-sepsize" and (len(targets) < 2 or not all(cost.startswith("size:") for cost in targets)):
            raise ValueError("hj-sepsize needs sizes of two parts in constraint.parts, such as "
                             "{size:frontend: 0.4, size:attention+ffn: 0.6}")  # fmt: skip
        final = next(iter(targets.values()))
        if self.snapshots and (self.method in (L0, *HJ) or self.counts_from is not None):
            raise ValueError("snapshots are of methods that rank units on their way to the target")
        if list(self.snapshots) != sorted(set(self.snapshots)) or not all(0 < s < final for s in self.snapshots):
            raise ValueError(f"snapshots ascend and lie between 0 and the target, {final:g}")
        if self.method in (L0, *HJ) and self.counts_from is not None:
            raise ValueError("counts_from is of methods that rank units; gates find their own counts")
        if self.method == "movement" and trainer.optimiser.lr == 0:
            raise ValueError("movement scores how weights move; give a trainer.optimiser.lr above 0")
