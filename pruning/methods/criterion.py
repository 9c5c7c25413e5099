"""Pruning by a criterion: units are scored while training goes on, and the least of them cut, at once or bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Optional

import torch
from torch import Tensor, nn

from pruning.core.constraint import ConstraintConfig
from pruning.core.criteria import UnitScores
from pruning.core.names import CRITERIA, WEIGHTS
from pruning.core.prunable import Prunable, prunable
from pruning.core.ranking import NORMALISATIONS, RANKINGS, interpolated, last, ordered, with_counts
from pruning.core.selection import Selection
from pruning.core.structure import Structure
from pruning.core.units import unit_kinds
from pruning.errors import UserError
from pruning.limits import Count, Natural, OneOf, Range, check_fields
from pruning.methods.base import TOLERANCE, Pruner
from pruning.training import distributed
from pruning.training.task import ParameterGroup, StepInfo

_NEAR = 1e-9


@dataclass(frozen=True)
class CriterionConfig:
    """How units are scored, ranked and cut. When they are cut is the constraint's ramp (``constraint.ramp``).

    Attributes:
        kinds: kinds of units that may go; None: every kind but whole modules, which go when all of their units do.
        norm: 1 or 2, of ``magnitude``.
        weights: ``own`` or ``following``, whose norm it is (see `pruning.core.criteria.magnitudes`).
        decay: of the running means of scores, per step.
        ranking: ``global``: units of the whole network against each other; ``group``: every group keeps the same
            share and at least one unit, as in a uniformly narrower network; ``layers``: whole layers go; ``row``: of
            single weights, every output row of a matrix keeps the same share. None: ``row`` for single weights by
            ``wanda``, which is defined so, else ``global``.
        normalisation: of scores before a global ranking: ``none``, ``group``, ``cost`` or ``root_cost`` (see
            `pruning.core.ranking.normalised`). The default was far the best for Taylor scores on the mini corpus; in
            language models it takes all of their heads, which ``root_cost`` does not.
        interval: steps between two cuts of a ramp.
        rest: steps that the ramp stands still where a network is kept on the way (snapshots), at least an interval.
        reopen: whether a closed unit may come back at a later cut (movement pruning).
    """

    kinds: Optional[tuple[str, ...]] = None
    norm: Annotated[int, OneOf((1, 2))] = 2
    weights: Annotated[str, OneOf(WEIGHTS)] = "own"
    decay: Annotated[float, Range(above=0, most=1)] = 0.98
    ranking: Optional[Annotated[str, OneOf(RANKINGS)]] = None
    normalisation: Annotated[str, OneOf(NORMALISATIONS)] = "cost"
    interval: Count = 10
    rest: Natural = 0
    reopen: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


class CriterionPruning(Pruner):
    """Hard masks from the scores of a criterion, on the way that the constraint's ramp describes.

    Args:
        model: a network that declares its units.
        criterion: one of `pruning.core.names.CRITERIA`.
        config: see `CriterionConfig`.
        constraint: the cost and its target.
        frames: input frames at which MACs are counted.
        seed: of random scores.
        counts: a structure whose kept counts are taken, group by group, at the end of the ramp instead of a ranking's;
            the target must be what it costs.
        view: what of the model are units, where it is not what the model itself declares.
        snapshots: sparsities of the first target, ascending, at which the ramp stops for ``config.rest`` steps before
            the network is kept.

    Raises:
        UserError: the target is beyond reach, a kind is unknown, or ``counts`` is of another network.
    """

    keep: Tensor
    cut_at: Tensor
    rested: Tensor

    def __init__(
        self,
        model: nn.Module,
        criterion: str,
        config: CriterionConfig,
        constraint: ConstraintConfig,
        frames: int,
        seed: int = 0,
        counts: Optional[Structure] = None,
        view: Optional[Prunable] = None,
        snapshots: Sequence[float] = (),
    ) -> None:
        if criterion not in CRITERIA:
            raise UserError(f"there is no criterion {criterion!r}", f"choose from {', '.join(CRITERIA)}")
        view = prunable(model) if view is None else view
        groups = view.unit_groups()
        try:
            selection = Selection(groups, unit_kinds(groups) if config.kinds is None else config.kinds)
        except ValueError as error:
            raise UserError(str(error), "correct criterion.kinds") from None
        modules = sorted({group.kind for group in selection.chosen} - set(unit_kinds(groups)))
        if criterion == "activation" and modules:
            what = f"nothing enters the weights of {modules[0]} that is its own: activation has no score of it"
            raise UserError(what, "leave whole modules out of criterion.kinds; they go when all of their units do")
        if counts is not None:
            counts.check_fits(groups, "the structure whose counts are asked for")
        super().__init__(model, selection, constraint, frames, view)
        if counts is not None:
            self._check_costs(counts)
        self.config = config
        self.counts = None if counts is None else {name: len(group.kept) for name, group in counts.groups.items()}
        self.scores = UnitScores(criterion, selection, config.norm, config.weights, config.decay, seed)
        self.probe: Optional[nn.Parameter] = None
        if self.scores.from_gradients:  # its gradient is that of the masks; its value stays 0
            self.probe = nn.Parameter(torch.zeros(selection.num_units))
        # not bool, which gloo of torch 1.13 cannot send to other processes
        self.register_buffer("keep", torch.ones(selection.num_units, dtype=torch.uint8))
        self.register_buffer("cut_at", torch.zeros((), dtype=torch.float64))  # share of the target that is cut
        final = next(iter(self.targets.values()))
        self.snapshots = [sparsity / final for sparsity in snapshots]  # as shares of the target
        self.rest = max(config.rest, config.interval)
        self.register_buffer("rested", torch.zeros((), dtype=torch.int64))  # steps that snapshots held the ramp up
        self._observed: dict[str, Tensor] = {}
        self._looked: Optional[tuple[Tensor, int, Tensor]] = None

    def masks(self, step: StepInfo) -> Mapping[str, Tensor]:
        """0 or 1 for every unit; in training with a gradient, for closed units as well (straight through).

        A module whose units are all closed is closed with its bias, as in extraction; in training only where its units
        cannot come back.
        """
        if not step.training:
            return self.structure().masks()
        values = self.keep.float()
        if self.probe is not None:
            masks = self.units.split(values + self.probe)
        else:
            whole = [bool(part.all()) for part in self._on_host().split(self.units.sizes)]
            masks = {name: mask for (name, mask), all_ in zip(self.units.split(values).items(), whole) if not all_}
        if not self.config.reopen:
            counts = zip(self.units.groups, self.hard_counts().tolist())
            closed = [group.name for group, count in counts if group.size == 1 and not count]
            masks.update({name: values.new_zeros(1) for name in closed})
        return masks

    @contextmanager
    def applied(self, step: StepInfo) -> Iterator[None]:
        """Also looks at what enters weights in training, where the criterion is about that."""
        if step.step == 0:
            self._check_room(step)
        with super().applied(step):
            if step.training and self.scores.observer is not None:
                with self.scores.observer(self.network, self.units, self._observed):
                    yield
            else:
                yield

    def after_backward(self, step: StepInfo, learning_rates: Mapping[str, float]) -> None:
        """Score the units by this step."""
        if self.probe is not None and self.probe.grad is not None:
            self.scores.observe_gradient(self.probe.grad, learning_rates.get("weights", 0.0))  # 0: all are frozen
        if self._observed:
            totals = {name: distributed.summed(total) for name, total in self._observed.items()}
            self.scores.observe(self.network, totals)
            self._observed.clear()

    def after_step(self, step: StepInfo) -> None:
        """Cut where a cut is due."""
        self._observed.clear()  # of a step that was skipped: they may be infinite
        next_step = replace(step, step=step.step + 1)
        held = self._held(self.cut_at.item())
        if self.rested < held:
            self.rested += 1
        if self.rested < held:
            return
        share = self._next_share(next_step, self.cut_at.item(), int(self.rested))
        at_end = share == 1 and next_step.step % self.config.interval and not self.snapshots
        if share <= self.cut_at.item() or not (at_end or next_step.step % self.config.interval == 0):
            return
        if not self.scores.ready:
            return  # every step so far was skipped
        self.keep.copy_(self.units.settled(self._cut(share)))
        distributed.take_from_main([self.keep])
        self.cut_at.fill_(share)
        self.after_cut()

    def snapshot_due(self, step: StepInfo) -> Optional[str]:
        """A snapshot when it has rested, before more units are cut."""
        at = self.cut_at.item()
        if self.rested + 1 != self._held(at):  # `after_step`, which counts this one, is called later
            return None
        cost, final = next(iter(self.targets.items()))
        return f"{cost}-{round(100 * (1 - at * final), 6):g}"

    def at_rest(self, step: StepInfo) -> bool:
        """Also the last cut was made: snapshots hold it up."""
        return super().at_rest(step) and self.cut_at.item() >= 1 - _NEAR

    def _check_room(self, step: StepInfo) -> None:
        """Refuse snapshots that hold the ramp up beyond the end of the run, before anything is trained."""
        if not self.snapshots or step.total_steps is None:
            return
        cut, rested = 0.0, 0
        for made in range(1, step.total_steps + 1):
            rested = min(rested + 1, self._held(cut))
            if rested == self._held(cut) and made % self.config.interval == 0:
                cut = max(cut, self._next_share(replace(step, step=made), cut, rested))
        if cut < 1 - _NEAR:
            what = f"{len(self.snapshots)} snapshots, {self.rest} steps each, hold the ramp up beyond the end"
            raise UserError(what, "lower constraint.ramp_share, criterion.rest or criterion.interval, or train longer")

    def _held(self, cut: float) -> int:
        """Steps that the ramp has stood still, or is to, where ``cut`` is cut."""
        return self.rest * sum(snapshot <= cut + _NEAR for snapshot in self.snapshots)

    def _next_share(self, step: StepInfo, cut: float, rested: int) -> float:
        """The share of the target that a cut after ``step`` steps goes to, ``rested`` of them at rest, where ``cut`` is
        cut: the ramp's, but no further than to the next snapshot.
        """
        share = self.share(step, rested, self.rest * len(self.snapshots))
        return min([share, *(snapshot for snapshot in self.snapshots if snapshot > cut + _NEAR)])

    def after_cut(self) -> None:
        """Called when units were cut."""

    def scored(self) -> Tensor:
        """Scores of all units, ``(U,)`` float64."""
        return self.scores.values(self.network)

    def kept(self) -> Tensor:
        """Which units are kept, ``(U,)`` bool, on the CPU."""
        return self._on_host().clone()

    def _on_host(self) -> Tensor:
        """The same, to be read alone: a step without a cut does not wait for a GPU to say what is known."""
        if self._looked is None or self._looked[0] is not self.keep or self._looked[1] != self.keep._version:
            self._looked = self.keep, self.keep._version, self.keep.bool().cpu()
        return self._looked[2]

    @torch.no_grad()
    def _cut(self, share: float) -> Tensor:
        scores, config = self.scored(), self.config
        keep = torch.ones_like(self.kept()) if config.reopen else self.kept()
        if self.counts is not None:
            return with_counts(last(scores, keep), self.units, interpolated(self.units, self.counts, share)) & keep
        cost, normalisation = next(iter(self.targets)).partition(":")[0], config.normalisation  # of a part: the whole's
        if self.scores.criterion == "random":
            normalisation = "none"  # equal chances
        by_row = self.scores.criterion == "wanda" and all(group.single for group in self.units.chosen)
        ranking = config.ranking or ("row" if by_row else "global")
        order = ordered(scores, self.units, self.costs, cost, ranking, normalisation, keep, self.scores.price_power)
        targets = {name: target * share for name, target in self.targets.items()}
        exact = any(abs(share - stop) <= _NEAR for stop in (1.0, *self.snapshots))
        return self.units.fitted(keep, order, self.costs, targets, may_open=keep, fill=exact)

    def _check_costs(self, counts: Structure) -> None:
        """Counts that cost something else would only be found out at the end."""
        sizes = {name: len(group.kept) for name, group in counts.groups.items()}
        keep = with_counts(torch.zeros(self.units.num_units), self.units, sizes)  # of what may go here
        kept = self.units.hard_counts(keep)
        gaps = {cost: self.costs.sparsity(kept, cost).item() - target for cost, target in self.targets.items()}
        cost = min(gaps, key=lambda name: gaps[name])  # of several targets, the one that is hardest to meet
        if abs(gaps[cost]) > TOLERANCE:
            reached = self.targets[cost] + gaps[cost]
            what = f"the counts have a sparsity of {reached:.3f} in {cost}, the target is {self.targets[cost]:g}"
            raise UserError(what, f"give constraint.{cost}={reached:.3f}, more kinds of units, or another structure")

    def hard_counts(self) -> Tensor:
        """Counts ``(G,)`` of what is not cut."""
        return self.units.hard_counts(self._on_host())

    def kept_counts(self, share: float = 1.0) -> Tensor:
        """Of what is not cut by now; scores of single weights are as large as the network."""
        return self.hard_counts()

    def structure(self, share: float = 1.0) -> Structure:
        """What is not cut by now, with the scores."""
        return self.units.structure(self.kept(), self.scored())

    def parameter_groups(self) -> list[ParameterGroup]:
        """The probe, which takes part in the backward pass and never moves."""
        if self.probe is None:
            return []
        return [ParameterGroup("probe", (self.probe,), 0.0, 0.0, clip=False, schedule="constant")]
