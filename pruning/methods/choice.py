"""Build the pruning method of a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Optional

from torch import nn

from pruning import registry
from pruning.core.low_rank import FactoredLinear, Metric, factorise, linear_names
from pruning.core.prunable import Prunable, prunable
from pruning.core.residual_width import ResidualWidth
from pruning.core.single_weights import SingleWeights
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, unit_kinds
from pruning.core.views import view_for, view_of
from pruning.errors import UserError
from pruning.experiments.structure_files import read_structure
from pruning.methods.base import Pruner
from pruning.methods.config import PruningConfig
from pruning.methods.criterion import CriterionPruning
from pruning.methods.l0 import Gating, L0Config
from pruning.methods.low_rank import LowRankPruning
from pruning.methods.names import HJ, L0


def new_pruner(
    model: nn.Module,
    config: PruningConfig,
    seed: int,
    metrics: Optional[Mapping[str, Metric]] = None,
    left: Optional[Mapping[str, float]] = None,
) -> Pruner:
    """Build the method of a pruning run over a network of a known kind, see `pruner_over`."""
    length = registry.of(model).input_length(model, config.constraint.seconds)
    return pruner_over(model, config, length, seed, metrics, left)


def pruner_over(
    model: nn.Module,
    config: PruningConfig,
    length: int,
    seed: int,
    metrics: Optional[Mapping[str, Metric]] = None,
    left: Optional[Mapping[str, float]] = None,
) -> Pruner:
    """Build the method of a pruning run over a network; ``low_rank`` works on a factored copy of the network.

    Args:
        model: the network to prune.
        config: pruning configuration of the run.
        length: length of the input for which MACs are counted.
        seed: random seed of the method.
        metrics: layer name -> metric for ``low_rank``, see `pruning.methods.low_rank.calibrate`.
        left: of a network that was cut before: cost -> share of the dense network's cost that it still has.

    Raises:
        UserError: the network is factored already, the target is beyond reach, a unit kind is unknown or not
            supported, a latency table is given for the residual width, or ``counts_from`` belongs to another network.
    """
    if any(isinstance(module, FactoredLinear) for module in model.modules()):
        raise UserError("the network already has low-rank layers",
                        "prune the dense network (snapshots give several sizes)")  # fmt: skip
    if config.method in (L0, *HJ):
        gating: L0Config = config.l0
        if config.method in HJ and gating.gates.kinds is None:
            kinds = tuple(unit_kinds(prunable(model).unit_groups()))
            gating = replace(gating, gates=replace(gating.gates, kinds=kinds))
        return Gating(model, gating, config.asked(), length, seed, _view(model, config, gating.gates.kinds))
    common = (config.method, config.criterion, config.constraint, length, seed)
    if config.technique == "low_rank":
        factored = factorise(model, linear_names(model), metrics)
        return LowRankPruning(factored, *common, metrics, config.snapshots)
    counts = None if config.counts_from is None else read_structure(config.counts_from)
    view = _view(model, config, config.criterion.kinds, counts)
    return CriterionPruning(model, *common, counts, view, config.snapshots, left)


def _view(
    model: nn.Module, config: PruningConfig, kinds: Optional[Sequence[str]], counts: Optional[Structure] = None
) -> Prunable:
    """Return the view of a network that declares the units of a run: those of ``kinds``, else those of ``counts``.

    Raises:
        UserError: the residual width is asked for together with a latency table.
    """
    if config.technique == "unstructured":
        return SingleWeights(model)
    view = view_for(model, kinds) if counts is None or kinds is not None else view_of(model, counts)
    if isinstance(view, ResidualWidth) and config.constraint.latency_table is not None:
        raise UserError("a latency table does not say how the time of the other units depends on the residual width",
                        f"leave {WIDTH} out of the unit kinds, or constrain size or macs")  # fmt: skip
    return view
