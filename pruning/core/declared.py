"""A network of any make with its declared units: what it costs, and how its smaller form is built."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn

from pruning.core.cost import CostTerm
from pruning.core.declare import DeclaredUnits
from pruning.core.extraction import extract
from pruning.core.masking import Masker
from pruning.core.structure import Structure
from pruning.core.units import Span, UnitGroup, check_groups, prefixed

_PREFIX = "network."
_EXACT, _NEARLY = 1e-6, 1e-4  # relative to the largest output, in double precision and in float32
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WITHOUT_PRODUCTS = (nn.Embedding, nn.EmbeddingBag)


class DeclaredNetwork(nn.Module):
    """A network whose units were declared by the functions of `pruning.core.declare`.

    It computes what ``network`` computes, and offers what `pruning.core.prunable.Prunable` asks for.

    Args:
        network: the network; it is not copied.
        units: the units that can be removed.
        example: the arguments of ``network`` for one utterance (a batch of one). Multiply-accumulates are counted for
            them, and two networks are compared on them.

    Raises:
        ValueError: a declaration does not fit the network, or two groups own the same entries of a tensor.
    """

    def __init__(self, network: nn.Module, units: Sequence[DeclaredUnits], example: Sequence[Any] = ()) -> None:
        super().__init__()
        if isinstance(example, Tensor):
            raise TypeError("example must be the list of the network's arguments, got a tensor")
        self.network = network
        self.units = tuple(units)
        self.example = tuple(example)
        check_groups(network, [unit.group for unit in units])
        self._positions: Optional[dict[str, int]] = None
        self._axes = _axes([unit.group for unit in units])
        self._check_shared()
        self.training = network.training  # not of its parts: some may be in evaluation mode for good

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Return what the network computes."""
        return self.network(*inputs, **options)

    def unit_groups(self) -> list[UnitGroup]:
        """Return the declared groups."""
        return [prefixed(unit.group, _PREFIX) for unit in self.units]

    def cost_terms(self, frames: int = 0) -> list[CostTerm]:
        """Return the parameters of the whole network, and multiply-accumulates for the example, whatever ``frames`` is.

        Layers count that are called as modules; the products of attention count if heads are declared. If the network
        has `uncounted` modules, its multiply-accumulates are not a number.
        """
        if self._positions is None:
            self._positions = _count_positions(self.network, self.example)
        positions_of, uncounted = self._positions, set(self.uncounted)
        kinds = {unit.group.name: unit.group.kind for unit in self.units}
        terms: dict[tuple[str, ...], list[float]] = {}
        shared: dict[int, list[str]] = {}
        tensors = _parameters(self.network)
        for name, parameter in tensors.items():
            shared.setdefault(id(parameter), []).append(name)
        for name, *others in shared.values():
            positions: float = sum(positions_of.get(each, 0) for each in (name, *others))
            if name.rpartition(".")[0] in uncounted:
                positions = math.nan
            for names, entries in self._products(name, tuple(tensors[name].shape)):
                sums = terms.setdefault(names, [0.0, 0.0])
                sums[0] += entries
                sums[1] += entries * positions
        for unit in self.units:
            if unit.products is not None:
                left, right = (positions_of.get(f"{layer}.weight", 0) for layer in unit.products)
                if not left or not right:
                    layers = " or ".join(unit.products)
                    raise ValueError(f"{unit.group.name}: {layers} is not called as a module, so that the products of "
                                     "attention cannot be counted")  # fmt: skip
                terms.setdefault((unit.group.name,), [0.0, 0.0])[1] += float(left * right * unit.product_width)
        return [
            CostTerm(
                kinds[names[0]] if names else "other",
                tuple(f"{_PREFIX}{name}" for name in names),
                parameters,
                macs,
            )
            for names, (parameters, macs) in terms.items()
        ]

    def _check_shared(self) -> None:
        """Check that the units of a shared tensor are declared by all of its names.

        Raises:
            ValueError: they are not.
        """
        names: dict[int, str] = {}
        for name, parameter in _parameters(self.network).items():
            first = names.setdefault(id(parameter), name)
            for dim in range(parameter.dim()):
                owned, others = (
                    {(group.name, span.offset, span.width) for group, span in self._axes.get((each, dim), [])}
                    for each in (first, name)
                )
                if owned != others:
                    raise ValueError(f"{first} is also {name}: declare the same units of both")

    @property
    def uncounted(self) -> list[str]:
        """Names of modules with matrices that are neither linear nor convolutions: their products cannot be counted."""
        return [
            name
            for name, module in self.network.named_modules()
            if not isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED, *_WITHOUT_PRODUCTS))
            and any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
        ]

    @torch.no_grad()
    def check(self) -> None:
        """Check on the example that the first half of each group's units can be removed.

        The check computes in double precision, or in the network's own if it does not run in double precision.

        Raises:
            ValueError: the network cannot be copied or does not run, the smaller network does not run, or it computes
                something else than the masked one.
        """
        whole, exact = self._checked_copy()
        groups = whole.unit_groups()
        for unit, group in zip(self.units, groups):
            kept = dict(Structure.dense(groups).groups)
            left = max(group.minimum, group.size // 2)  # the last ones: code that takes the first ones is found, too
            kept[group.name] = kept[group.name].with_kept(range(group.size - left, group.size))
            structure = Structure(kept).resolved(groups)
            name = unit.group.name
            try:
                small = extract(whole, structure).eval()
                found = whole.probe_of(small)
            except RuntimeError as error:
                what = f"{name}: without half of its units the network does not run ({_first_line(error)})"
                raise ValueError(f"{what}; check writers, readers, between and counts") from None
            with Masker(whole, groups).applied(structure.masks()):
                masked = whole.probe_of(whole)
            difference, scale = (found - masked).abs().max().item(), masked.abs().max().item()
            if not difference <= exact * max(scale, 1.0):
                what = f"{name}: without half of its units the network computes something else than with them masked"
                why = "a layer reads these units that is not declared, or they are normalised together"
                raise ValueError(f"{what} (by {difference:.2g}); {why}")

    def _checked_copy(self) -> tuple[DeclaredNetwork, float]:
        """Return a copy in evaluation mode that runs on the example, and how much relative difference it may have."""
        example = list(map(_in_double, self.example))
        double = DeclaredNetwork(_copy(self.network).double(), self.units, example)
        single = DeclaredNetwork(_copy(self.network), self.units, self.example)
        for whole, exact in ((double, _EXACT), (single, _NEARLY)):
            try:
                whole.probe_of(whole)
            except RuntimeError as error:
                reason = _first_line(error)
            else:
                return whole, exact
        raise ValueError(f"the network does not run on the example ({reason})")

    def probe_of(self, model: nn.Module) -> Tensor:
        """Return all floating-point outputs of ``model`` for the example, one after the other, ``(rows, 1)``.

        Raises:
            ValueError: ``model`` returns no floating-point tensor.
        """
        found = [tensor.reshape(-1) for tensor in _tensors_in(model(*self.example)) if tensor.is_floating_point()]
        if not found:
            raise ValueError("the network returns no floating-point tensor, so its outputs cannot be compared")
        kind = functools.reduce(torch.promote_types, [tensor.dtype for tensor in found])
        return torch.cat([tensor.to(kind) for tensor in found])[:, None]

    def _products(self, tensor: str, shape: tuple[int, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
        """The entries of a tensor as a polynomial in counts: each product of groups, and its coefficient."""
        axes: list[list[tuple[tuple[str, ...], float]]] = []
        for dim, length in enumerate(shape):
            owned = [(group, span) for group, span in self._axes.get((tensor, dim), [])]
            widths: dict[str, float] = {}
            for group, span in owned:
                widths[group.name] = widths.get(group.name, 0.0) + span.width
            fixed = length - sum(group.size * span.width for group, span in owned)
            axis: list[tuple[tuple[str, ...], float]] = [((), float(fixed))] if fixed else []
            axes.append(axis + [((name,), width) for name, width in widths.items()])
        for parts in itertools.product(*axes):
            names = tuple(name for part, _ in parts for name in part)
            yield names, math.prod(factor for _, factor in parts)

    @torch.no_grad()
    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the outputs for the example, ``(rows, D)``."""
        return self.probe_of(self)

    def shrink(self, structure: Structure) -> DeclaredNetwork:
        """Return a network of the same modules with smaller tensors, whose values mean nothing yet.

        Raises:
            ValueError: a module cannot have the smaller shape.
        """
        network = copy.deepcopy(self.network)
        kept = {unit.group.name: structure.groups[f"{_PREFIX}{unit.group.name}"].kept for unit in self.units}
        lengths: dict[str, list[int]] = {}
        tensors: dict[str, Tensor] = {**_parameters(network), **dict(network.named_buffers())}
        for (tensor, dim), owned in self._axes.items():
            shape = lengths.setdefault(tensor, list(tensors[tensor].shape))
            shape[dim] -= sum((group.size - len(kept[group.name])) * span.width for group, span in owned)
        _resize(network, tensors, lengths)
        for unit in self.units:
            for count in unit.counts:
                owner, _, attribute = count.rpartition(".")
                setattr(network.get_submodule(owner), attribute, len(kept[unit.group.name]))
        small = copy.copy(self)
        small._modules = {"network": network}
        return small


def _copy(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode.

    Raises:
        ValueError: the network cannot be copied.
    """
    try:
        return copy.deepcopy(network).eval()
    except RuntimeError as error:
        what = f"the network cannot be copied ({_first_line(error)})"
        raise ValueError(f"{what}; use torch.nn.utils.parametrizations.weight_norm instead of weight_norm, or remove "
                         "the weight norm") from None  # fmt: skip


def _first_line(error: RuntimeError) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors_in(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors_in(part)


def _parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter by each of its names; a shared one, or one of a shared module, has several."""
    return {
        f"{path}.{name}" if path else name: parameter
        for path, module in network.named_modules(remove_duplicate=False)
        for name, parameter in module.named_parameters(recurse=False)
    }


def _in_double(value: Any) -> Any:
    """Return a value whose floating-point tensors, also in tuples, lists and dictionaries, have double precision."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_in_double, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(_in_double, value))
    return {key: _in_double(part) for key, part in value.items()} if isinstance(value, dict) else value


@contextmanager
def _watched(network: nn.Module, seen: dict[str, int]) -> Iterator[None]:
    """While open, add to ``seen`` at how many positions each weight is multiplied with an input."""

    def look(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Tensor) -> None:
            if isinstance(module, _TRANSPOSED):
                count = inputs[0].numel() // module.in_channels
            elif isinstance(module, _CONVOLUTIONS):
                count = output.numel() // module.out_channels
            else:
                count = output.numel() // output.shape[-1]
            key = f"{name}.weight" if name else "weight"
            seen[key] = seen.get(key, 0) + count

        return hook

    handles = [
        module.register_forward_hook(look(name, module))
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _count_positions(network: nn.Module, example: Sequence[Any]) -> dict[str, int]:
    """Return at how many positions the example multiplies each weight; 0 is left out."""
    seen: dict[str, int] = {}
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad(), _watched(network, seen):
            network(*example)
    finally:
        for module, training in modes.items():
            module.training = training
    return seen


def _axes(groups: Sequence[UnitGroup]) -> dict[tuple[str, int], list[tuple[UnitGroup, Span]]]:
    """By tensor and axis, the groups that own entries of it."""
    found: dict[tuple[str, int], list[tuple[UnitGroup, Span]]] = {}
    for group in groups:
        if group.parent is not None or group.removes or group.single:
            raise ValueError(f"{group.name}: declare units of layers, not modules or single weights")
        for span in dict.fromkeys(group.slices):
            if span.dim is not None:
                found.setdefault((span.tensor, span.dim), []).append((group, span))
    for (tensor, dim), owned in found.items():
        entries = sorted((span.offset, span.offset + group.size * span.width, group.name) for group, span in owned)
        for (_, end, first), (start, _, second) in itertools.pairwise(entries):
            if start < end:
                raise ValueError(f"{first} and {second} both own entries of axis {dim} of {tensor}")
    return found


def _resize(network: nn.Module, tensors: Mapping[str, Tensor], lengths: Mapping[str, Sequence[int]]) -> None:
    """Give tensors new shapes, and their modules the attributes that go with them."""
    made: dict[int, Tensor] = {}
    for name, shape in lengths.items():
        old = tensors[name]
        path, _, attribute = name.rpartition(".")
        module = network.get_submodule(path)
        new = made.setdefault(id(old), old.detach().new_zeros(tuple(shape)))
        if tuple(new.shape) != tuple(shape):
            raise ValueError(f"{name} is shared with another layer, which keeps other units of it")
        if isinstance(old, nn.Parameter):
            new = made[id(old)] = new if isinstance(new, nn.Parameter) else nn.Parameter(new, old.requires_grad)
            module._parameters[attribute] = new
        else:
            module._buffers[attribute] = new
        _describe(module)


def _describe(module: nn.Module) -> None:
    """Bring a module's attributes in line with the shape of its weight."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _CONVOLUTIONS):
        depthwise = module.groups == module.in_channels == module.out_channels
        module.out_channels = weight.shape[0]
        module.groups = weight.shape[0] if depthwise else module.groups
        module.in_channels = weight.shape[1] * module.groups
    elif isinstance(module, _TRANSPOSED):
        module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        module.num_features = weight.shape[0]
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_channels = weight.shape[0]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
