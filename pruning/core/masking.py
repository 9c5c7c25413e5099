"""Masking: multiply the weights of an unmodified network by masks while a context is open.

A layer norm over partly closed units would include their zeros, which the extracted network does not have. So while
the context is open, such norms normalise over the kept units only, see `normalised_over`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Optional

import torch
from torch import Tensor, nn

from pruning.core.precision import at_least_float32
from pruning.core.units import NormOverUnits, Span, UnitGroup, check_groups

_LEAST = 1e-6  # lower bound of the divisor in a weighted norm


def expand_mask(mask: Tensor, span: Span, shape: Sequence[int]) -> Tensor:
    """Lay a group's ``mask (size,)`` along one axis of a tensor of ``shape``; entries that belong to no unit get 1.

    Returns:
        A tensor that broadcasts against ``shape``: all axes except ``span.dim`` have length 1. If units are single
        entries, it has ``shape``.
    """
    if span.dim is None:
        return mask.reshape(tuple(shape))
    length = shape[span.dim]
    entries = span.end(mask.numel()) - span.offset
    view = [1] * len(shape)
    if mask.numel() == 1 and entries == length:
        return mask.reshape(view)
    spread = mask[:, None].expand(-1, span.width).reshape(-1)
    if span.repeats > 1:
        between = mask.new_ones(span.period - len(spread))
        spread = torch.cat([spread, between]).repeat(span.repeats)[:entries]
    if entries != length:
        spread = torch.cat([mask.new_ones(span.offset), spread, mask.new_ones(length - span.offset - entries)])
    view[span.dim] = length
    return spread.reshape(view)


def norm_weights(mask: Tensor) -> Tensor:
    """Return the weight of each unit in a norm over the units of a group: ``(size,) -> (size,)``.

    A mask that is being learned (it requires a gradient) is used as it is, so that the effect of a gate on the norm is
    differentiable. Any other mask comes from a structure whose closed units will be removed: kept units count 1
    whatever their scale, so that the scale folds exactly into the weights after the norm. For masks of zeros and ones
    both are the same.
    """
    return mask if mask.requires_grad else (mask > 0).to(mask)


def normalised_over(norm: nn.LayerNorm, weights: Tensor, x: Tensor) -> Tensor:
    """Apply ``norm`` to ``x (..., C)`` with mean and variance weighted by ``weights (U,)``; returns ``(..., C)``.

    Each unit has the same number of contiguous entries, C / U.
    If the weights are zeros and ones, the entries with weight 1 equal a layer norm (arXiv 1607.06450, equation 3) over
    these entries alone; the others are finite but meaningless.
    """
    with torch.autocast(x.device.type, enabled=False):
        wide = at_least_float32(x)
        if x.shape[-1] != len(weights):
            weights = weights[:, None].expand(-1, x.shape[-1] // len(weights)).reshape(-1)
        y: Tensor = _WeightedNorm.apply(wide, weights.to(wide), norm.eps)
        if norm.weight is not None:
            y = y * norm.weight
        if norm.bias is not None:
            y = y + norm.bias
        return y.to(x.dtype)


def rms_normalised_over(norm: nn.Module, weights: Tensor, x: Tensor) -> Tensor:
    """Apply ``norm`` to ``x (..., C)`` with its mean square over the entries of units that ``weights (U,)`` count.

    The other entries of ``x`` must be 0. With ``f^2 = U / sum(weights)``, the mean square of all C entries of ``f x``
    is that of the counted entries of ``x``, so that the result is ``norm(f x) / f``, ``(..., C)``. What the norm adds
    to the mean square does not matter.
    """
    factor = (len(weights) / weights.double().sum().clamp(min=_LEAST)).sqrt()
    y: Tensor = type(norm).forward(norm, x * factor.to(x))  # `norm.forward` may be this function
    return y / factor.to(y)


def _by_itself(norm: NormOverUnits, weights: Tensor, *inputs: Tensor) -> Tensor:
    """Apply a norm that knows how to weight its units."""
    return norm.normalised_over(weights, *inputs)


class _WeightedNorm(torch.autograd.Function):
    """Normalise ``x (..., C)`` to weighted mean 0 and variance 1.

    It saves one tensor of the size of ``x`` for the backward pass. The plain form saves four, which take gigabytes in a
    front end over samples.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        total = weights.sum().clamp(min=_LEAST)  # all gates of a group may be sampled closed
        y = x - (x * weights).sum(dim=-1, keepdim=True) / total  # not a matrix product: that may run in lower precision
        scale = torch.rsqrt((y.square() * weights).sum(dim=-1, keepdim=True) / total + eps)
        y *= scale
        ctx.eps = eps
        ctx.save_for_backward(y, scale, weights, total)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Optional[Tensor], ...]:
        y, scale, weights, total = ctx.saved_tensors
        (g,) = gradients
        summed = g.sum(dim=-1, keepdim=True) / total
        along = (g * y).sum(dim=-1, keepdim=True) / total
        of_x = of_weights = None
        if ctx.needs_input_grad[0]:
            of_x = scale * (g - weights * (summed + y * along))
        if ctx.needs_input_grad[1]:
            # if the total is clamped to the minimum, only the numerators of mean and variance have a gradient
            variance = (1 - ctx.eps * scale.square()) * (total > _LEAST)
            rows = -(summed * y + 0.5 * along * (y.square() - variance))
            of_weights = rows.flatten(0, -2).sum(dim=0)
        return of_x, of_weights, None


class Masker:
    """Multiplies masks into the weights of a network without changing the network.

    Inside `applied`, modules that read ``weight`` get ``weight * mask``, and norms over masked units leave out closed
    units. Parameters, their names and the ``state_dict`` do not change, and gradients reach both weights and masks.

    Args:
        model: any network.
        groups: unit groups of the network.
    """

    def __init__(self, model: nn.Module, groups: Sequence[UnitGroup]) -> None:
        check_groups(model, groups)
        self._sites: dict[str, list[tuple[str, Span]]] = {}
        for group in groups:
            for span in group.masks:
                self._sites.setdefault(span.tensor, []).append((group.name, span))
        self._owners: dict[str, tuple[nn.Module, str]] = {}
        for name in self._sites:
            path, _, attribute = name.rpartition(".")
            owner = model.get_submodule(path)
            if attribute not in owner._parameters:
                raise ValueError(f"{name} is not a parameter, so it cannot be masked")
            self._owners[name] = (owner, attribute)
        self._norms: list[tuple[str, nn.Module, Callable[..., Tensor]]] = []
        for group in groups:
            for norm in (model.get_submodule(name) for name in group.norms):
                over = _by_itself if isinstance(norm, NormOverUnits) else normalised_over
                self._norms.append((group.name, norm, over))
            self._norms += [(group.name, model.get_submodule(name), rms_normalised_over) for name in group.rms_norms]

    def masked_weight(self, name: str, masks: Mapping[str, Tensor]) -> Tensor:
        """Return the parameter ``name`` times every mask of ``masks`` that acts on it, or itself if none does.

        Inside `applied`, the weight that is already masked takes the place of the parameter.
        """
        owner, attribute = self._owners[name]
        weight: Tensor = getattr(owner, attribute)
        for group, span in self._sites[name]:
            if group in masks:
                weight = weight * expand_mask(masks[group].to(weight), span, weight.shape)
        return weight

    @contextmanager
    def applied(self, masks: Mapping[str, Tensor]) -> Iterator[None]:
        """While open, the network computes with masked weights.

        Args:
            masks: group name -> ``(size,)``, with names of this network's groups only. A group without an entry is not
                masked. Inside another `applied` of the same network, the masks of both act.
        """
        shadowed: list[tuple[nn.Module, str, object]] = []  # owner, attribute and its previous value

        def shadow(owner: nn.Module, attribute: str, value: object) -> None:
            shadowed.append((owner, attribute, owner.__dict__.get(attribute)))
            owner.__dict__[attribute] = value  # a module's lookup finds this before the parameter

        try:
            for name, (owner, attribute) in self._owners.items():
                weight = self.masked_weight(name, masks)
                if weight is not getattr(owner, attribute):
                    shadow(owner, attribute, weight)
            for group, norm, over in self._norms:
                if group in masks:
                    weights, outer = norm_weights(masks[group]), norm.__dict__.get("forward")
                    if outer is not None:
                        weights = weights * outer.args[1]
                    shadow(norm, "forward", partial(over, norm, weights))
            yield
        finally:
            for owner, attribute, before in reversed(shadowed):
                if before is None:
                    del owner.__dict__[attribute]
                else:
                    owner.__dict__[attribute] = before
