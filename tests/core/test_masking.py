"""Test norms over masked units: only kept units count, learned masks get gradients, and nothing remains afterwards."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pruning.core.masking import Masker, normalised_over
from pruning.core.units import Span, UnitGroup, check_groups

GROUP = UnitGroup("units", "conv", 6, (Span("after.weight", 1),), (), norms=("norm",))
KEPT = [0, 2, 5]


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(norm=nn.LayerNorm(6), after=nn.Linear(6, 4))).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def mask(*values: float) -> Tensor:
    result = torch.zeros(6, dtype=torch.float64)
    result[KEPT] = torch.tensor(values, dtype=torch.float64)
    return result


@pytest.mark.parametrize("values", [(1.0, 1.0, 1.0), (0.3, 0.9, 0.5)])
@torch.no_grad()
def test_a_norm_leaves_out_closed_units_and_scales_fold_into_the_weights_behind_it(values: tuple[float, ...]) -> None:
    model, x = network(), 3 + 2 * torch.randn(5, 7, 6, dtype=torch.float64)
    with Masker(model, [GROUP]).applied({"units": mask(*values)}):
        masked = model(x)
    norm, after = model.get_submodule("norm"), model.get_submodule("after")
    small = nn.functional.layer_norm(x[..., KEPT], (3,), norm.weight[KEPT], norm.bias[KEPT])
    folded = after.weight[:, KEPT] * torch.tensor(values, dtype=torch.float64)
    assert torch.allclose(masked, nn.functional.linear(small, folded, after.bias), atol=1e-10)


@torch.no_grad()
def test_masks_within_masks_act_together_and_the_outer_ones_stay() -> None:
    """Two masks act like their product, in either order of opening."""
    model, x = network(), torch.randn(2, 3, 6, dtype=torch.float64)
    masker, plain = Masker(model, [GROUP]), model(x)
    outer, inner = mask(1, 0, 1), mask(1, 1, 0)
    results = {}
    for name, masks in {"outer": outer, "inner": inner, "both": outer * inner}.items():
        with masker.applied({"units": masks}):
            results[name] = model(x)
    for first, second, name in ((outer, inner, "outer"), (inner, outer, "inner")):
        with masker.applied({"units": first}):
            with masker.applied({"units": second}):
                assert torch.allclose(model(x), results["both"])
            assert torch.equal(model(x), results[name])
            with pytest.raises(RuntimeError, match="within"), masker.applied({"units": second}):
                raise RuntimeError("within")
            assert torch.equal(model(x), results[name])
    assert torch.equal(model(x), plain)


def test_masks_that_are_learned_have_the_gradient_of_finite_differences() -> None:
    model, x = network(), torch.randn(2, 3, 6, dtype=torch.float64)
    masker = Masker(model, [GROUP])

    def loss(gates: Tensor) -> Tensor:
        with masker.applied({"units": gates}):
            return model(x).square().sum()

    gates = torch.rand(6, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(loss, (gates,))
    with masker.applied({"units": mask(1, 1, 1)}):
        hard = model(x)
    with masker.applied({"units": mask(1, 1, 1).requires_grad_(True)}):
        assert torch.allclose(model(x), hard), "for masks of zeros and ones both kinds of weights agree"


@pytest.mark.parametrize("weights", [(0.7, 0.2, 0.0, 1.0, 0.4, 0.9), (0.0, 0.0, 1.0, 0.0, 0.0, 0.0), (0.0,) * 6])
def test_the_weighted_norm_is_its_formula_and_keeps_one_tensor_of_that_size(weights: tuple[float, ...]) -> None:
    def formula(gates: Tensor, x: Tensor) -> Tensor:
        total = gates.sum().clamp(min=1e-6)
        centred = x - (x * gates).sum(dim=-1, keepdim=True) / total
        variance = (centred.square() * gates).sum(dim=-1, keepdim=True) / total
        return centred * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias

    norm, kept, found = nn.LayerNorm(6).double(), {}, []
    nn.init.normal_(norm.weight)
    for of in (formula, partial(normalised_over, norm)):
        torch.manual_seed(0)
        x, along = (torch.randn(20, 3, 6, dtype=torch.float64) for _ in range(2))
        gates = torch.tensor(weights, dtype=torch.float64).requires_grad_(True)
        x.requires_grad_(True)
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.update({tensor.data_ptr(): tensor.numel()}) or tensor, lambda tensor: tensor
        ):
            y = of(gates, x)
        found.append((y, *torch.autograd.grad((y * along).sum(), (x, gates, norm.weight))))
    for ours, theirs in zip(*found):
        torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-12)
    assert sum(size >= x.numel() for size in kept.values()) == 1


def test_gates_that_are_all_shut_give_finite_values_and_gradients() -> None:
    model, gates = network(), torch.zeros(6, dtype=torch.float64, requires_grad=True)
    with Masker(model, [GROUP]).applied({"units": gates}):
        y = model(torch.randn(4, 6, dtype=torch.float64))
    y.sum().backward()
    assert gates.grad is not None
    assert y.isfinite().all() and gates.grad.isfinite().all()


def test_norms_are_as_they_were_afterwards() -> None:
    model, x = network(), torch.randn(4, 6, dtype=torch.float64)
    before, names = model(x), set(model.get_submodule("norm").__dict__)
    with pytest.raises(RuntimeError, match="on the way"), Masker(model, [GROUP]).applied({"units": mask(1, 1, 1)}):
        assert not torch.equal(model(x), before)
        raise RuntimeError("on the way")
    assert torch.equal(model(x), before) and set(model.get_submodule("norm").__dict__) == names
    with Masker(model, [GROUP]).applied({}):
        assert torch.equal(model(x), before)


@pytest.mark.parametrize("norm", ["after", "norm"])
def test_a_norm_over_something_else_is_refused(norm: str) -> None:
    group = UnitGroup("units", "conv", 5 if norm == "norm" else 6, (Span("after.weight", 1),), norms=(norm,))
    with pytest.raises(ValueError, match=f"{norm} is not a LayerNorm over"):
        check_groups(network(), [group])
