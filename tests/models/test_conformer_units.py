"""Test every unit kind of the transducer: masked outputs equal extracted ones, analytic costs equal counted ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning.core import low_rank
from pruning.core.cost import CostModel
from pruning.core.extraction import extract
from pruning.core.masking import Masker
from pruning.core.prunable import Prunable
from pruning.core.single_weights import SingleWeights
from pruning.core.structure import Structure
from pruning.core.units import check_groups
from pruning.models.conformer import REWORKED, ConformerConfig
from pruning.models.conformer_units import MODULE_KINDS, UNIT_KINDS
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.registry import build, describe
from tests.counter import count_macs
from tests.models.test_transformer_lm import random_structure


def network(strides: tuple[int, ...] = (2, 2), channels: tuple[int, ...] = (4, 6)) -> Transducer:
    torch.manual_seed(0)
    encoder = ConformerConfig(
        d_model=20,
        num_layers=3,
        head_dim=6,
        num_heads=(4, 3, 2),
        macaron_dim=(16, 24, 32),
        ffn_dim=(24,),
        conv_channels=(20, 12, 16),
        conv_kernel=7,
        subsampling_channels=channels,
        subsampling_strides=strides,
    )
    model = Transducer(TransducerConfig(encoder=encoder, vocab_size=13, decoder_dim=8, joiner_dim=8)).eval()
    for module in model.modules():  # away from initial values, which would hide slicing errors
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.bias)
    return model


def random_masks(model: Prunable, seed: int, kinds: tuple[str, ...], keep: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for group in model.unit_groups():
        if group.kind in kinds:
            opened = torch.rand(group.size, generator=generator) < keep
            opened[: group.minimum] = True
            masks[group.name] = opened * (0.4 + torch.rand(group.size, generator=generator))
    return masks


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@torch.no_grad()
def check_exact(model: Transducer, structure: Structure) -> Transducer:
    features, lengths = torch.randn(2, 70, 80), torch.tensor([70, 41])
    with Masker(model, model.unit_groups()).applied(structure.masks()):
        masked = model(features, lengths)
    small = extract(model, structure)
    assert isinstance(small, Transducer)
    cut = small(features, lengths)
    valid = torch.arange(cut.output.shape[1]) < cut.lengths[:, None]
    assert relative_difference(cut.output[valid], masked.output[valid]) < 1e-4
    return small


def test_the_declaration_fits_the_network() -> None:
    model = network()
    check_groups(model, model.unit_groups())
    assert {group.kind for group in model.unit_groups()} == {*UNIT_KINDS, *MODULE_KINDS}


@pytest.mark.parametrize("kind", [*UNIT_KINDS, *MODULE_KINDS])
@pytest.mark.parametrize("strides", [(2, 2), (1, 2, 2)])
def test_masked_equals_extracted_for_each_kind(kind: str, strides: tuple[int, ...]) -> None:
    model = network(strides, (4, 6, 5)[: len(strides)])
    for seed in range(3):
        structure = Structure.from_masks(model.unit_groups(), random_masks(model, seed, (kind,), 0.6))
        small = check_exact(model, structure)
        if any(len(units.kept) < units.size for units in structure.groups.values()):
            assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


FORMS = [{"conv_norm": "layer", "after_norm": True}, {"conv_norm": "none"}, {"variant": REWORKED, "conv_norm": "none"}]


@pytest.mark.parametrize("kind", [*UNIT_KINDS, *MODULE_KINDS, "all"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_other_forms_are_exact_and_cost_what_is_counted(form: dict[str, object], kind: str) -> None:
    """Test norms over partly removed channels, no norms, and icefall's reworked layers."""
    config = network().config
    model = Transducer(replace(config, encoder=replace(config.encoder, **form))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    check_groups(model, model.unit_groups())
    kinds = UNIT_KINDS + MODULE_KINDS if kind == "all" else (kind,)
    for seed in range(2):
        structure = Structure.from_masks(model.unit_groups(), random_masks(model, seed, kinds, 0.6))
        small = check_exact(model, structure)
        predicted = CostModel(model.unit_groups(), model.cost_terms(70)).structure_cost(structure)
        assert predicted["size"] == sum(parameter.numel() for parameter in small.encoder.parameters())
        assert predicted["macs"] == count_macs(lambda net=small: net(torch.randn(1, 70, 80), torch.tensor([70])))
        build(describe(small)).load_state_dict(small.state_dict(), strict=True)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), keep=st.floats(0.05, 0.95))
def test_masked_equals_extracted_for_all_kinds_at_once(seed: int, keep: float) -> None:
    model = network()
    masks = random_masks(model, seed, UNIT_KINDS + MODULE_KINDS, keep)
    check_exact(model, Structure.from_masks(model.unit_groups(), masks))


def test_masking_does_something() -> None:
    model = network()
    features, lengths = torch.randn(1, 70, 80), torch.tensor([70])
    with torch.no_grad():
        dense = model(features, lengths).output
        for group in model.unit_groups():
            with Masker(model, model.unit_groups()).applied({group.name: torch.zeros(group.size)}):
                masked = model(features, lengths).output
            assert relative_difference(masked, dense) > 1e-3, group.name
        assert torch.equal(model(features, lengths).output, dense), "no mask is left behind"


@pytest.mark.parametrize("module", ["macaron", "attention", "convolution", "ffn"])
def test_a_module_emptied_of_its_units_goes_with_its_bias(module: str) -> None:
    model = network()
    masks = {g.name: torch.zeros(g.size) for g in model.unit_groups() if g.parent == f"encoder.layers.1.{module}"}
    small = check_exact(model, Structure.from_masks(model.unit_groups(), masks))
    assert not any(name.startswith(f"encoder.layers.1.{module}.") for name in small.state_dict())


def test_a_whole_layer_can_go() -> None:
    model = network()
    masks = {g.name: torch.zeros(1) for g in model.unit_groups() if g.kind in MODULE_KINDS and "layers.1." in g.name}
    small = check_exact(model, Structure.from_masks(model.unit_groups(), masks))
    left = {name for name in small.state_dict() if name.startswith("encoder.layers.1.")}
    assert left == {"encoder.layers.1.final_norm.weight", "encoder.layers.1.final_norm.bias"}


def test_extraction_repeats() -> None:
    model = network()
    once = check_exact(model, Structure.from_masks(model.unit_groups(), random_masks(model, 1, UNIT_KINDS, 0.7)))
    twice = check_exact(once, Structure.from_masks(once.unit_groups(), random_masks(once, 2, UNIT_KINDS, 0.7)))
    assert build(describe(twice)).state_dict().keys() == twice.state_dict().keys()


def test_extraction_leaves_the_dense_network_alone() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = extract(model, Structure.dense(model.unit_groups()))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), keep=st.floats(0.2, 0.9), frames=st.integers(20, 300))
def test_analytic_costs_equal_counted_ones(seed: int, keep: float, frames: int) -> None:
    model = network()
    kinds = UNIT_KINDS + MODULE_KINDS
    structure = Structure.from_masks(model.unit_groups(), random_masks(model, seed, kinds, keep))
    small = extract(model, structure)
    assert isinstance(small, Transducer)
    predicted = CostModel(model.unit_groups(), model.cost_terms(frames)).structure_cost(structure)
    assert predicted["size"] == sum(parameter.numel() for parameter in small.encoder.parameters())
    counted = count_macs(lambda: small(torch.randn(1, frames, 80), torch.tensor([frames])))
    assert predicted["macs"] == counted
    own = CostModel(small.unit_groups(), small.cost_terms(frames))
    assert own.dense == predicted


def test_gradients_reach_weights_and_masks() -> None:
    model = network()
    group = next(group for group in model.unit_groups() if group.kind == "heads")
    mask = torch.ones(group.size, requires_grad=True)
    with Masker(model, model.unit_groups()).applied({group.name: mask}):
        model(torch.randn(1, 60, 80), torch.tensor([60])).output.square().mean().backward()
    assert mask.grad is not None
    assert (mask.grad != 0).all()
    weight = model.get_parameter(group.masks[0].tensor)
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.4, 0.8, 1.0]))
def test_factored_layers_are_exact_and_cost_what_is_counted(seed: int, share: float) -> None:
    """Factored linear layers and pointwise convolutions; those above their break-even rank are dense again."""
    dense = network()
    model = low_rank.factorise(dense, low_rank.linear_names(dense))
    assert isinstance(model, Transducer)
    small = check_exact(model, random_structure(model, seed, share, "low_rank"))  # type: ignore[arg-type]
    after = CostModel(small.unit_groups(), small.cost_terms(70)).dense
    assert after["size"] == sum(parameter.numel() for parameter in small.encoder.parameters())
    assert after["macs"] == count_macs(lambda: small(torch.randn(1, 70, 80), torch.tensor([70])))
    # the full-rank form represents the dense network and has the same cost
    before = CostModel(dense.unit_groups(), dense.cost_terms(70)).dense
    assert CostModel(model.unit_groups(), model.cost_terms(70)).dense == pytest.approx(before)
    again = build(describe(small))
    again.load_state_dict(small.state_dict(), strict=True)


def test_single_weights_of_the_conformer() -> None:
    model = network()
    structure = random_structure(model, 1, 0.3, "unstructured")  # type: ignore[arg-type]
    features, lengths = torch.randn(1, 70, 80), torch.tensor([70])
    with Masker(model, SingleWeights(model).unit_groups()).applied(structure.masks()):
        masked = model(features, lengths).output
    assert torch.equal(extract(model, structure)(features, lengths).output, masked)
