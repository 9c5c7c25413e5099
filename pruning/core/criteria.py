"""Criteria: scores of units from weights, activations or gradients; a larger score is more worth keeping.

Criteria that need gradients take them from the masks. A mask multiplies the weights that follow a unit, so the
derivative of the loss with respect to a mask at 1 is the sum of ``w g`` over those weights: the first-order change of
the loss when the unit is removed. One vector of these derivatives works for every network and adds no cost to a
training step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Optional

import torch
from torch import Tensor, nn

from pruning.core.block_influence import layer_of, observed_layers
from pruning.core.linear_inputs import watched_inputs
from pruning.core.names import DEPTH, FROM_GRADIENTS
from pruning.core.precision import at_least_float32
from pruning.core.selection import Selection
from pruning.core.units import Span, UnitGroup
from pruning.errors import UserError

Observer = Callable[[nn.Module, Selection, dict[str, Tensor]], AbstractContextManager[None]]


def per_unit(tensor: Tensor, span: Span, units: int) -> Tensor:
    """Return the entries of ``tensor`` that each unit owns through ``span``: ``(units, entries of one unit)``."""
    if span.dim is None:
        return tensor.reshape(units, 1)
    along = tensor.movedim(span.dim, 0)
    if span.repeats > 1:
        return along[span.indices(torch.arange(units, device=tensor.device))].reshape(units, -1)
    return along.narrow(0, span.offset, units * span.width).reshape(units, -1)


def magnitudes(model: nn.Module, selection: Selection, norm: int = 2, weights: str = "own") -> Tensor:
    """Return the L1 or L2 norm of the weights of each unit (arXiv 1608.08710, section 3.1), ``(U,)`` float32.

    Args:
        model: the network.
        selection: the units.
        norm: order of the norm, 1 or 2.
        weights: ``own``: every matrix or kernel that loses entries when the unit is removed, including those that
            follow it; ``following``: only those that follow it (for a head, the output projection; for a channel of
            the residual stream, all that read it). Biases and norm layers do not count.
    """
    tensors = dict(model.named_parameters())
    parts = []
    for group in selection.chosen:
        spans = group.slices if weights == "own" and group.slices else group.readers or group.masks
        total = torch.zeros(group.size)
        for span in spans:
            weight = tensors.get(span.tensor)
            if weight is not None and weight.ndim > 1 and "bias" not in span.tensor.rpartition(".")[2]:
                entries = per_unit(weight.detach().float(), span, group.size)
                total += (entries.abs() if norm == 1 else entries**2).sum(dim=1).cpu()
        parts.append(total if norm == 1 else total.sqrt())
    return torch.cat(parts)


def _add_to(totals: dict[str, Tensor], name: str, part: Tensor) -> None:
    """Add ``part (size,)`` and a count of 1 to a total, on the device of ``part``, so that no step waits for a GPU."""
    counted = torch.cat([part, part.new_ones(1)])
    totals[name] = totals[name] + counted if name in totals else counted


def _place(group: UnitGroup, span: Span) -> str:
    """Return a name for the inputs of ``span``, one of ``group.read``: that of the group if it has a single one."""
    return f"{group.name} in {span.tensor}" if group.readers else group.name


@contextmanager
def observed_activations(model: nn.Module, selection: Selection, totals: dict[str, Tensor]) -> Iterator[None]:
    """While open, sum up in each forward pass the inputs of the weights that follow each unit.

    Args:
        model: the network.
        selection: the units. If several weights follow a group, only the first is observed, but all its ``readers``.
        totals: filled with group name -> ``(size + 1,)`` float64: the sum of each unit's mean ``|x|``, then the number
            of calls. Padding frames count like the other frames.
    """
    handles = []
    for group, span in ((of, span) for of in selection.chosen for span in of.read):
        module = model.get_submodule(span.tensor.rpartition(".")[0])
        if span.dim != 1:
            continue  # a whole module: it has no inputs of its own

        def observe(owner: nn.Module, inputs: tuple[Any, ...], name: str = group.name, span: Span = span,
                    size: int = group.size) -> None:  # fmt: skip
            x = inputs[0].detach()
            axis = 1 if getattr(owner, "channels_first", isinstance(owner, (nn.Conv1d, nn.Conv2d))) else -1
            others = [dim for dim in range(x.ndim) if dim != axis % x.ndim]
            entering = at_least_float32(x).abs().mean(dim=others).double()
            _add_to(totals, name, per_unit(entering, replace(span, dim=0), size).mean(dim=1))

        handles.append(module.register_forward_pre_hook(observe))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def observed_inputs(model: nn.Module, selection: Selection, totals: dict[str, Tensor]) -> Iterator[None]:
    """While open, sum up in each forward pass the squared inputs of each column of the weights that follow the units.

    Args:
        model: the network.
        selection: the units. If several weights follow a group, only the first is observed, but all its ``readers``.
        totals: filled with `_place` -> ``(in * kernel + 1,)`` float64: the sum of the mean squares, then the number
            of calls (for a convolution, of utterances). Padding frames count like the other frames.
    """
    groups: dict[str, list[str]] = {}
    for group in selection.chosen:
        for span in group.read:
            groups.setdefault(span.tensor.rpartition(".")[0], []).append(_place(group, span))

    def see(module: str, x: Tensor) -> None:
        part = at_least_float32(x).square().mean(dim=0).double()
        for name in groups[module]:
            _add_to(totals, name, part)

    with watched_inputs(model, list(groups), see):
        yield


def weighted_magnitudes(model: nn.Module, selection: Selection, squares: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of ``|W_ij| |X_j|`` over the entries of each unit in the weights that follow it, ``(U,)`` float64.

    See Wanda, arXiv 2306.11695, equation 1.

    Args:
        model: the network.
        selection: the units.
        squares: `_place` -> mean square of each input ``(in * kernel,)``; weights without an entry count 0.
    """
    tensors = dict(model.named_parameters())
    parts = []
    for group in selection.chosen:
        total = torch.zeros(group.size, dtype=torch.float64, device=tensors[group.masks[0].tensor].device)
        for span in group.read:
            square = squares.get(_place(group, span))
            if square is not None:
                weight = at_least_float32(tensors[span.tensor].detach())
                weighted = (weight.abs().flatten(1) * square.sqrt().to(weight)).view_as(weight)
                total = total + per_unit(weighted, span, group.size).sum(dim=1).double()
        parts.append(total)
    return torch.cat(parts)


class UnitScores(nn.Module):
    """Scores of all units under one criterion, accumulated over training steps.

    Args:
        criterion: one of `CRITERIA`.
        selection: the units.
        norm: order of the norm (1 or 2) that ``magnitude`` uses.
        weights: weights whose norm ``magnitude`` takes, ``own`` or ``following``; see `magnitudes`.
        decay: decay per step of the running means of ``taylor``, ``fisher``, ``wanda``, ``activation`` and ``depth``; 1
            gives the plain mean.
        seed: seed of the scores of ``random``.

    The scores, where g is the gradient of one batch with respect to the masks (the sum of ``w g`` over a unit's
    weights):

    - ``magnitude``: the norm of the unit's weights;
    - ``taylor``: mean of ``|g|`` (arXiv 1611.06440, equation 8);
    - ``fisher``: mean of ``g^2 / 2`` (arXiv 1801.05787, equation 9, batches in place of samples);
    - ``movement``: minus the sum of ``lr g`` (arXiv 2005.07683, equation 2), for closed units as well;
    - ``wanda``: mean of `weighted_magnitudes`;
    - ``activation``: mean of ``|x|`` over the inputs of the weights that follow;
    - ``depth``: mean of `pruning.core.block_influence.influence` of the unit's layer, 0 outside layers;
    - ``random``: uniform, the same for the same seed.
    """

    total: Tensor
    seen: Tensor

    def __init__(
        self,
        criterion: str,
        selection: Selection,
        norm: int = 2,
        weights: str = "own",
        decay: float = 0.98,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.criterion, self.norm, self.weights, self.decay = criterion, norm, weights, decay
        self.selection = selection
        generator = torch.Generator().manual_seed(seed)
        start = torch.rand(selection.num_units, generator=generator) if criterion == "random" else None
        zeros = torch.zeros(selection.num_units, dtype=torch.float64)
        self.register_buffer("total", zeros if start is None else start.double())
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    @property
    def price_power(self) -> float:
        """Exponent with which a score grows with a unit's number of weights, see `pruning.core.ranking.normalised`."""
        if self.criterion == "activation":  # a mean: it does not grow with the size of a unit
            return 0.0
        return 0.5 if self.criterion == "magnitude" and self.norm == 2 else 1.0

    @property
    def from_gradients(self) -> bool:
        """Whether the criterion takes its scores from `observe_gradient`."""
        return self.criterion in FROM_GRADIENTS

    @property
    def ready(self) -> bool:
        """Whether scores are available."""
        return self.criterion in ("magnitude", "random") or self.seen.item() > 0

    @torch.no_grad()
    def observe_gradient(self, gradient: Tensor, lr: float) -> None:
        """Accumulate one step's gradient ``(U,)`` with respect to the masks, given the step's learning rate."""
        gradient = gradient.to(self.total)
        if self.criterion == "movement":
            self.total -= lr * gradient
            self.seen += 1
        else:
            self._add(gradient.abs() if self.criterion == "taylor" else gradient**2 / 2)

    @property
    def observer(self) -> Optional[Observer]:
        """Context manager that observes forward passes for `observe`, or None if the criterion needs none."""
        observers = {"activation": observed_activations, "wanda": observed_inputs, DEPTH: observed_layers}
        return observers.get(self.criterion)

    @torch.no_grad()
    def observe(self, model: nn.Module, totals: Mapping[str, Tensor]) -> None:
        """Accumulate what the `observer` collected in one step of ``model``.

        Raises:
            UserError: the network reads weights that follow units without calling their layer, or does not call its
                layers as modules, so nothing was observed.
        """
        if self.criterion == DEPTH:
            self._add(self._influences(totals))
            return
        for group in self.selection.chosen:
            places = {group.name, *(_place(group, span) for span in group.read)}
            if group.read[0].dim == 1 and not places & totals.keys():
                raise UserError(
                    f"the criterion {self.criterion} observed no input of {group.read[0].tensor}",
                    "use a criterion based on weights or gradients, or a network that calls this layer",
                )
        means = {name: total[:-1] / total[-1].clamp(min=1) for name, total in totals.items()}
        if self.criterion == "wanda":
            self._add(weighted_magnitudes(model, self.selection, means).to(self.total))
            return
        parts = [means.get(group.name, torch.zeros(group.size)) for group in self.selection.chosen]
        self._add(torch.cat([part.to(self.total) for part in parts]))

    def _influences(self, totals: Mapping[str, Tensor]) -> Tensor:
        """Return the influence of the layer of each unit, ``(U,)``."""
        parts = []
        for group in self.selection.chosen:
            name = layer_of(group)
            if name and name not in totals:
                raise UserError(f"the criterion {DEPTH} observed no call of {name}", "use another criterion")
            value = totals[name][0] / totals[name][1] if name else torch.zeros(())
            parts.append(value.to(self.total).expand(group.size))
        return torch.cat(parts)

    @torch.no_grad()
    def forget(self) -> None:
        """Reset the scores, because the units have changed."""
        if self.criterion != "random":
            self.total.zero_()
            self.seen.zero_()

    def _add(self, value: Tensor) -> None:
        self.total.mul_(self.decay).add_(value)
        self.seen.mul_(self.decay).add_(1.0)

    @torch.no_grad()
    def values(self, model: nn.Module) -> Tensor:
        """Return the scores ``(U,)`` float64, on the CPU."""
        if self.criterion == "magnitude":
            return magnitudes(model, self.selection, self.norm, self.weights).double()
        if self.criterion in ("random", "movement"):
            return self.total.cpu().clone()
        return self.total.cpu() / self.seen.cpu().clamp(min=1e-12)
