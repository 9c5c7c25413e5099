"""Test factored matrices: optimality in their metric, break-even rank, and rotation that keeps the product."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruning.core.low_rank import (
    Metric,
    break_even,
    component_groups,
    factorise,
    factors,
    importance,
    install,
    linear_names,
    recombined,
    shrunk_ranks,
)
from pruning.core.selection import Selection
from pruning.errors import UserError


def test_break_even_ranks() -> None:
    assert [int(break_even(*shape)) for shape in ((512, 512), (512, 2048), (768, 3072))] == [256, 409, 614]


def matrix(seed: int, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


shapes = st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(0, 10**6))


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 8))
def test_the_plain_form_is_the_truncated_svd(shape: tuple[int, int, int], rank: int) -> None:
    rows, columns, seed = shape
    weight = matrix(seed, rows, columns)
    left, right = factors(weight)
    assert torch.allclose(left @ right, weight)
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    rank = min(rank, len(s))
    assert torch.allclose(left[:, :rank] @ right[:rank], u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank], atol=1e-8)
    assert torch.allclose(importance(left, right), s)
    assert torch.allclose(left.norm(dim=0), right.norm(dim=1))  # singular values are split equally


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 8))
def test_the_activation_weighted_form_errs_least_on_its_inputs(shape: tuple[int, int, int], rank: int) -> None:
    """``|(W - W_r) X|`` is the tail of the singular values of ``W X``: no matrix of this rank is better."""
    rows, columns, seed = shape
    weight, inputs = matrix(seed, rows, columns), matrix(seed + 1, columns, 3 * columns) * 3
    left, right = factors(weight, Metric.of_inputs(inputs @ inputs.T))
    rank = min(rank, left.shape[1])
    error = ((weight - left[:, :rank] @ right[:rank]) @ inputs).norm()
    best = torch.linalg.svdvals(weight @ inputs)[rank:].norm()
    assert torch.allclose(left @ right, weight)
    assert error <= best * 1.01 + 0.05 * weight.norm()  # the jitter adds a small error
    plain = factors(weight)
    assert error <= ((weight - plain[0][:, :rank] @ plain[1][:rank]) @ inputs).norm() + 0.05 * weight.norm()


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 8))
def test_the_fisher_weighted_form_errs_least_by_rows(shape: tuple[int, int, int], rank: int) -> None:
    rows, columns, seed = shape
    weight, squares = matrix(seed, rows, columns), matrix(seed + 1, rows, columns) ** 2
    left, right = factors(weight, Metric.of_fisher(squares))
    rank = min(rank, left.shape[1])
    root = squares.sum(dim=1).sqrt()[:, None]
    best = torch.linalg.svdvals(root * weight)[rank:].norm()
    assert torch.allclose(left @ right, weight)
    assert torch.allclose((root * (weight - left[:, :rank] @ right[:rank])).norm(), best, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(shapes, st.sampled_from(["plain", "fisher", "inputs"]))
def test_what_is_left_is_turned_into_the_same_form(shape: tuple[int, int, int], kind: str) -> None:
    rows, columns, seed = shape
    rank = min(rows, columns) - 1
    left, right = matrix(seed, rows, rank), matrix(seed + 2, rank, columns)
    gram = matrix(seed + 1, columns, 2 * columns)
    metric = {"plain": Metric(), "fisher": Metric.of_fisher(matrix(seed + 3, rows, columns) ** 2),
              "inputs": Metric.of_inputs(gram @ gram.T)}[kind]  # fmt: skip
    mixing, inverse = recombined(left, right, metric)
    assert torch.allclose(mixing @ inverse, torch.eye(rank, dtype=torch.float64), atol=1e-6)
    new_left, new_right = left @ mixing, inverse @ right
    assert torch.allclose(new_left @ new_right, left @ right, atol=1e-8)
    values = importance(new_left, new_right, metric)
    weighted = metric.weigh(left, right)
    assert torch.allclose(values, torch.linalg.svdvals(weighted[0] @ weighted[1])[:rank], atol=1e-6)


def test_what_cannot_be_factored_is_refused() -> None:
    with pytest.raises(UserError, match="Conv1d does not declare which weights may be removed"):
        linear_names(torch.nn.Conv1d(2, 2, 1))
    from tests.models.test_transformer_lm import network

    with pytest.raises(UserError, match="no linear layer layers.0.nothing"):
        factorise(network(), ["layers.0.nothing"])


def test_inputs_of_a_tenth_of_the_others_still_count() -> None:
    """The jitter adds almost nothing to the smallest error that a matrix of this rank can have."""
    generator = np.random.RandomState(0)
    weight, inputs = generator.randn(12, 10), generator.randn(10, 200)
    inputs[5:] *= 0.1
    weight[:, 5:] *= 10  # the small inputs contribute as much as the others
    metric = Metric.of_inputs(torch.from_numpy(inputs @ inputs.T))
    left, right = (factor.numpy() for factor in factors(torch.from_numpy(weight), metric))
    values = np.linalg.svd(weight @ inputs, compute_uv=False)
    for rank in range(1, 10):
        error = np.linalg.norm((weight - left[:, :rank] @ right[:rank]) @ inputs)
        assert error <= 1.005 * np.linalg.norm(values[rank:])


def test_the_metric_of_inputs_is_their_norm_and_has_an_inverse_where_some_say_nothing() -> None:
    generator = np.random.RandomState(1)
    row, inputs = generator.randn(1, 6), generator.randn(6, 50)
    inputs[4], inputs[5] = inputs[3], 0.0  # of rank 4
    metric = Metric.of_inputs(torch.from_numpy(inputs @ inputs.T))
    assert metric.columns is not None
    assert np.linalg.norm(row @ metric.columns.numpy()) == pytest.approx(np.linalg.norm(row @ inputs), rel=5e-3)
    values = np.linalg.svd(metric.columns.numpy(), compute_uv=False)
    assert values[0] < 1e3 * values[-1], "inverting the factors does not magnify float32 rounding"
    assert Metric.of_inputs(torch.zeros(3, 3)).columns is not None, "works without any input"


def test_rows_of_a_hundredth_of_the_others_are_weighed_as_they_are_and_none_by_nothing() -> None:
    squares = np.ones((5, 4))
    squares[1], squares[2] = 1e-4, 0.0
    rows = Metric.of_fisher(torch.from_numpy(squares)).rows
    assert rows is not None
    assert rows.numpy()[[0, 1, 3, 4]] == pytest.approx(np.sqrt(squares.sum(axis=1))[[0, 1, 3, 4]])
    assert 0 < rows[2] < 0.2 * rows[1]


@pytest.mark.parametrize("metric", [Metric.of_fisher(torch.zeros(5, 4)), Metric.of_inputs(torch.zeros(4, 4))],
                         ids=["fisher", "inputs"])  # fmt: skip
def test_a_layer_that_saw_nothing_is_factored_and_its_components_weigh_least(metric: Metric) -> None:
    weight = matrix(0, 5, 4).float()
    left, right = (factor.float() for factor in factors(weight, metric))
    assert torch.allclose(left @ right, weight, rtol=1e-4, atol=1e-5)
    mixing, inverse = recombined(left, right, metric)
    assert torch.allclose(mixing @ inverse, torch.eye(4, dtype=torch.float64), atol=1e-4)
    values = importance(left, right, metric)
    assert bool((values > 0).all()) and float(values.max()) < 1e-9


class OneLayer(torch.nn.Module):
    """A linear layer without bias, factored."""

    def __init__(self, outputs: int, inputs: int, rank: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(inputs, outputs, bias=False)
        install(self, {"linear": rank})


@settings(max_examples=40)
@given(st.integers(2, 40), st.integers(2, 40))
def test_what_is_kept_in_two_factors_is_no_larger_than_the_matrix(outputs: int, inputs: int) -> None:
    """Count the weights of both forms: exactly as many components stay as fit."""
    full = min(outputs, inputs)
    model = OneLayer(outputs, inputs, full)
    selection = Selection(component_groups(model))
    for kept in range(1, full + 1):
        keep = torch.arange(full) < kept
        structure = selection.structure(keep, torch.arange(float(full)))
        rank = shrunk_ranks(model, structure).get("linear")
        weights = kept * (outputs + inputs)
        if weights <= outputs * inputs:
            assert rank == kept
        else:
            assert rank is None and structure.count("linear.components") == full, "the dense matrix is smaller"
