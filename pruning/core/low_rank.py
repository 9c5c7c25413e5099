"""Low rank: linear layers as products of two matrices, whose rank-1 components are units like any other.

A matrix ``W (m, n)`` is kept as ``U V`` with ``U (m, r)`` and ``V (r, n)``; component i is ``U[:, i] V[i, :]``. Masks,
costs, criteria, rankings and extraction are those of every unit group (see `pruning.core.units`). Only below the
break-even rank ``m n / (m + n)`` is a factored matrix smaller than a dense one; one that would keep more stays dense.
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
"""The criteria that are a norm in which a matrix is approximated; the others score the components of the plain one."""
_JITTER = 1e-3  # of the mean square of the inputs
_NOTHING = 1e-14  # of the largest singular value: what is below is rounding


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer that may be factored.

    Attributes:
        name: of the module.
        kind: of the cost terms that it is a part of.
        calls: how many vectors go through it in one utterance or sentence of the length that costs are counted at.
    """

    name: str
    kind: str
    calls: float


@runtime_checkable
class Factorable(Protocol):
    """What a network offers so that its linear layers can be factored."""

    def linear_layers(self, frames: int) -> list[LinearLayer]:
        """Those that may be factored, for ``frames`` input frames or tokens."""

    def with_ranks(self, ranks: Mapping[str, int]) -> nn.Module:
        """A new network whose layers ``ranks`` (name -> rank) are factored; its weights are not set."""


def factorable(model: nn.Module) -> Factorable:
    """``model`` as a network that says which linear layers it has.

    Raises:
        UserError: it does not.
    """
    if not isinstance(model, Factorable):
        raise UserError(f"a {type(model).__name__} does not say which weights may go", "use another technique")
    return model


def break_even(outputs: int, inputs: int) -> float:
    """The rank at which both forms of an ``(outputs, inputs)`` matrix are equally large: ``m n / (m + n)``."""
    return outputs * inputs / (outputs + inputs)


class FactoredLinear(nn.Module):
    """A linear layer of limited rank: ``y = U (V x) + b``.

    Its factors are the weights of the submodules ``u`` and ``v``.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        if not 1 <= rank <= min(inputs, outputs):
            raise ValueError(f"rank {rank} of a matrix {outputs} x {inputs}")
        self.in_features, self.out_features, self.rank = inputs, outputs, rank
        self.v = nn.Linear(inputs, rank, bias=False)
        self.u = nn.Linear(rank, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., inputs) -> (..., outputs)``."""
        return self.u(self.v(x))


def install(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Put factored layers in the place of linear ones, with fresh weights.

    Args:
        model: what is being built.
        ranks: name of a linear layer -> rank.

    Raises:
        ValueError: there is no such layer, it is of another kind, or the rank is not one of its matrix.
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
    """Inputs and outputs of a linear layer, also one that is written as a convolution of kernel 1."""
    if isinstance(layer, (nn.Linear, FactoredLinear)):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.Conv1d) and layer.kernel_size == (1,) and layer.groups == 1:
        return layer.in_channels, layer.out_channels
    raise ValueError(f"ranks: {name} is a {type(layer).__name__}, no linear layer")


def _factored(model: nn.Module) -> dict[str, FactoredLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, FactoredLinear)}


def _dense_is_smaller(layer: FactoredLinear) -> bool:
    return layer.rank > break_even(layer.out_features, layer.in_features)


def component_groups(model: nn.Module) -> list[UnitGroup]:
    """One group for each factored layer. A layer above its break-even rank is one dense matrix if that is all kept."""
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


def cost_terms(
    model: nn.Module, groups: Sequence[UnitGroup], terms: Sequence[CostTerm], layers: Sequence[LinearLayer]
) -> list[CostTerm]:
    """Cost of a network some of whose linear layers are factored; ``terms`` where none is.

    Args:
        model: the network.
        groups, terms: of the same network with no layer factored.
        layers: its linear layers, at the length of ``terms``.
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
    """Ranks of the factored layers that ``structure`` leaves of a network; a layer that is dense again has none."""
    ranks = {}
    for name, layer in _factored(model).items():
        kept = structure.count(f"{name}.components")
        if kept < layer.rank or not _dense_is_smaller(layer):
            ranks[name] = kept
    return ranks


@dataclass(frozen=True)
class Metric:
    """What of a matrix matters: the factors are best in the norm of ``rows W columns``.

    Attributes:
        rows: ``(m,)`` positive weights of the output rows, or None.
        columns: ``(n, n)`` lower triangular factor of the inputs' second moments, or None.
    """

    rows: Optional[Tensor] = None
    columns: Optional[Tensor] = None

    @classmethod
    def of_fisher(cls, squared_gradients: Tensor) -> Metric:
        """Fisher-weighted SVD (arXiv 2207.00112): square roots of the row sums of ``E[g^2] (m, n)``."""
        rows = squared_gradients.double().sum(dim=1).sqrt()
        return cls(rows=rows.clamp(min=_JITTER * float(rows.mean())))

    @classmethod
    def of_inputs(cls, gram: Tensor) -> Metric:
        """Activation-weighted SVD: the Cholesky factor of ``sum x x^T (n, n)`` and a little of its mean diagonal."""
        gram = gram.double()
        jitter = _JITTER * float(gram.diagonal().mean()) + 1e-30
        return cls(columns=torch.linalg.cholesky(gram + jitter * torch.eye(len(gram), dtype=gram.dtype)))

    def weigh(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """``left (m, r)`` and ``right (r, n)`` in the space where the norm is the plain one."""
        left = left if self.rows is None else self.rows[:, None].to(left) * left
        return left, right if self.columns is None else right @ self.columns.to(right)

    def unweigh(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `weigh`."""
        left = left if self.rows is None else left / self.rows[:, None].to(left)
        if self.columns is not None:  # right = X C  ->  C^T X^T = right^T
            right = torch.linalg.solve_triangular(self.columns.to(right).T, right.T, upper=True).T
        return left, right


def factors(weight: Tensor, metric: Metric = Metric()) -> tuple[Tensor, Tensor]:
    """``U (m, r)`` and ``V (r, n)`` of full rank with ``U V = weight (m, n)``, the most important component first.

    The first k components are the best approximation of rank k in the metric (Eckart and Young); each singular value
    is shared equally between both factors.
    """
    whole = weight.detach().cpu().double()
    whole = whole if metric.rows is None else metric.rows[:, None].to(whole) * whole
    whole = whole if metric.columns is None else whole @ metric.columns.to(whole)
    u, values, vh = torch.linalg.svd(whole, full_matrices=False)
    root = values.sqrt()
    return metric.unweigh(u * root, root[:, None] * vh)


def recombined(left: Tensor, right: Tensor, metric: Metric = Metric()) -> tuple[Tensor, Tensor]:
    """``R (r, r)`` and its inverse, float64, such that ``U R`` and ``R^-1 V`` are of the form that `factors` gives.

    With ``U = Q A`` and ``V^T = P B`` in the metric's space and ``A B^T = X S Y^T``, they are ``R = B^T Y S^-1/2`` and
    ``R^-1 = S^-1/2 X^T A``: two QRs of thin matrices and an SVD of ``(r, r)``.

    Args:
        left, right: ``U (m, r)`` and ``V (r, n)``, both of rank r (nearly: small components are kept from exploding).
        metric: of the form.
    """
    left, right = left.detach().cpu().double(), right.detach().cpu().double()
    left, right = metric.weigh(left, right)
    a, b = torch.linalg.qr(left, mode="r")[1], torch.linalg.qr(right.T, mode="r")[1]
    x, values, yh = torch.linalg.svd(a @ b.T, full_matrices=False)
    root = values.sqrt()
    root = torch.where(values > _NOTHING * values[:1], root.reciprocal(), torch.zeros_like(root))
    return b.T @ yh.T * root, root[:, None] * (x.T @ a)


def importance(left: Tensor, right: Tensor, metric: Metric = Metric()) -> Tensor:
    """``|U_i| |V_i|`` in the metric, ``(r,)``: the singular values, where the factors come from `factors`."""
    left, right = metric.weigh(left.detach().cpu().double(), right.detach().cpu().double())
    return left.norm(dim=0) * right.norm(dim=1)


def linear_names(model: nn.Module) -> list[str]:
    """The linear layers of a network that may be factored.

    Raises:
        UserError: the network cannot be factored.
    """
    return [layer.name for layer in factorable(model).linear_layers(1)]


@torch.no_grad()
def factorise(model: nn.Module, names: Sequence[str], metrics: Optional[Mapping[str, Metric]] = None) -> nn.Module:
    """A network that computes the same, with the linear layers ``names`` factored at full rank.

    Args:
        model: a `Factorable` network.
        names: of its linear layers.
        metrics: by layer; the plain one where absent.

    Raises:
        UserError: the network cannot be factored, or has no such layer.
    """
    unknown = set(names) - set(linear_names(model))
    if unknown:
        raise UserError(f"there is no linear layer {sorted(unknown)[0]} to factor", "name layers of the network")
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
