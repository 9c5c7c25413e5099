"""Masks at work: the weights of an unmodified network are multiplied while a context is open.

A layer norm over units of which some are closed counts their zeros before they are cut out and not after. So while the
context is open it normalises over what is kept, see `normalised_over`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Optional, cast

import torch
from torch import Tensor, nn

from pruning.core.precision import at_least_float32
from pruning.core.units import Span, UnitGroup, check_groups

_LEAST = 1e-6  # that the weights of a norm are divided by


def expand_mask(mask: Tensor, span: Span, shape: Sequence[int]) -> Tensor:
    """Lay a group's ``mask (size,)`` along one axis of a tensor of ``shape``; entries of no unit get 1.

    Returns:
        A tensor that broadcasts against ``shape``: all axes of length 1 but ``span.dim``; of single entries, ``shape``.
    """
    if span.dim is None:
        return mask.reshape(tuple(shape))
    length = shape[span.dim]
    entries = mask.numel() * span.width
    view = [1] * len(shape)
    if mask.numel() == 1 and entries == length:
        return mask.reshape(view)
    spread = mask[:, None].expand(-1, span.width).reshape(-1)
    if entries != length:
        spread = torch.cat([mask.new_ones(span.offset), spread, mask.new_ones(length - span.offset - entries)])
    view[span.dim] = length
    return spread.reshape(view)


def norm_weights(mask: Tensor) -> Tensor:
    """How much each unit counts in a norm over the units of a group: ``(size,) -> (size,)``.

    A mask that is being learned (it requires a gradient) counts as it is, so that a gate's effect on the norm is
    differentiable. Any other mask is of a structure whose closed units go: kept ones count 1 whatever their scale,
    which then folds exactly into the weights behind the norm. For masks of zeros and ones both are the same.
    """
    return mask if mask.requires_grad else (mask > 0).to(mask)


def normalised_over(norm: nn.LayerNorm, weights: Tensor, x: Tensor) -> Tensor:
    """What ``norm`` makes of ``x (..., C)`` with mean and variance weighted by ``weights (C,)``, ``(..., C)``.

    With weights of zeros and ones, the entries of ones are those of a layer norm (arXiv 1607.06450, equation 3) over
    them alone; the others are finite and without meaning.
    """
    with torch.autocast(x.device.type, enabled=False):
        wide = at_least_float32(x)
        y: Tensor = _WeightedNorm.apply(wide, weights.to(wide), norm.eps)
        if norm.weight is not None:
            y = y * norm.weight
        if norm.bias is not None:
            y = y + norm.bias
        return y.to(x.dtype)


class _WeightedNorm(torch.autograd.Function):
    """``x (..., C)`` brought to weighted mean 0 and variance 1.

    Of what is as large as ``x`` it keeps one tensor for the backward pass; the plain form keeps four, which are
    gigabytes in a frontend over samples.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        total = weights.sum().clamp(min=_LEAST)  # all gates of a group may be sampled shut
        y = x - (x * weights).sum(dim=-1, keepdim=True) / total  # a matrix product may be in a lower precision
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
            # of a total that is held at the least, only the numerators of mean and variance move
            variance = (1 - ctx.eps * scale.square()) * (total > _LEAST)
            rows = -(summed * y + 0.5 * along * (y.square() - variance))
            of_weights = rows.flatten(0, -2).sum(dim=0)
        return of_x, of_weights, None


class Masker:
    """Multiplies masks into the weights of a network without changing the network.

    Inside `applied` the modules see ``weight * mask`` where they read ``weight``, and norms over masked units leave out
    closed ones; parameters, their names and the ``state_dict`` stay what they are, and gradients reach both the weights
    and the masks.

    Args:
        model: any network.
        groups: its unit groups.
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
        self._norms = [
            (group.name, cast(nn.LayerNorm, model.get_submodule(name))) for group in groups for name in group.norms
        ]

    def masked_weight(self, name: str, masks: Mapping[str, Tensor]) -> Tensor:
        """The parameter ``name`` times every mask of ``masks`` that acts on it; the parameter itself if none does.

        Within `applied`, what that made of it stands in the place of the parameter.
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
            masks: group name -> ``(size,)``; a group that is absent is left whole. Only names of this network's groups.
                Within another `applied` of the same network, those of both act.
        """
        shadowed: list[tuple[nn.Module, str, object]] = []  # with what was found there before

        def shadow(owner: nn.Module, attribute: str, value: object) -> None:
            shadowed.append((owner, attribute, owner.__dict__.get(attribute)))
            owner.__dict__[attribute] = value  # found before the parameter when the module reads it

        try:
            for name, (owner, attribute) in self._owners.items():
                weight = self.masked_weight(name, masks)
                if weight is not getattr(owner, attribute):
                    shadow(owner, attribute, weight)
            for group, norm in self._norms:
                if group in masks:
                    weights, outer = norm_weights(masks[group]), norm.__dict__.get("forward")
                    if outer is not None:
                        weights = weights * outer.args[1]
                    shadow(norm, "forward", partial(normalised_over, norm, weights))
            yield
        finally:
            for owner, attribute, before in reversed(shadowed):
                if before is None:
                    del owner.__dict__[attribute]
                else:
                    owner.__dict__[attribute] = before
