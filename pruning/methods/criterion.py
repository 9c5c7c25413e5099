"""Pruning by a criterion: score units during training and cut those with the lowest scores, at once or gradually."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Optional

import torch
from torch import Tensor, nn

from pruning.core.block_influence import layers_of
from pruning.core.constraint import ConstraintConfig, check_reachable
from pruning.core.criteria import UnitScores, magnitudes
from pruning.core.names import CRITERIA, DEPTH, WEIGHTS
from pruning.core.prunable import Prunable, prunable
from pruning.core.ranking import (
    NORMALISATIONS,
    RANKINGS,
    evened,
    influence_order,
    interpolated,
    last,
    normalised,
    ordered,
    untied,
    with_counts,
)
from pruning.core.selection import Selection
from pruning.core.structure import Structure
from pruning.core.units import unit_kinds
from pruning.errors import UserError
from pruning.limits import Count, Natural, OneOf, Range, check_fields
from pruning.methods.base import TOLERANCE, Scorer
from pruning.training import distributed
from pruning.training.task import ParameterGroup, StepInfo

logger = logging.getLogger(__name__)

_NEAR = 1e-9


@dataclass(frozen=True)
class CriterionConfig:
    """How units are scored, ranked and cut. The ramp of the constraint (``constraint.ramp``) says when they are cut.

    Attributes:
        kinds: unit kinds that may be removed; None: all except ``width`` (channels of the residual stream) and whole
            modules, which are removed when all of their units are.
        norm: order of the norm (1 or 2) that the ``magnitude`` criterion uses.
        weights: weights whose norm ``magnitude`` takes, ``own`` or ``following`` (see
            `pruning.core.criteria.magnitudes`).
        decay: decay per step of the running means of scores.
        ranking: ``global``: rank the units of the whole network together; ``group``: every group keeps the same share
            and at least one unit, as in a uniformly narrower network; ``layers``: remove whole layers; ``row``: for
            single weights, every output row of a matrix keeps the same share. None: ``row`` for single weights with
            ``wanda``, which is defined this way, else ``global``. The criterion ``depth`` ranks layers by their scores.
        normalisation: normalisation of scores before a global ranking: ``none``, ``group``, ``cost`` or ``root_cost``
            (see `pruning.core.ranking.normalised`). The default was by far the best for Taylor scores on the mini
            corpus; in language models it removes all heads, which ``root_cost`` does not.
        interval: number of steps between two cuts on a ramp.
        rest: number of steps that the ramp stands still before a snapshot is saved; at least ``interval`` is used.
        reopen: whether a closed unit may be opened at a later cut (movement pruning).
        whole_layers: for a ranking of layers, whether to remove no layer in part: layers go until the target is met,
            and the sparsity may end above it.
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
    whole_layers: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


class CriterionPruning(Scorer):
    """Hard masks from the scores of a criterion, on the schedule of the constraint's ramp.

    Args:
        model: a network that declares its units.
        criterion: one of `pruning.core.names.CRITERIA`.
        config: see `CriterionConfig`.
        constraint: the costs and their targets.
        frames: number of input frames at which MACs are counted.
        seed: seed of random scores, and of the order in which units of equal scores are removed.
        counts: a structure whose kept counts per group are used at the end of the ramp instead of a ranking; its cost
            must equal the target.
        view: view of the model that declares the units, e.g. its single weights; None: the model itself.
        snapshots: sparsities of the first target, ascending, at which the ramp rests for ``config.rest`` steps before
            the network is saved.
        left: of a network that was cut before: cost -> share of the dense network's cost that it still has, for the
            names of snapshots.

    Raises:
        UserError: the target is beyond reach, a unit kind is unknown or has no scores, or ``counts`` belongs to another
            network or misses the target.
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
        left: Optional[Mapping[str, float]] = None,
    ) -> None:
        if criterion not in CRITERIA:
            raise UserError(f"unknown criterion {criterion!r}", f"choose from {', '.join(CRITERIA)}")
        view = prunable(model) if view is None else view
        groups = view.unit_groups()
        unseen = {group.kind for group in groups if group.read and group.read[0].dim == 0}  # no inputs of a layer
        blind = unseen if criterion == "activation" else set()
        kinds = [kind for kind in unit_kinds(groups) if kind not in blind]
        try:
            selection = Selection(groups, kinds if config.kinds is None else config.kinds)
        except ValueError as error:
            raise UserError(str(error), "correct criterion.kinds") from None
        unscored = sorted({group.kind for group in selection.chosen} & blind)
        if unscored:
            what = f"the criterion activation has no scores for {unscored[0]}, which are not the inputs of a layer"
            raise UserError(what, "leave them out of criterion.kinds; modules are removed when all of their units are")
        if criterion == DEPTH:
            if not layers_of(selection.chosen):
                raise UserError(f"the criterion {DEPTH} needs units in layers, and the network declares none",
                                "use another criterion")  # fmt: skip
            if config.ranking not in (None, "layers"):
                raise UserError(f"criterion.ranking is {config.ranking}, but {DEPTH} ranks layers",
                                "leave out criterion.ranking")  # fmt: skip
        if counts is not None:
            counts.check_fits(groups, "the structure in counts_from")
        super().__init__(model, selection, constraint, frames, view)
        if counts is not None:
            self._check_costs(counts)
        if config.whole_layers:
            self._check_whole_layers(criterion, config, bool(snapshots) or counts is not None)
            self.exact = False
        self.config, self._seed = config, seed
        self.counts = None if counts is None else {name: len(group.kept) for name, group in counts.groups.items()}
        self.scores = UnitScores(criterion, selection, config.norm, config.weights, config.decay, seed)
        self.probe: Optional[nn.Parameter] = None
        if self.scores.from_gradients:  # its gradient is the gradient of the masks; its value stays 0
            self.probe = nn.Parameter(torch.zeros(selection.num_units))
        # not bool, which gloo in torch 1.13 cannot send to other processes
        self.register_buffer("keep", torch.ones(selection.num_units, dtype=torch.uint8))
        self.register_buffer("cut_at", torch.zeros((), dtype=torch.float64))  # share of the target at the last cut
        final = next(iter(self.targets.values()))
        self._left = left or {}
        self.snapshots = [sparsity / final for sparsity in snapshots]  # as shares of the target
        self.rest = max(config.rest, config.interval)
        self.register_buffer("rested", torch.zeros((), dtype=torch.int64))  # steps that snapshots delayed the ramp
        self._observed: dict[str, Tensor] = {}
        self._looked: Optional[tuple[Tensor, int, Tensor]] = None

    def masks(self, step: StepInfo) -> Mapping[str, Tensor]:
        """Return masks of 0 or 1; in training with a gradient, also for closed units (straight-through estimator).

        A module whose units are all closed is closed with its bias, as at extraction; in training only if its units
        cannot be opened again.
        """
        if not step.training:
            return self.structure().masks()
        values = self.keep.float()
        if self.probe is not None:
            masks = self.units.split(values + self.probe)
        else:
            whole = [bool(part.all()) for part in self._on_host().split(self.units.sizes)]
            masks = {name: mask for (name, mask), all_ in zip(self.units.split(values).items(), whole) if not all_}
        if not self.config.reopen or self.at_rest(step):
            counts = zip(self.units.groups, self.hard_counts().tolist())
            closed = [group.name for group, count in counts if group.size == 1 and not count]
            masks.update({name: values.new_zeros(1) for name in closed})
        return masks

    @contextmanager
    def applied(self, step: StepInfo) -> Iterator[None]:
        """Also observe the inputs of weights in training, if the criterion needs them."""
        if step.step == 0:
            self._check_room(step)
        with super().applied(step):
            if step.training and self.scores.observer is not None:
                with self.scores.observer(self.network, self.units, self._observed):
                    yield
            else:
                yield

    def after_backward(self, step: StepInfo, learning_rates: Mapping[str, float]) -> None:
        """Accumulate the scores of this step."""
        if self.probe is not None and self.probe.grad is not None:
            self.scores.observe_gradient(self.probe.grad, learning_rates.get("weights", 0.0))  # 0: all frozen
        if self._observed:
            totals = {name: distributed.summed(total) for name, total in self._observed.items()}
            self.scores.observe(self.network, totals)
            self._observed.clear()

    def after_step(self, step: StepInfo) -> None:
        """Cut if a cut is due."""
        self._observed.clear()  # left from a skipped step: may be infinite
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
            return  # all steps so far were skipped
        self.keep.copy_(self.units.settled(self._cut(share)))
        distributed.take_from_main([self.keep])
        self.cut_at.fill_(share)
        self.after_cut()

    def snapshot_due(self, step: StepInfo) -> Optional[str]:
        """Return the snapshot whose rest ends at this step, before more units are cut.

        It is named by its percentage of the dense network's cost.
        """
        at = self.cut_at.item()
        if self.rested + 1 != self._held(at):  # + 1: `after_step`, which counts this step, is called later
            return None
        cost, final = next(iter(self.targets.items()))
        return f"{cost}-{round(100 * (1 - at * final) * self._left.get(cost, 1.0), 6):g}"

    def at_rest(self, step: StepInfo) -> bool:
        """Also require that the last cut was made, because snapshots delay it."""
        return super().at_rest(step) and self.cut_at.item() >= 1 - _NEAR

    def _check_room(self, step: StepInfo) -> None:
        """Reject snapshots that delay the ramp beyond the end of the run, before training starts."""
        if not self.snapshots or step.total_steps is None:
            return
        cut, rested = 0.0, 0
        for made in range(1, step.total_steps + 1):
            rested = min(rested + 1, self._held(cut))
            if rested == self._held(cut) and made % self.config.interval == 0:
                cut = max(cut, self._next_share(replace(step, step=made), cut, rested))
        if cut < 1 - _NEAR:
            what = f"{len(self.snapshots)} snapshots of {self.rest} steps each delay the ramp beyond the last step"
            raise UserError(what, "lower constraint.ramp_share, criterion.rest or criterion.interval, or train longer")

    def _held(self, cut: float) -> int:
        """Return the number of steps that the ramp rests in total up to and at the share ``cut``."""
        return self.rest * sum(snapshot <= cut + _NEAR for snapshot in self.snapshots)

    def _next_share(self, step: StepInfo, cut: float, rested: int) -> float:
        """Return the share of the target for a cut at ``step``: that of the ramp, but at most the next snapshot.

        ``cut`` is the share that is cut so far, ``rested`` the number of steps at rest so far.
        """
        share = self.share(step, rested, self.rest * len(self.snapshots))
        return min([share, *(snapshot for snapshot in self.snapshots if snapshot > cut + _NEAR)])

    def untrained(self) -> str:
        """Return that no step was scored, for criteria that score steps."""
        return "" if self.scores.ready else f"no step was scored by {self.scores.criterion}"

    def after_cut(self) -> None:
        """Called after units were cut."""

    def scored(self) -> Tensor:
        """Return the scores of all units, ``(U,)`` float64."""
        return self.scores.values(self.network)

    def kept(self) -> Tensor:
        """Return the kept units, ``(U,)`` bool, on the CPU."""
        return self._on_host().clone()

    def _on_host(self) -> Tensor:
        """Return the kept units from a cache, read-only, so that a step without a cut does not wait for a GPU."""
        if self._looked is None or self._looked[0] is not self.keep or self._looked[1] != self.keep._version:
            self._looked = self.keep, self.keep._version, self.keep.bool().cpu()
        return self._looked[2]

    @torch.no_grad()
    def _cut(self, share: float) -> Tensor:
        scores, config = untied(self.finite_scores(), self._seed), self.config
        keep = torch.ones_like(self.kept()) if config.reopen else self.kept()
        if self.counts is not None:
            return with_counts(last(scores, keep), self.units, interpolated(self.units, self.counts, share)) & keep
        # for a part: the cost of the whole network
        cost, normalisation = next(iter(self.targets)).partition(":")[0], config.normalisation
        targets = {name: target * share for name, target in self.targets.items()}
        exact = any(abs(share - stop) <= _NEAR for stop in (1.0, *self.snapshots))
        if self.scores.criterion == DEPTH:  # of the layer that goes in part, the weights tell which units go
            norms = magnitudes(self.network, self.units).double()
            worth = last(normalised(norms, self.units, self.costs, cost, "cost", 0.5), keep)
            return self._fitted(keep, influence_order(scores, worth, self.units), targets, exact)
        if self.scores.criterion == "random":
            normalisation = "none"  # equal chances
        by_row = self.scores.criterion == "wanda" and all(group.single for group in self.units.chosen)
        ranking = config.ranking or ("row" if by_row else "global")
        order = ordered(scores, self.units, self.costs, cost, ranking, normalisation, keep, self.scores.price_power)
        keep = self._fitted(keep, order, targets, exact)
        return self._evened(keep, order, targets) if ranking == "group" and exact else keep

    def _fitted(self, keep: Tensor, order: Tensor, targets: Mapping[str, float], exact: bool) -> Tensor:
        """Return ``keep (U,)`` without the units, or layers, that go first in an order; see `Selection.fitted`."""
        if not self.config.whole_layers:
            return self.units.fitted(keep, order, self.costs, targets, may_open=keep, fill=exact)
        keep = self.units.without_layers(keep, order, self.costs, targets, meet=exact)
        if exact:
            counts = self.units.hard_counts(keep)
            reached = (f"{self.costs.sparsity(counts, cost).item():.4f} in {cost} for {target:.4f}"
                       for cost, target in targets.items())  # fmt: skip
            logger.info("sparsity without whole layers: %s", ", ".join(reached))
        return keep

    def _check_whole_layers(self, criterion: str, config: CriterionConfig, stops: bool) -> None:
        """Refuse whole layers with another ranking, or where the target must be met exactly or needs other units.

        Raises:
            UserError: see above.
        """
        if criterion != DEPTH and config.ranking != "layers":
            raise UserError("criterion.whole_layers is for a ranking of layers",
                            "set criterion.ranking=layers, or use --method depth")  # fmt: skip
        if stops:
            raise UserError("criterion.whole_layers does not meet a target exactly, which snapshots and counts_from "
                            "need", "leave it out, or leave those out")  # fmt: skip
        in_layers = [group for group in self.units.chosen if group.layer is not None]
        check_reachable(self.costs, in_layers, self.targets)

    def _evened(self, keep: Tensor, order: Tensor, targets: Mapping[str, float]) -> Tensor:
        """Return ``keep (U,)`` with equal counts in groups of a kind and size, if that meets the targets, too.

        Units that are closed one by one end in the middle of a round through the groups. Groups on which no target
        depends stay as they are.
        """
        for together, inside in self.units.separate(self.costs, targets):
            even = evened(keep, order, self.units, inside)
            counts = self.units.hard_counts(even)
            gaps = [self.costs.sparsity(counts, cost).item() - target for cost, target in together.items()]
            keep = even if max(map(abs, gaps)) <= TOLERANCE else keep
        return keep

    def _check_costs(self, counts: Structure) -> None:
        """Check that the counts meet the target, which would otherwise show only at the end of training.

        Raises:
            UserError: they do not.
        """
        sizes = {name: len(group.kept) for name, group in counts.groups.items()}
        keep = with_counts(torch.zeros(self.units.num_units), self.units, sizes)  # only the units that may be removed
        kept = self.units.hard_counts(keep)
        gaps = {cost: self.costs.sparsity(kept, cost).item() - target for cost, target in self.targets.items()}
        cost = min(gaps, key=lambda name: gaps[name])  # the target that is missed most
        if abs(gaps[cost]) > TOLERANCE:
            reached = self.targets[cost] + gaps[cost]
            what = f"counts_from has a sparsity of {reached:.3f} in {cost}, but the target is {self.targets[cost]:g}"
            key = f"constraint.parts={{{cost}: {reached:.3f}}}" if ":" in cost else f"constraint.{cost}={reached:.3f}"
            raise UserError(what, f"set {key}, allow more unit kinds, or change counts_from")

    def hard_counts(self) -> Tensor:
        """Return the counts ``(G,)`` of the units that are not cut."""
        return self.units.hard_counts(self._on_host())

    def kept_counts(self, share: float = 1.0) -> Tensor:
        """Return the counts of the units that are not cut so far; no scores, which can be as large as the network."""
        return self.hard_counts()

    def structure(self, share: float = 1.0) -> Structure:
        """Return the structure of the units that are not cut so far, with scores."""
        return self.units.structure(self.kept(), self.scored())

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the probe, which takes part in the backward pass and never changes."""
        if self.probe is None:
            return []
        return [ParameterGroup("probe", (self.probe,), 0.0, 0.0, clip=False, schedule="constant", scaled=False)]
