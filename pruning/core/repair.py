"""One-shot repair: solve the weights that follow a structured cut again, so that their outputs stay near the old ones.

For each weight that follows pruned units, from the first to the last in the network: let ``x`` be its input in the cut
network (whose earlier weights are already repaired) and ``y`` its output in the dense network, and find

    min_D  sum |y - (W + D) x - b - d|^2 + lambda |D, d|^2

over the kept columns. This is least squares on the inputs before and after the cut, without labels or gradients (the
idea of ThiNet, arXiv 1707.06342, section 3.2, and of channel pruning, arXiv 1707.06168, equation 4).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional, cast

import torch
from torch import Tensor, nn

from pruning.core.layer_walk import Forward, LayerWalk, Reached
from pruning.core.linear_inputs import flattened_outputs, flattened_parts
from pruning.core.masking import Masker
from pruning.core.residual_width import has_width
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.core.views import view_of

logger = logging.getLogger(__name__)


@dataclass
class _Site:
    """A module whose input units were cut.

    Attributes:
        name: name of the module.
        columns: ``(K,)`` indices of the kept columns of its weight, laid out as ``(out, in * kernel)``.
        gram, cross: sums of ``x x^T`` and ``x y^T`` over all vectors seen, float64; if the module has a bias, ``x``
            ends with a constant 1.
        rows: number of vectors seen.
    """

    name: str
    columns: Tensor
    gram: Optional[Tensor] = field(default=None, repr=False)
    cross: Optional[Tensor] = field(default=None, repr=False)
    rows: int = 0


def _sites(model: nn.Module, groups: Sequence[UnitGroup], structure: Structure) -> list[_Site]:
    """Return the modules to repair in the order of declaration; if the residual width is cut, in that of the modules.

    Every module then reads what earlier ones write, so that the order matters more. A module that several groups follow
    is solved once, over the columns that all of them leave.
    """
    columns: dict[str, Tensor] = {}
    for group in groups:
        kept = structure.groups[group.name].kept
        if len(kept) == group.size:
            continue
        gone = torch.tensor(sorted(set(range(group.size)) - set(kept)), dtype=torch.long)
        for span in group.read:
            name = span.tensor.rpartition(".")[0]
            if span.dim == 1:  # otherwise a whole module
                weight = model.get_parameter(span.tensor)
                left = columns.setdefault(name, torch.ones(weight.shape[1], weight[0, 0].numel(), dtype=torch.bool))
                left[span.indices(gone)] = False
    sites = [_Site(name, torch.nonzero(left.flatten()).flatten()) for name, left in columns.items() if left.any()]
    if has_width(structure):
        order = {name: place for place, (name, _) in enumerate(model.named_modules())}
        sites.sort(key=lambda site: order[site.name])
    return sites


@torch.no_grad()
def _gather(site: _Site, dense: nn.Module, cut: nn.Module, runs: Iterator[tuple[Callable[[], object], ...]]) -> None:
    """Accumulate the inputs of the module in the cut network and its outputs in the dense network.

    Args:
        site: the module.
        dense, cut: the networks.
        runs: for each batch, what runs the dense and what runs the cut network, or the layer with the module.
    """
    wanted: list[Tensor] = []

    def outputs(module: nn.Module, _: Any, y: Tensor) -> None:
        wanted.append(flattened_outputs(module, y))
        raise Reached

    def inputs(module: nn.Module, given: tuple[Any, ...]) -> None:
        wished = wanted.pop()
        for part in flattened_parts(module, given[0]):
            x = part[:, site.columns].double()
            if module.bias is not None:
                x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
            y, wished = wished[: len(x)].double(), wished[len(x) :]
            gram, cross = x.T @ x, x.T @ y
            site.gram = gram if site.gram is None else site.gram + gram
            site.cross = cross if site.cross is None else site.cross + cross
            site.rows += len(x)
        raise Reached

    handles = [dense.get_submodule(site.name).register_forward_hook(outputs),
               cut.get_submodule(site.name).register_forward_pre_hook(inputs)]  # fmt: skip
    try:
        for of_batch in runs:
            for run in of_batch:
                with suppress(Reached):
                    run()
    finally:
        for handle in handles:
            handle.remove()


def _whole_passes(
    dense: nn.Module, cut: nn.Module, batches: Sequence[Any], forward: Forward
) -> Iterator[tuple[Callable[[], object], ...]]:
    """Yield for each batch what runs the two networks."""
    for batch in batches:
        yield tuple(partial(forward, network, batch) for network in (dense, cut))


@torch.no_grad()
def _solve(site: _Site, module: nn.Module, ridge: float) -> tuple[float, float]:
    """Write the solution into the module; returns the reduction of the mean squared error and the number of vectors."""
    assert site.gram is not None and site.cross is not None
    weight, bias = cast(Tensor, module.weight), cast(Optional[Tensor], module.bias)
    flat = weight.flatten(1)
    old = flat[:, site.columns].double().T  # (K, out)
    if bias is not None:
        old = torch.cat([old, bias.double()[None, :]])
    missing = site.cross - site.gram @ old
    damped = site.gram + ridge * site.gram.diagonal().mean() * torch.eye(len(site.gram), dtype=torch.float64)
    change = torch.linalg.solve(damped, missing)
    new = old + change
    gained = (2 * change * missing - change * (site.gram @ change)).sum()  # |y - old x|^2 - |y - new x|^2, summed
    if bias is not None:
        bias.copy_(new[-1])
        new = new[:-1]
    repaired = flat.clone()
    repaired[:, site.columns] = new.T.to(flat)
    weight.copy_(repaired.view_as(weight))
    return gained.item() / max(1, site.rows), float(site.rows)


def repair(
    dense: nn.Module,
    cut: nn.Module,
    structure: Structure,
    batches: Sequence[Any],
    forward: Forward,
    ridge: float = 1e-3,
) -> int:
    """Solve the weights that follow cut units again, in place, in the order of the network.

    Layers are run one after the other from kept inputs, which take as much memory as the streams of all batches, twice.

    Args:
        dense: the network before the cut, in evaluation mode, on the CPU.
        cut: a copy of ``dense`` that gets the repaired weights; masked by ``structure`` at scale 1 it is the small
            network.
        structure: the kept units; scales are ignored.
        batches: calibration data, a few hundred utterances.
        forward: ``forward(network, batch)`` runs a forward pass; an exception raised inside may end it early.
        ridge: lambda, relative to the mean square of the inputs.

    Returns:
        The number of modules that were repaired.

    Raises:
        TypeError: a module that follows pruned units is neither linear nor an ungrouped convolution.
    """
    groups = view_of(dense, structure).unit_groups()
    structure = structure.without_scale().resolved(groups)
    masker, walk = Masker(cut, groups), LayerWalk((dense, cut), batches, forward)
    repaired = 0
    for site in _sites(dense, groups, structure):
        with masker.applied(structure.masks()):
            if walk.reach(site.name):
                _gather(site, dense, cut, walk.runs())
            if site.gram is None:  # not in a layer, or called from elsewhere
                walk.forget()
                _gather(site, dense, cut, _whole_passes(dense, cut, batches, forward))
        if site.gram is None:
            continue  # the forward pass does not reach this module
        gained, rows = _solve(site, cut.get_submodule(site.name), ridge)
        logger.info("%s: mean squared error reduced by %.3g over %d vectors", site.name, gained, rows)
        site.gram = site.cross = None
        repaired += 1
    return repaired
