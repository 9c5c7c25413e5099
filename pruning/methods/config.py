"""Configuration of pruning: method, technique, constraint, and checks that they fit together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Optional, Self

from pruning import old_forms
from pruning.core.constraint import ConstraintConfig, further
from pruning.errors import UserError
from pruning.limits import Fraction, OneOf, check_fields
from pruning.methods.criterion import CriterionConfig
from pruning.methods.l0 import L0Config
from pruning.methods.low_rank import LowRankConfig
from pruning.methods.names import HJ, L0, METHODS, NO_CELL, TECHNIQUES
from pruning.training.trainer_config import TrainerConfig

logger = logging.getLogger(__name__)
_USERS = {"l0": f"method {L0}, {', '.join(HJ)}", "criterion": "another method", "low_rank": "technique low_rank"}
"""What uses each section, for messages."""
_OF_HJ = dict(zip(HJ, ("size", "macs", "parts")))


@dataclass(frozen=True)
class PruningConfig:
    """Pruning configuration of a run.

    Attributes:
        method: one of `METHODS`: ``l0`` (L0 gates); a method of `HJ`, which has L0 gates on units but not on whole
            modules, and uses only ``constraint.size``, ``constraint.macs`` or ``constraint.parts`` and ignores the
            other targets; or a criterion (see `pruning.core.criteria.UnitScores`).
        technique: what is removed. ``structured``: the units that the network declares (heads, FFN units, channels);
            ``unstructured``: single weights of its linear layers; ``low_rank``: rank-1 components of these layers.
        constraint: cost targets of the small network, and their schedule.
        l0: gates and learning rates of ``l0`` and HJ-Pruning.
        criterion: how the other methods score, rank and cut units.
        counts_from: for criteria: a ``structure.json`` or a pruning run whose kept counts are used.
        snapshots: for criteria: sparsities of the first constrained cost at which the run also saves a network under
            ``sizes/COST-PERCENT`` of its experiment directory, to get several sizes from one run.
        low_rank: how ``technique: low_rank`` approximates matrices.
    """

    method: Annotated[str, OneOf(METHODS)] = L0
    technique: Annotated[str, OneOf(TECHNIQUES)] = "structured"
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    l0: L0Config = field(default_factory=L0Config)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    counts_from: Optional[str] = None
    snapshots: tuple[Fraction, ...] = ()
    low_rank: LowRankConfig = field(default_factory=LowRankConfig)

    def __post_init__(self) -> None:
        check_fields(self)

    def unused(self) -> dict[str, str]:
        """Return the sections that the method or the technique does not use, each with what does not use it."""
        by_method = "criterion" if self.method in (L0, *HJ) else "l0"
        found = {by_method: f"method {self.method}"}
        return found if self.technique == "low_rank" else {**found, "low_rank": f"technique {self.technique}"}

    def asked(self) -> ConstraintConfig:
        """Return the constraint that the method uses: for a method of `HJ` only the target of its own cost.

        Raises:
            ValueError: the constraint has no target for that cost.
        """
        if self.method not in HJ:
            return self.constraint
        own = _OF_HJ[self.method]
        values: dict[str, Any] = {"size": 0.0, "macs": 0.0, "latency": 0.0, "parts": {}}
        values[own] = getattr(self.constraint, own)
        if not values[own]:
            raise ValueError(f"{self.method} needs constraint.{own}")
        return replace(self.constraint, **values)

    def after_cut(self, left: Mapping[str, float]) -> Self:
        """Return the configuration for a network that was cut before; this one refers to the dense network.

        Args:
            left: cost -> share of the dense network's cost that the network still has.

        Raises:
            UserError: a target or a snapshot is not beyond the first cut, or a target is not one of size or MACs.
        """
        constraint, cost = self.constraint.after_cut(left), next(iter(self.constraint.targets()))
        snapshots = tuple(further(sparsity, left, cost, "all snapshots") for sparsity in self.snapshots)
        return replace(self, constraint=constraint, snapshots=snapshots)

    def check(self, trainer: Optional[TrainerConfig] = None) -> None:
        """Check that method, technique, constraint and trainer fit together.

        Args:
            trainer: settings of the training loop; None: a loop without such settings.

        Raises:
            ValueError: they do not; the message names the keys.
        """
        reason = NO_CELL.get((self.method, self.technique))
        if reason is not None:
            raise ValueError(f"method {self.method} does not support {self.technique}: {reason}")
        if self.constraint.match and self.method not in (L0, *HJ):
            raise ValueError("constraint.match works only with L0 gates; a criterion can use the other cost as target")
        if self.counts_from is not None and self.technique != "structured":
            raise ValueError(f"counts_from requires technique structured, got {self.technique}")
        if self.technique == "low_rank" and self.criterion.reopen:
            raise ValueError("criterion.reopen does not work with low_rank: cut components are lost in the rotation")
        targets = self.asked().targets()
        if self.method == "hj-sepsize" and (len(targets) < 2 or not all(cost.startswith("size:") for cost in targets)):
            raise ValueError("hj-sepsize needs sizes of at least two parts in constraint.parts, such as "
                             "{size:frontend: 0.4, size:attention+ffn: 0.6}")  # fmt: skip
        final = next(iter(targets.values()))
        if self.snapshots and (self.method in (L0, *HJ) or self.counts_from is not None):
            raise ValueError("snapshots work only with criteria that rank units, and without counts_from")
        if list(self.snapshots) != sorted(set(self.snapshots)) or not all(0 < s < final for s in self.snapshots):
            raise ValueError(f"snapshots must ascend and lie between 0 and the target, {final:g}")
        if self.method in (L0, *HJ) and self.counts_from is not None:
            raise ValueError("counts_from works only with criteria; gates find their own counts")
        if self.method == "movement" and trainer is not None and trainer.optimiser.lr == 0:
            raise ValueError("movement scores how weights move, so trainer.optimiser.lr must be above 0")


def check_settings(config: PruningConfig, settings: Iterable[str]) -> None:
    """Check that the method of a configuration uses all settings ``KEY=VALUE`` that were given for it alone.

    Raises:
        UserError: it does not use the section of one of them.
    """
    unused = config.unused()
    for setting in map(old_forms.setting, settings):
        section = setting.partition("=")[0].partition(".")[0]
        if section in unused:
            what = f"setting {setting} has no effect: {unused[section]} does not use settings under {section}:"
            raise UserError(what, f"leave it out, or choose {_USERS[section]}")


def note_unused(config: PruningConfig, sections: Iterable[str]) -> None:
    """Log which ``sections`` of a configuration file, which may serve several methods, this method does not use."""
    unused = config.unused()
    for section in sections:
        if section in unused:
            logger.info("settings under %s: are not used by %s", section, unused[section])
