"""Test the Zipformer against formulas written once more, and what holds for any of its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.models.bias_norm import BiasNorm
from pruning.models.chunk import Chunk
from pruning.models.limited import limited
from pruning.models.swoosh import swoosh_l, swoosh_r
from pruning.models.zipformer import Bypass
from pruning.models.zipformer_attention import compact_positions
from pruning.models.zipformer_config import ZipformerConfig
from pruning.models.zipformer_convolution import ConvolutionModule
from tests.models import zipformer_reference as reference
from tests.models.zipformers import SMALL, features, small


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("activation", [(swoosh_l, 4.0, 0.035), (swoosh_r, 1.0, 0.313261687)])
def test_swoosh_is_exact_and_does_not_overflow(activation: tuple[Callable[[Tensor], Tensor], float, float]) -> None:
    function, shift, constant = activation
    x = torch.tensor([-1e4, -50.0, -1.0, 0.0, 1.0, 4.0, 24.5, 60.0, 1e4], dtype=torch.float64)
    values = [max(v - shift, 0) + math.log1p(math.exp(-abs(v - shift))) - 0.08 * v - constant for v in x.tolist()]
    assert torch.allclose(function(x), torch.tensor(values, dtype=torch.float64), rtol=1e-13, atol=1e-13)
    assert torch.isfinite(function(torch.tensor([-1e30, 1e30]))).all()
    assert torch.autograd.gradcheck(function, (x[1:8].clone().requires_grad_(),))


def test_positions_are_compact() -> None:
    found = compact_positions(4, 48, torch.device("cpu"), torch.float64, earlier=3)
    expected = torch.stack([reference.encoding(distance, 48) for distance in range(-6, 4)])
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("form", [{}, {"causal": True}])
@torch.no_grad()
def test_outputs_are_those_of_the_formulas(form: dict[str, bool]) -> None:
    """For each utterance alone, although they are in one batch."""
    model = small(**form, norm_widths=(20, 24, 30)).double()
    model.set_feature_statistics(torch.linspace(-1, 1, 20), torch.linspace(0.5, 2, 20))
    x, lengths = features(53, 38)
    encoded = model(x.double(), lengths, return_layers=True)
    assert len(encoded.layers) == 4
    assert torch.equal(encoded.layers[-1], encoded.output)
    for index, length in enumerate(lengths):
        expected = reference.encode(x[index, :length].double(), model.state_dict(), model.config)
        assert encoded.lengths[index] == len(expected)
        assert difference(encoded.output[index, : len(expected)], expected) < 1e-6  # positions are in float32


@torch.no_grad()
def test_convolutions_are_chunked() -> None:
    torch.manual_seed(0)
    module = ConvolutionModule(6, 5, 7, causal=True).double()
    assert module.chunked is not None
    module.chunked.edges.normal_()
    state = {f"convolution.{name}": tensor for name, tensor in module.state_dict().items()}
    x, lengths = torch.randn(2, 17, 6, dtype=torch.float64), torch.tensor([17, 3])
    for chunk in (0, 4, 8, 16, 32):
        for index, length in enumerate(lengths):
            expected = reference.convolve(x[index, :length], state, "convolution", 7, True, chunk)
            assert difference(module(x, lengths, chunk)[index, :length], expected) < 1e-12


@torch.no_grad()
def test_padding_and_later_chunks_have_no_effect() -> None:
    model = small(causal=True)
    x, lengths = features(103, 61)
    alone = model(x[1:, :61], lengths[1:])
    assert torch.allclose(model(x, lengths).output[1, : alone.lengths[0]], alone.output[0], atol=1e-5)
    chunk = Chunk(16, 16)
    whole, changed = x[:1].clone(), x[:1].clone()
    changed[:, 16 + 2 * 16 + 13 :] += 1  # in the front end, a frame sees up to 13 feature frames from its first one
    found = model(whole, lengths[:1], chunk=chunk).output - model(changed, lengths[:1], chunk=chunk).output
    assert found[0, :8].abs().max() < 1e-5, "the first chunk"
    assert found[0, 16:].abs().max() > 1e-2


def test_chunks_that_the_network_cannot_compute_are_refused() -> None:
    x, lengths = features()
    for model, chunk, message in (
        (small(), Chunk(16), "not causal"),
        (small(causal=True), Chunk(6), "a multiple of 4"),
        (small(causal=True, conv_kernel=(7, 9, 3)), Chunk(4, 4), "give at least 8 frames"),
        (small(causal=True), Chunk(8, 12), "12 frames is not a multiple of the chunk of 8 frames; give 8 or 16"),
        (small(causal=True), Chunk(8, 20), "20 frames is not a multiple of the chunk of 8 frames; give 16 or 24"),
        (small(causal=True), Chunk(8, 4), "4 frames is not a multiple of the chunk of 8 frames; give 8 or 16"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            model(x, lengths, chunk=chunk)
        assert "\n" not in str(raised.value)


def test_short_utterances_give_no_frames() -> None:
    encoded = small()(torch.randn(2, 5, 20), torch.tensor([5, 0]))
    assert encoded.lengths.tolist() == [0, 0]
    assert torch.isfinite(encoded.output).all()


def test_limits_turn_gradients_back_and_leave_values_alone() -> None:
    bypass = Bypass(4)
    with torch.no_grad():
        bypass.scale.copy_(torch.tensor([0.1, 0.1, 1.2, 0.5]))
    assert torch.equal(limited(bypass, "scale", 0.2, 1.0), bypass.scale)
    (limited(bypass, "scale", 0.2, 1.0) * torch.tensor([1.0, -1.0, -1.0, 1.0])).sum().backward()
    assert torch.equal(bypass.scale.grad, torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    assert torch.equal(bypass(torch.zeros(1, 1, 4), torch.ones(1, 1, 4))[0, 0], bypass.scale)
    bypass.scale.grad = None
    bypass.eval()(torch.zeros(1, 1, 4), torch.ones(1, 1, 4)).sum().backward()
    assert torch.equal(bypass.scale.grad, torch.ones(4))


def test_norms_count_the_channels_of_the_dense_network() -> None:
    dense, cut = BiasNorm(6, 6), BiasNorm(4, 6)
    with torch.no_grad():
        dense.bias[4:] = 0
        cut.bias.copy_(dense.bias[:4])
    x = torch.randn(3, 4)
    expected = dense(nn.functional.pad(x, (0, 2)))
    assert torch.allclose(cut(x), expected[:, :4], atol=1e-6)
    assert torch.isfinite(cut(torch.zeros(1, 4))).all()


def test_a_network_trains() -> None:
    torch.manual_seed(0)
    model = small(dropout=0.1).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, lengths = features()
    goal = torch.randn(2, 16, 24)
    losses = []
    for _ in range(12):
        loss = (model(x, lengths).output - goal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_dimensions_that_do_not_fit_are_refused() -> None:
    for values, message in (
        ({"widths": (16, 24)}, "one entry for each of the 2 widths"),
        ({"num_heads": (3, 4)}, "num_heads has 2 entries for 3 stacks with 4 layers"),
        ({"conv_kernel": (4,)}, "every conv_kernel odd"),
        ({"num_heads": (0, 4, 2, 3)}, "layer 0 must have heads"),
        ({"norm_widths": (8, 24, 20)}, "at least widths"),
        ({"num_heads": (-1,)}, "must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ZipformerConfig(**{**SMALL, **values})
