"""Test that the fused loss equals cross-entropy for any chunk size and precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from pruning.core import linear_loss
from pruning.core.linear_loss import linear_cross_entropy


def case(rows: int, dim: int, classes: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows + 10 * dim + 100 * classes)
    x, weight = (torch.randn(size, dim, generator=draw, dtype=dtype).requires_grad_() for size in (rows, classes))
    return x, weight, torch.randint(classes, (rows,), generator=draw)


def plain(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy((x @ weight.t()).float() if x.dtype != torch.float64 else x @ weight.t(), targets,
                         reduction="sum")  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 40), dim=st.integers(1, 8), classes=st.integers(2, 30), chunk=st.integers(1, 400))
def test_it_is_cross_entropy(rows: int, dim: int, classes: int, chunk: int) -> None:
    x, weight, targets = case(rows, dim, classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_loss, "_CHUNK_ELEMENTS", chunk)
        loss = linear_cross_entropy(x, weight, targets)
    wanted = plain(x, weight, targets)
    torch.testing.assert_close(loss, wanted)
    ours = torch.autograd.grad(2.5 * loss, [x, weight])
    for got, good in zip(ours, torch.autograd.grad(2.5 * wanted, [x, weight])):
        torch.testing.assert_close(got, good)


def test_scores_as_large_as_they_come() -> None:
    """Exponentials of differences from the largest score cannot overflow."""
    x, weight, targets = case(6, 4, 9, torch.float32)
    loss = linear_cross_entropy(x * 1e4, weight, targets)
    torch.testing.assert_close(loss, plain(x * 1e4, weight, targets))
    assert all(part.isfinite().all() for part in torch.autograd.grad(loss, [x, weight]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_the_precision_of_autocast(dtype: torch.dtype) -> None:
    x, weight, targets = case(64, 32, 50, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss, wanted = linear_cross_entropy(x, weight, targets), plain(x, weight, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wanted, rtol=1e-3, atol=0)
    for got, good in zip(torch.autograd.grad(loss, [x, weight]), torch.autograd.grad(wanted, [x, weight])):
        assert got.dtype == torch.float32
        assert (got - good).abs().max() < (0.02 if dtype == torch.bfloat16 else 1e-5) * good.abs().max()


def test_only_what_is_asked_for() -> None:
    x, weight, targets = case(7, 3, 5)
    loss = linear_cross_entropy(x.detach(), weight, targets)
    wanted = plain(x, weight, targets)
    torch.testing.assert_close(torch.autograd.grad(loss, weight), torch.autograd.grad(wanted, weight))
    with torch.no_grad():
        assert not linear_cross_entropy(x, weight, targets).requires_grad
