"""Incremental low rank: remove rank-1 components of factored layers like units, then make the rest orthogonal again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, cast

import torch
from torch import Tensor, nn

from pruning.core.constraint import ConstraintConfig
from pruning.core.linear_inputs import watched_inputs
from pruning.core.low_rank import METRIC_OF, FactoredLinear, Metric, importance, recombined
from pruning.limits import Count, check_fields
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from pruning.training import distributed
from pruning.training.task import StepInfo, Task


@dataclass(frozen=True)
class LowRankConfig:
    """How matrices are approximated.

    Attributes:
        calibration_batches: number of training batches from which ``fisher`` and ``wanda`` compute their metrics.
    """

    calibration_batches: Count = 50

    def __post_init__(self) -> None:
        check_fields(self)


Moments = Mapping[Tensor, MutableMapping[str, Tensor]]


def calibrate(task: Task, names: Sequence[str], batches: Iterable[Any], criterion: str) -> dict[str, Metric]:
    """Compute the metric of each layer in which a criterion approximates matrices, on the CPU.

    Args:
        task: task of the dense network, on the device on which to compute.
        names: names of the linear layers.
        batches: training batches, on the same device.
        criterion: ``fisher`` uses gradients and ``wanda`` inputs; for the others, which use the plain metric, the
            result is empty.
    """
    if METRIC_OF.get(criterion) == "fisher":
        return {name: Metric.of_fisher(squares) for name, squares in _squared_gradients(task, names, batches).items()}
    if METRIC_OF.get(criterion) == "inputs":
        return {name: Metric.of_inputs(gram) for name, gram in _grams(task, names, batches).items()}
    return {}


def _squared_gradients(task: Task, names: Sequence[str], batches: Iterable[Any]) -> dict[str, Tensor]:
    """Return the sum over batches of each weight's squared gradient, ``(out, in * kernel)``."""
    task.eval()
    weights = [task.model.get_parameter(f"{name}.weight") for name in names]
    sums = [torch.zeros_like(weight.flatten(1), dtype=torch.float64) for weight in weights]
    for batch in batches:
        loss, _ = task(batch, StepInfo(1, 0, 0, training=False))
        for total, gradient in zip(sums, torch.autograd.grad(loss, weights)):
            total += gradient.flatten(1).double() ** 2
    return {name: total.cpu() for name, total in zip(names, sums)}


@torch.no_grad()
def _grams(task: Task, names: Sequence[str], batches: Iterable[Any]) -> dict[str, Tensor]:
    """Return the sum of ``x x^T`` over the inputs of each layer, ``(in * kernel, in * kernel)``."""
    task.eval()
    sums: dict[str, Tensor] = {}

    def see(name: str, x: Tensor) -> None:
        gram = x.double().T @ x.double()
        sums[name] = gram if name not in sums else sums[name] + gram

    with watched_inputs(task.model, names, see):
        for batch in batches:
            task(batch, StepInfo(1, 0, 0, training=False))
    return {name: total.cpu() for name, total in sums.items()}


class LowRankPruning(CriterionPruning):
    """Removes the least important components over all layers of a factored network and rotates the others.

    After every cut, the remaining components of a layer are brought to the form of a singular value decomposition in
    the metric of the criterion. For ``magnitude``, ``fisher`` and ``wanda`` this is also done for all layers before a
    cut: the score of a component is its singular value in the current matrix. The other criteria work as for every unit
    and use the mask of the component: ``taylor`` is ``|sum dL/dU_i . U_i|`` (which equals ``|sum dL/dV_i . V_i|``),
    accumulated since the last cut.

    Args:
        model: a network whose layers are factored (see `pruning.core.low_rank.factorise`).
        criterion: one of `pruning.core.names.CRITERIA`.
        config, constraint, frames, seed, snapshots: see `CriterionPruning`.
        metrics: layer name -> metric; the plain metric for layers without an entry.

    Raises:
        UserError: the target is beyond reach.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: str,
        config: CriterionConfig,
        constraint: ConstraintConfig,
        frames: int,
        seed: int = 0,
        metrics: Optional[Mapping[str, Metric]] = None,
        snapshots: Sequence[float] = (),
    ) -> None:
        self._metrics = dict(metrics or {})
        self._by_value = criterion in METRIC_OF
        scored_as = "magnitude" if self._by_value else criterion
        super().__init__(model, scored_as, config, constraint, frames, seed, snapshots=snapshots)
        self._moments: Moments = {}
        self.scores.norm = 2  # regardless of criterion.norm: a singular value grows with the root of the weights

    def _layer(self, group: str) -> tuple[FactoredLinear, Metric]:
        name = group.rpartition(".")[0]
        return cast(FactoredLinear, self.network.get_submodule(name)), self._metrics.get(name, Metric())

    @torch.no_grad()
    def scored(self) -> Tensor:
        """Return the scores of all components, ``(U,)`` float64."""
        if not self._by_value:
            return super().scored()
        parts = []
        for group in self.units.chosen:
            layer, metric = self._layer(group.name)
            parts.append(importance(layer.u.weight, layer.v.weight, metric))
        return torch.cat(parts)

    @torch.no_grad()
    def _cut(self, share: float) -> Tensor:
        """Cut components, after bringing the factors back to SVD form if scores are singular values."""
        if self._by_value:
            for group, part in zip(self.units.chosen, self.kept().split(self.units.sizes)):
                self._rotate(*self._layer(group.name), torch.nonzero(part).flatten())
        return super()._cut(share)

    def attach_moments(self, moments: Moments) -> None:
        """Keep the optimiser's state per parameter, which is rotated with the components."""
        self._moments = moments

    @torch.no_grad()
    def after_cut(self) -> None:
        """Rotate the remaining components of each layer into its first positions."""
        keep = self.kept()
        for group, part in zip(self.units.chosen, keep.split(self.units.sizes)):
            if part.all():
                continue
            layer, metric = self._layer(group.name)
            self._rotate(layer, metric, torch.nonzero(part).flatten())
            part.copy_(torch.arange(group.size) < part.sum())
        self.keep.copy_(keep)
        self.scores.forget()
        distributed.take_from_main(self._turned())

    def _turned(self) -> Iterator[Tensor]:
        """Yield the factors and the optimiser's moments of them."""
        for group in self.units.chosen:
            layer, _ = self._layer(group.name)
            for weight in (layer.u.weight, layer.v.weight):
                yield weight
                moments = self._moments.get(weight, {})
                yield from (moments[key] for key in ("exp_avg", "exp_avg_sq") if key in moments)

    def _rotate(self, layer: FactoredLinear, metric: Metric, kept: Tensor) -> None:
        left, right = layer.u.weight, layer.v.weight
        rank = len(kept)
        mixing, inverse = recombined(left[:, kept], right[kept], metric)  # U' = U R, V' = R^-1 V
        for key, power in (("", 1), ("exp_avg", 1), ("exp_avg_sq", 2)):
            u, v = (weight if not key else self._moments.get(weight, {}).get(key) for weight in (left, right))
            if u is None or v is None:
                continue
            # gradients rotate by the inverse; their variances, taken as uncorrelated, by its squares
            by_u, by_v = (mixing, inverse) if not key else (inverse.T**power, mixing.T**power)
            new_u, new_v = u[:, kept].double() @ by_u.to(u.device), by_v.to(v.device) @ v[kept].double()
            for tensor, new in ((u, new_u), (v.T, new_v.T)):
                tensor[:, :rank] = new.to(tensor)
                tensor[:, rank:] = 0
