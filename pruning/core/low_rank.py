"""Low rank: linear layers as products of two matrices, whose rank-1 components are units like any other.

A matrix ``W (m, n)`` is stored as ``U V`` with ``U (m, r)`` and ``V (r, n)``; component i is ``U[:, i] V[i, :]``.
Masks, costs, criteria, rankings and extraction work as for every unit group (see `pruning.core.units`). A factored
matrix is smaller than a dense one only below the break-even rank ``m n / (m + n)``; a matrix that would keep more
components stays dense.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pruning.core.cost import CostModel, CostTerm
from pruning.core.prunable import plain_state
from pruning.core.structure import Structure
from pruning.core.units import COMPONENTS, Product, Span, UnitGroup
from pruning.errors import UserError

KIND = COMPONENTS
METRIC_OF = {"magnitude": "plain", "fisher": "fisher", "wanda": "inputs"}
"""Metric of the matrix approximation for criteria that define one; the others score components in the plain metric."""
_JITTER = 1e-3  # relative to the mean square of the inputs
_UNSEEN = 1e-30  # mean square of the inputs or gradients of a layer that had none, so that its metric can be inverted
_NOTHING = 1e-14  # relative to the largest singular value; smaller values are rounding errors


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer that may be factored.

    Attributes:
        name: name of the module.
        kind: kind of the cost terms that contain the layer.
        calls: number of vectors that pass through it for one utterance or sentence of the length at which costs are
            counted.
    """

    name: str
    kind: str
    calls: float


@runtime_checkable
class Factorable(Protocol):
    """Interface of a network whose linear layers can be factored."""

    def linear_layers(self, frames: int) -> list[LinearLayer]:
        """Return the linear layers that may be factored, for ``frames`` input frames or tokens."""

    def with_ranks(self, ranks: Mapping[str, int]) -> nn.Module:
        """Return a new network with the layers of ``ranks`` (name -> rank) factored; its weights are not set."""


def factorable(model: nn.Module) -> Factorable:
    """Return ``model`` if it declares its linear layers.

    Raises:
        UserError: it does not.
    """
    if not isinstance(model, Factorable):
        raise UserError(f"{type(model).__name__} does not declare which weights may be removed",
                        "use another technique")  # fmt: skip
    return model


def break_even(outputs: int, inputs: int) -> float:
    """Return the break-even rank of an ``(outputs, inputs)`` matrix, ``m n / (m + n)``."""
    return outputs * inputs / (outputs + inputs)


class FactoredLinear(nn.Module):
    """A linear layer of limited rank: ``y = U (V x) + b``.

    Its factors are the weights of the submodules ``u`` and ``v``.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        if not 1 <= rank <= min(inputs, outputs):
            raise ValueError(f"a {outputs} x {inputs} matrix cannot have rank {rank}")
        self.in_features, self.out_features, self.rank = inputs, outputs, rank
        self.v = nn.Linear(inputs, rank, bias=False)
        self.u = nn.Linear(rank, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., inputs) -> (..., outputs)``."""
        return self.u(self.v(x))


def install(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Replace linear layers by factored ones with fresh weights.

    Args:
        model: network that is being built; modified in place.
        ranks: name of a linear layer -> rank.

    Raises:
        ValueError: there is no such layer, it is not linear, or its matrix cannot have that rank.
    """
    for name, rank in ranks.items():
        path, _, attribute = name.rpartition(".")
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            raise ValueError(f"ranks: there is no layer {name}") from None
        inputs, outputs = _dimensions(layer, name)
        setattr(model.get_submodule(path), attribute, FactoredLinear(inputs, outputs, rank, layer.bias is not None))


def _dimensions(layer: nn.Module, name: str) -> tuple[int, int]:
    """Return the input and output dimension of a linear layer, which may be a convolution of kernel size 1."""
    if isinstance(layer, (nn.Linear, FactoredLinear)):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.Conv1d) and layer.kernel_size == (1,) and layer.groups == 1:
        return layer.in_channels, layer.out_channels
    raise ValueError(f"ranks: {name} is a {type(layer).__name__}, not a linear layer")


def _factored(model: nn.Module) -> dict[str, FactoredLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, FactoredLinear)}


def _dense_is_smaller(layer: FactoredLinear) -> bool:
    return layer.rank > break_even(layer.out_features, layer.in_features)


def component_groups(model: nn.Module) -> list[UnitGroup]:
    """Return one group per factored layer. A layer above its break-even rank is stored dense if all of it is kept."""
    groups = []
    for name, layer in _factored(model).items():
        left, right = f"{name}.u.weight", f"{name}.v.weight"
        even = break_even(layer.out_features, layer.in_features)
        whole = Product(left, right, f"{name}.weight", f"{name}.u.bias", f"{name}.bias")
        groups.append(
            UnitGroup(
                f"{name}.components",
                KIND,
                layer.rank,
                masks=(Span(left, 1),),
                slices=(Span(left, 1), Span(right, 0)),
                minimum=1,
                worthwhile=int(even) if _dense_is_smaller(layer) else None,
                product=whole if _dense_is_smaller(layer) else None,
            )
        )
    return groups


def refuse_width(width: bool) -> None:
    """Refuse to prune the residual width of a network with factored layers.

    Raises:
        UserError: ``width`` is True.
    """
    if width:
        raise UserError("the residual width of a network with low-rank layers cannot be pruned",
                        "prune the width of the dense network, extract it, and factor that")  # fmt: skip


def cost_terms(
    model: nn.Module, groups: Sequence[UnitGroup], terms: Sequence[CostTerm], layers: Sequence[LinearLayer]
) -> list[CostTerm]:
    """Return the cost terms of a network with factored linear layers, or ``terms`` if none is factored.

    Args:
        model: the network.
        groups, terms: unit groups and cost terms of the same network without factored layers.
        layers: linear layers of the network, at the input length of ``terms``.
    """
    factored = _factored(model)
    if not factored:
        return list(terms)
    dense = CostModel(groups, terms)
    constant = dense.by_kind(dense.dense_counts())
    components = []
    for place in layers:
        layer = factored.get(place.name)
        if layer is None:
            continue
        m, n = layer.out_features, layer.in_features
        constant[place.kind]["size"] -= m * n
        constant[place.kind]["macs"] -= m * n * place.calls
        name, even = f"{place.name}.components", break_even(m, n)
        limit = even if _dense_is_smaller(layer) else math.inf
        components.append(CostTerm(place.kind, (name,), m + n, (m + n) * place.calls, limit))
    return [CostTerm(kind, (), row["size"], row["macs"]) for kind, row in constant.items()] + components


def shrunk_ranks(model: nn.Module, structure: Structure) -> dict[str, int]:
    """Return the ranks that ``structure`` leaves the factored layers; a layer that becomes dense again is left out."""
    ranks = {}
    for name, layer in _factored(model).items():
        kept = structure.count(f"{name}.components")
        if kept < layer.rank or not _dense_is_smaller(layer):
            ranks[name] = kept
    return ranks


@dataclass(frozen=True)
class Metric:
    """Metric in which a matrix is approximated: the factors are optimal in the norm of ``rows W columns``.

    Attributes:
        rows: ``(m,)`` positive weights of the output rows, or None.
        columns: ``(n, n)`` lower triangular factor of the second moments of the inputs, or None.
    """

    rows: Optional[Tensor] = None
    columns: Optional[Tensor] = None

    @classmethod
    def of_fisher(cls, squared_gradients: Tensor) -> Metric:
        """Build the metric of Fisher-weighted SVD (arXiv 2207.00112): roots of the row sums of ``E[g^2] (m, n)``."""
        rows = squared_gradients.double().sum(dim=1).sqrt()
        return cls(rows=rows.clamp(min=_JITTER * float(rows.mean()) + math.sqrt(_UNSEEN)))

    @classmethod
    def of_inputs(cls, gram: Tensor) -> Metric:
        """Build the metric of activation-weighted SVD: the Cholesky factor of ``sum x x^T (n, n)``.

        A small multiple of the mean of its diagonal is added to the diagonal.
        """
        gram = gram.double()
        jitter = _JITTER * float(gram.diagonal().mean()) + _UNSEEN
        return cls(columns=torch.linalg.cholesky(gram + jitter * torch.eye(len(gram), dtype=gram.dtype)))

    def weigh(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``left (m, r)`` and ``right (r, n)`` to the space in which the norm is the plain one."""
        left = left if self.rows is None else self.rows[:, None].to(left) * left
        return left, right if self.columns is None else right @ self.columns.to(right)

    def unweigh(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `weigh`."""
        left = left if self.rows is None else left / self.rows[:, None].to(left)
        if self.columns is not None:  # right = X C  ->  C^T X^T = right^T
            right = torch.linalg.solve_triangular(self.columns.to(right).T, right.T, upper=True).T
        return left, right


def factors(weight: Tensor, metric: Metric = Metric()) -> tuple[Tensor, Tensor]:
    """Return ``U (m, r)`` and ``V (r, n)`` of full rank with ``U V = weight (m, n)``, most important component first.

    The first k components are the best approximation of rank k in the metric (Eckart and Young); each singular value
    is split equally between both factors.
    """
    whole = weight.detach().cpu().double()
    whole = whole if metric.rows is None else metric.rows[:, None].to(whole) * whole
    whole = whole if metric.columns is None else whole @ metric.columns.to(whole)
    u, values, vh = torch.linalg.svd(whole, full_matrices=False)
    root = values.sqrt()
    return metric.unweigh(u * root, root[:, None] * vh)


def recombined(left: Tensor, right: Tensor, metric: Metric = Metric()) -> tuple[Tensor, Tensor]:
    """Return ``R (r, r)`` and its inverse, float64, such that ``U R`` and ``R^-1 V`` have the form of `factors`.

    With ``U = Q A`` and ``V^T = P B`` in the metric's space and ``A B^T = X S Y^T``, they are ``R = B^T Y S^-1/2`` and
    ``R^-1 = S^-1/2 X^T A``: two QR decompositions of thin matrices and an SVD of an ``(r, r)`` matrix.

    Args:
        left, right: ``U (m, r)`` and ``V (r, n)``, both of rank r, or nearly so: components with a tiny singular value
            are set to 0 so that they do not explode.
        metric: metric in which the result is in SVD form.
    """
    left, right = left.detach().cpu().double(), right.detach().cpu().double()
    left, right = metric.weigh(left, right)
    a, b = torch.linalg.qr(left, mode="r")[1], torch.linalg.qr(right.T, mode="r")[1]
    x, values, yh = torch.linalg.svd(a @ b.T, full_matrices=False)
    root = values.sqrt()
    root = torch.where(values > _NOTHING * values[:1], root.reciprocal(), torch.zeros_like(root))
    return b.T @ yh.T * root, root[:, None] * (x.T @ a)


def importance(left: Tensor, right: Tensor, metric: Metric = Metric()) -> Tensor:
    """Return ``|U_i| |V_i|`` in the metric, ``(r,)``: the singular values if the factors come from `factors`."""
    left, right = metric.weigh(left.detach().cpu().double(), right.detach().cpu().double())
    return left.norm(dim=0) * right.norm(dim=1)


def linear_names(model: nn.Module) -> list[str]:
    """Return the names of the linear layers of a network that may be factored.

    Raises:
        UserError: the network cannot be factored.
    """
    return [layer.name for layer in factorable(model).linear_layers(1)]


@torch.no_grad()
def factorise(model: nn.Module, names: Sequence[str], metrics: Optional[Mapping[str, Metric]] = None) -> nn.Module:
    """Return a network that computes the same, with the linear layers ``names`` factored at full rank.

    Args:
        model: a `Factorable` network.
        names: names of the linear layers to factor.
        metrics: layer name -> metric of the factors; the plain metric for layers without an entry.

    Raises:
        UserError: the network cannot be factored, or has no such layer.
    """
    unknown = set(names) - set(linear_names(model))
    if unknown:
        raise UserError(f"the network has no linear layer {sorted(unknown)[0]}", "give names of layers that it has")
    state = plain_state(model)
    ranks = {}
    for name in names:
        weight = state.pop(f"{name}.weight")
        left, right = factors(weight.flatten(1), (metrics or {}).get(name, Metric()))
        state[f"{name}.u.weight"], state[f"{name}.v.weight"] = left.to(weight), right.to(weight)
        if f"{name}.bias" in state:
            state[f"{name}.u.bias"] = state.pop(f"{name}.bias")
        ranks[name] = len(right)
    factored = factorable(model).with_ranks(ranks)
    factored.load_state_dict(state, strict=True)
    parameter = next(model.parameters())
    return factored.to(device=parameter.device, dtype=parameter.dtype).train(model.training)
