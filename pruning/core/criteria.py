"""Criteria: how much each unit is worth, from weights, activations or gradients; larger is more worth keeping.

What needs gradients reads them off the masks. A mask multiplies the weights that follow a unit, so the derivative of
the loss with respect to a mask at 1 is the sum of ``w g`` over those weights: the first-order change of the loss when
the unit goes. One vector of such derivatives serves every network, and costs a training step nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn

from pruning.core.linear_inputs import watched_inputs
from pruning.core.names import FROM_GRADIENTS
from pruning.core.precision import at_least_float32
from pruning.core.selection import Selection
from pruning.core.units import Span
from pruning.errors import UserError

Observer = Callable[[nn.Module, Selection, dict[str, Tensor]], AbstractContextManager[None]]


def per_unit(tensor: Tensor, span: Span, units: int) -> Tensor:
    """Entries of ``tensor`` that each unit of a group owns through ``span``: ``(units, entries of one unit)``."""
    if span.dim is None:
        return tensor.reshape(units, 1)
    owned = tensor.movedim(span.dim, 0).narrow(0, span.offset, units * span.width)
    return owned.reshape(units, -1)


def magnitudes(model: nn.Module, selection: Selection, norm: int = 2, weights: str = "own") -> Tensor:
    """L1 or L2 norm of the weights of each unit (arXiv 1608.08710, section 3.1), ``(U,)`` float32.

    Args:
        model: the network.
        selection: the units.
        norm: 1 or 2.
        weights: ``own``: every matrix or kernel that loses entries when the unit goes, those that follow it among
            them; ``following``: only those that follow it (of a head, the output projection). Biases and norms do not
            count.
    """
    tensors = dict(model.named_parameters())
    parts = []
    for group in selection.chosen:
        spans = group.slices if weights == "own" and group.slices else group.masks
        total = torch.zeros(group.size)
        for span in spans:
            weight = tensors.get(span.tensor)
            if weight is not None and weight.ndim > 1 and "bias" not in span.tensor.rpartition(".")[2]:
                entries = per_unit(weight.detach().float(), span, group.size)
                total += (entries.abs() if norm == 1 else entries**2).sum(dim=1).cpu()
        parts.append(total if norm == 1 else total.sqrt())
    return torch.cat(parts)


def _add_to(totals: dict[str, Tensor], name: str, part: Tensor) -> None:
    """Add ``part (size,)`` and a 1 to a total, where it was computed: the forward pass does not wait for a GPU."""
    counted = torch.cat([part, part.new_ones(1)])
    totals[name] = totals[name] + counted if name in totals else counted


@contextmanager
def observed_activations(model: nn.Module, selection: Selection, totals: dict[str, Tensor]) -> Iterator[None]:
    """While open, forward passes add up what enters the weights that follow each unit.

    Args:
        model: the network.
        selection: the units; of a group with several weights that follow, the first is looked at.
        totals: gets, by group name, ``(size + 1,)`` float64: the sum of each unit's mean ``|x|`` and the number of
            calls. Padding counts as the other frames.
    """
    handles = []
    for group in selection.chosen:
        span = group.masks[0]
        module = model.get_submodule(span.tensor.rpartition(".")[0])
        if span.dim != 1:
            continue  # a whole module: nothing enters it that is its own

        def observe(owner: nn.Module, inputs: tuple[Any, ...], name: str = group.name, span: Span = span,
                    size: int = group.size) -> None:  # fmt: skip
            x = inputs[0].detach()
            axis = 1 if getattr(owner, "channels_first", isinstance(owner, (nn.Conv1d, nn.Conv2d))) else -1
            others = [dim for dim in range(x.ndim) if dim != axis % x.ndim]
            entering = at_least_float32(x).abs().mean(dim=others).double()
            part = entering[span.offset : span.offset + size * span.width].view(size, span.width).mean(dim=1)
            _add_to(totals, name, part)

        handles.append(module.register_forward_pre_hook(observe))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def observed_inputs(model: nn.Module, selection: Selection, totals: dict[str, Tensor]) -> Iterator[None]:
    """While open, forward passes add up the squares of what each column of the following weights is multiplied with.

    Args:
        model: the network.
        selection: the units; of a group with several weights that follow, the first is looked at.
        totals: gets, by group name, ``(in * kernel + 1,)`` float64: the sum of the mean squares and the number of
            calls; of a convolution, of utterances. Padding counts as the other frames.
    """
    groups: dict[str, list[str]] = {}
    for group in selection.chosen:
        groups.setdefault(group.masks[0].tensor.rpartition(".")[0], []).append(group.name)

    def see(module: str, x: Tensor) -> None:
        part = at_least_float32(x).square().mean(dim=0).double()
        for name in groups[module]:
            _add_to(totals, name, part)

    with watched_inputs(model, list(groups), see):
        yield


def weighted_magnitudes(model: nn.Module, selection: Selection, squares: Mapping[str, Tensor]) -> Tensor:
    """Sum over a unit's entries of the following weights of ``|W_ij| |X_j|``, ``(U,)`` float64 (Wanda, arXiv
    2306.11695, equation 1).

    Args:
        model: the network.
        selection: the units.
        squares: group name -> mean square of each input ``(in * kernel,)``; a group that is absent gets 0.
    """
    tensors = dict(model.named_parameters())
    parts = []
    for group in selection.chosen:
        span, square = group.masks[0], squares.get(group.name)
        weight = at_least_float32(tensors[span.tensor].detach())
        if square is None:
            parts.append(torch.zeros(group.size, dtype=torch.float64, device=weight.device))
            continue
        weighted = (weight.abs().flatten(1) * square.sqrt().to(weight)).view_as(weight)
        parts.append(per_unit(weighted, span, group.size).sum(dim=1).double())
    return torch.cat(parts)


class UnitScores(nn.Module):
    """Scores of all units under one criterion, gathered over training steps.

    Args:
        criterion: one of `CRITERIA`.
        selection: the units.
        norm, weights: of ``magnitude``, see `magnitudes`.
        decay: of the running means of ``taylor``, ``fisher``, ``wanda`` and ``activation``, per step; 1 is the plain
            mean.
        seed: of ``random``.

    The scores, with g the gradient of one batch on the masks (the sum of ``w g`` over a unit's weights):

    - ``magnitude``: the norm of the unit's weights;
    - ``taylor``: mean of ``|g|`` (arXiv 1611.06440, equation 8);
    - ``fisher``: mean of ``g^2 / 2`` (arXiv 1801.05787, equation 9, batches in place of samples);
    - ``movement``: minus the sum of ``lr g`` (arXiv 2005.07683, equation 2), closed units among the rest;
    - ``wanda``: mean of `weighted_magnitudes`;
    - ``activation``: mean of ``|x|`` that enters the weights that follow;
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
        """How a unit's score grows with the number of its weights, see `pruning.core.ranking.normalised`."""
        if self.criterion == "activation":  # a mean over what a unit owns: it does not grow with it
            return 0.0
        return 0.5 if self.criterion == "magnitude" and self.norm == 2 else 1.0

    @property
    def from_gradients(self) -> bool:
        """Whether `observe_gradient` feeds it."""
        return self.criterion in FROM_GRADIENTS

    @property
    def ready(self) -> bool:
        """Whether there is anything to rank by."""
        return self.criterion in ("magnitude", "random") or self.seen.item() > 0

    @torch.no_grad()
    def observe_gradient(self, gradient: Tensor, lr: float) -> None:
        """Take in the gradient ``(U,)`` of one step on the masks, and the step's learning rate."""
        gradient = gradient.to(self.total)
        if self.criterion == "movement":
            self.total -= lr * gradient
            self.seen += 1
        else:
            self._add(gradient.abs() if self.criterion == "taylor" else gradient**2 / 2)

    @property
    def observer(self) -> Optional[Observer]:
        """What looks at forward passes for `observe`, or None."""
        return {"activation": observed_activations, "wanda": observed_inputs}.get(self.criterion)

    @torch.no_grad()
    def observe(self, model: nn.Module, totals: Mapping[str, Tensor]) -> None:
        """Take in what the `observer` gathered in one step of ``model``.

        Raises:
            UserError: the network reads weights that follow units without calling their layer, so nothing was seen.
        """
        for group in self.selection.chosen:
            if group.masks[0].dim == 1 and group.name not in totals:
                raise UserError(
                    f"{self.criterion} sees nothing of what enters {group.masks[0].tensor}",
                    "use a criterion of weights or gradients, or a network that calls this layer",
                )
        means = {name: total[:-1] / total[-1].clamp(min=1) for name, total in totals.items()}
        if self.criterion == "wanda":
            self._add(weighted_magnitudes(model, self.selection, means).to(self.total))
            return
        parts = [means.get(group.name, torch.zeros(group.size)) for group in self.selection.chosen]
        self._add(torch.cat([part.to(self.total) for part in parts]))

    @torch.no_grad()
    def forget(self) -> None:
        """Begin anew: the units are others than they were."""
        if self.criterion != "random":
            self.total.zero_()
            self.seen.zero_()

    def _add(self, value: Tensor) -> None:
        self.total.mul_(self.decay).add_(value)
        self.seen.mul_(self.decay).add_(1.0)

    @torch.no_grad()
    def values(self, model: nn.Module) -> Tensor:
        """The scores ``(U,)`` float64, on the CPU."""
        if self.criterion == "magnitude":
            return magnitudes(model, self.selection, self.norm, self.weights).double()
        if self.criterion in ("random", "movement"):
            return self.total.cpu().clone()
        return self.total.cpu() / self.seen.cpu().clamp(min=1e-12)
