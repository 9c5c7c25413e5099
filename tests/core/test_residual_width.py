"""Test the residual width as units: exact extraction, costs as counted, scores; and nothing changes unless asked."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning import registry
from pruning.core import low_rank
from pruning.core.constraint import ConstraintConfig
from pruning.core.cost import CostModel
from pruning.core.criteria import magnitudes
from pruning.core.declared import DeclaredNetwork
from pruning.core.distillation import DistillationConfig, LayerDistillation
from pruning.core.extraction import extract
from pruning.core.gates import GateConfig
from pruning.core.masking import Masker
from pruning.core.names import CRITERIA, DEPTH
from pruning.core.repair import repair
from pruning.core.residual_width import ResidualWidth, kept_channels
from pruning.core.selection import Selection
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, UnitGroup, check_groups
from pruning.core.views import view_for
from pruning.deploy.extract import exactness
from pruning.errors import UserError
from pruning.files import write_json
from pruning.methods.choice import new_pruner
from pruning.methods.config import PruningConfig
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from pruning.methods.l0 import L0Config
from pruning.models.conformer import EncoderOutput
from pruning.models.conformer_units import MODULE_KINDS, UNIT_KINDS
from pruning.models.transducer import Transducer
from tests.core.test_repair import batches, forward
from tests.counter import count_macs
from tests.methods import test_criterion, test_l0
from tests.models.test_conformer_units import FORMS, network, random_masks

ALL = (*UNIT_KINDS, *MODULE_KINDS, WIDTH)
NAME = "encoder.width"
ENOUGH = ("heads", "ffn", "conv", "subsampling", WIDTH)


def transducer(form: dict[str, object], dtype: torch.dtype = torch.float32) -> Transducer:
    """Return a network of the given form, away from its initial values."""
    config = network().config
    model = Transducer(replace(config, encoder=replace(config.encoder, **form))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype)


def narrow(model: nn.Module, seed: int, kinds: tuple[str, ...] = (WIDTH,), keep: float = 0.6) -> Structure:
    """Return a random structure with soft scales."""
    view = ResidualWidth(model)
    return Structure.from_masks(view.unit_groups(), random_masks(view, seed, kinds, keep))


@torch.no_grad()
def both(model: Transducer, structure: Structure) -> tuple[EncoderOutput, EncoderOutput, Transducer]:
    """Return the valid frames that the masked and the extracted network compute, and the latter."""
    x, lengths = torch.randn(2, 70, 80).to(model.simple_am.weight), torch.tensor([70, 41])
    with Masker(model, ResidualWidth(model).unit_groups()).applied(structure.masks()):
        masked = model(x, lengths, return_layers=True)
    small = extract(model, structure)
    assert isinstance(small, Transducer)
    cut = small(x, lengths, return_layers=True)
    valid = torch.arange(cut.output.shape[1]) < cut.lengths[:, None]

    def frames(of: EncoderOutput) -> EncoderOutput:
        return EncoderOutput(of.output[valid], of.lengths, [layer[valid] for layer in of.layers])

    return frames(masked), frames(cut), small


@pytest.mark.parametrize("kinds", [(WIDTH,), ALL], ids=["width", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", [{}, *FORMS], ids=str)
def test_masked_equals_extracted(form: dict[str, object], dtype: torch.dtype, kinds: tuple[str, ...]) -> None:
    """Also outside the masks: closed channels of every layer are 0, so that heads compute the same."""
    model = transducer(form, dtype)
    check_groups(model, ResidualWidth(model).unit_groups())
    for seed, hard in ((1, False), (2, True)):
        structure = narrow(model, seed, kinds)
        structure = structure.without_scale() if hard else structure
        masked, cut, small = both(model, structure)
        kept = list(structure.groups[NAME].kept)
        closed = sorted(set(range(20)) - set(kept))
        assert closed
        tolerance = 2e-6 if dtype == torch.float32 else 1e-14
        for whole, part in zip([masked.output, *masked.layers], [cut.output, *cut.layers]):
            assert (whole[:, kept] - part).abs().max() < tolerance * part.abs().max()
            assert not whole[:, closed].any()
        with torch.no_grad():
            for head in ("simple_am", "joiner.encoder_proj", "ctc_head"):
                theirs, ours = model.get_submodule(head)(masked.output), small.get_submodule(head)(cut.output)
                assert (theirs - ours).abs().max() < tolerance * ours.abs().max()
        assert exactness(model, structure, small) < tolerance


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000), keep=st.floats(0.05, 0.95), frames=st.integers(20, 200), form=st.sampled_from(FORMS)
)
def test_any_structure_is_exact_and_costs_what_is_counted(
    seed: int, keep: float, frames: int, form: dict[str, object]
) -> None:
    model = transducer(form)
    structure = narrow(model, seed, ALL, keep)
    masked, cut, small = both(model, structure)
    kept = list(structure.groups[NAME].kept)
    assert (masked.output[:, kept] - cut.output).abs().max() < 1e-4 * cut.output.abs().max()
    view = ResidualWidth(model)
    predicted = CostModel(view.unit_groups(), view.cost_terms(frames)).structure_cost(structure)
    assert predicted["size"] == sum(parameter.numel() for parameter in small.encoder.parameters())
    features, lengths = torch.randn(1, frames, 80), torch.tensor([frames])
    assert predicted["macs"] == count_macs(lambda: small(features, lengths))
    again = ResidualWidth(small)
    assert CostModel(again.unit_groups(), again.cost_terms(frames)).dense == predicted
    registry.build(registry.describe(small)).load_state_dict(small.state_dict(), strict=True)


def test_only_who_asks_gets_it() -> None:
    model = network()
    groups, wide = model.unit_groups(), ResidualWidth(model).unit_groups()
    assert [group.name for group in wide] == [*(group.name for group in groups), NAME]
    costs = CostModel(groups, model.cost_terms(70))
    assert CostModel(wide, ResidualWidth(model).cost_terms(70)).dense == costs.dense
    size = ConstraintConfig(size=0.3)
    for method in ("l0", "taylor"):
        plain = new_pruner(model, PruningConfig(method, constraint=size), 0)
        assert WIDTH not in {group.kind for group in plain.units.groups}
        asked = PruningConfig(method, constraint=size, criterion=CriterionConfig((WIDTH,)),
                              l0=L0Config(GateConfig((WIDTH,))))  # fmt: skip
        assert {group.kind for group in new_pruner(model, asked, 0).units.chosen} == {WIDTH}


def test_counts_of_another_run_ask_for_it(tmp_path: Path) -> None:
    model = test_l0.network()
    structure = narrow(model, 0, ENOUGH, 0.6).without_scale()
    view = ResidualWidth(model)
    reached = CostModel(view.unit_groups(), view.cost_terms(1000)).structure_sparsity(structure)["size"]
    write_json(tmp_path / "structure.json", structure.to_dict())
    config = PruningConfig("random", constraint=ConstraintConfig(size=round(reached, 3), ramp_share=0.5),
                           counts_from=str(tmp_path / "structure.json"))  # fmt: skip
    method = new_pruner(model, config, 0)
    assert isinstance(method, CriterionPruning)
    test_criterion.train(method)
    assert method.structure().count(NAME) == structure.count(NAME) < 32


def test_more_can_be_reached() -> None:
    view = ResidualWidth(network())
    costs = CostModel(view.unit_groups(), view.cost_terms(1000))
    without, with_width = (costs.reachable([group for group in costs.groups if group.kind in kinds])
                           for kinds in (UNIT_KINDS, (*UNIT_KINDS, WIDTH)))  # fmt: skip
    assert with_width["size"] > without["size"] and with_width["macs"] > without["macs"]
    least = narrow(network(), 0, (WIDTH,), 0.0)
    assert least.count(NAME) == 2, "a norm over one channel is constant"


def test_extraction_repeats_and_positions_keep_their_dimension() -> None:
    model = transducer({})
    once = both(model, narrow(model, 1, ALL, 0.8))[2]
    masked, cut, twice = both(once, narrow(once, 2, (WIDTH,), 0.7))
    assert twice.config.encoder.d_model < once.config.encoder.d_model < 20
    assert twice.config.encoder.dense_dim == once.config.encoder.dense_dim == 20
    assert twice.encoder.scale == model.encoder.scale
    assert twice.config.encoder.scaled(8).dense_dim == 0, "a uniform network is one of its own"
    with pytest.raises(ValueError, match="dense_dim must be 0 or at least d_model = 20"):
        replace(model.config.encoder, dense_dim=10)


def test_taylor_predicts_what_closing_a_channel_does() -> None:
    """Compare the gradient of the mask with a difference quotient, in both variants."""
    x, lengths = torch.randn(2, 60, 80).double(), torch.tensor([60, 44])
    for form in ({}, FORMS[-1]):
        model = transducer(form, torch.float64)
        selection = Selection(ResidualWidth(model).unit_groups(), (WIDTH,))
        masker = Masker(model, selection.groups)

        def loss(mask: Tensor) -> Tensor:
            with masker.applied({NAME: mask}):  # noqa: B023
                return model.ctc(model(x, lengths).output).exp().square().sum()  # noqa: B023

        probe = torch.ones(20, dtype=torch.float64, requires_grad=True)
        loss(probe).backward()
        assert probe.grad is not None
        for unit in (0, 7, 19):
            step = torch.zeros(20, dtype=torch.float64)
            step[unit] = 1e-5
            up, down = (loss((1 + sign * step).requires_grad_(True)).item() for sign in (1, -1))
            assert probe.grad[unit].item() == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-9)


def test_magnitude_is_of_all_that_reads_or_writes() -> None:
    model = transducer({})
    selection = Selection(ResidualWidth(model).unit_groups(), (WIDTH,))
    total, read = torch.zeros(20), torch.zeros(20)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and name.endswith("weight") and "pos_proj" not in name:
            squares = weight.detach().flatten(2).sum(dim=2).square() if weight.ndim == 3 else weight.detach().square()
            if name.endswith(("in_proj.weight", "linear1.weight", "pointwise1.weight")) or name.startswith(
                ("joiner.encoder_proj", "simple_am", "ctc_head")
            ):
                total, read = total + squares.sum(dim=0), read + squares.sum(dim=0)
            elif name.endswith(("out_proj.weight", "linear2.weight", "pointwise2.weight", "subsampling.out.weight")):
                total = total + squares.sum(dim=1)
    torch.testing.assert_close(magnitudes(model, selection), total.sqrt())
    torch.testing.assert_close(magnitudes(model, selection, weights="following"), read.sqrt())


@pytest.mark.parametrize("criterion", [criterion for criterion in CRITERIA if criterion != DEPTH])
def test_every_criterion_prunes_it(criterion: str) -> None:
    constraint = ConstraintConfig(size=0.5, ramp_share=0.5)
    model = test_l0.network()
    method = CriterionPruning(model, criterion, CriterionConfig(ENOUGH, interval=2, normalisation="group"),
                              constraint, 1000, view=ResidualWidth(model))  # fmt: skip
    test_criterion.train(method)
    structure = method.structure()
    assert method.costs.structure_sparsity(structure)["size"] == pytest.approx(0.5, abs=0.01)
    assert 2 <= structure.count(NAME) < 32
    assert method.scored()[-32:].unique().numel() == 32, "every channel has a score of its own"
    small = extract(model.eval(), structure)
    assert exactness(model, structure, small) < 1e-4


@pytest.mark.parametrize("cost", ["size", "macs"])
def test_gates_reach_their_target(cost: str) -> None:
    constraint = ConstraintConfig(**{"size": 0.0, "macs": 0.0, cost: 0.9})
    kinds = (*ENOUGH, *MODULE_KINDS)
    config = PruningConfig("l0", constraint=constraint, l0=L0Config(GateConfig(kinds), 0.1, 0.1))
    gating = new_pruner(test_l0.network(), config, 0)
    test_l0.optimise(gating, 80)  # type: ignore[arg-type]
    structure = gating.structure()
    assert gating.costs.structure_sparsity(structure)[cost] == pytest.approx(0.9, abs=0.01)
    assert exactness(gating.network.eval(), structure, extract(gating.network, structure)) < 1e-4
    rounded = structure.rounded(8, ResidualWidth(gating.network).unit_groups())
    assert rounded.count(NAME) % 8 == 0
    assert exactness(gating.network, rounded, extract(gating.network, rounded)) < 1e-4


def test_repair_brings_outputs_nearer() -> None:
    model = test_l0.network().eval()
    structure = narrow(model, 0, (WIDTH,), 0.8).without_scale()
    cut = copy.deepcopy(model)
    assert repair(model, cut, structure, batches(4), forward) == 3 * 4, "all that read the stream of three layers"
    kept, held_out = list(structure.groups[NAME].kept), batches(1, seed=5)[0]
    with torch.no_grad():
        goal = forward(model, held_out)[:, :, kept]
        before, after = ((forward(extract(one, structure).eval(), held_out) - goal).square().mean().item()
                         for one in (model, cut))  # fmt: skip
    assert after < before


def test_distillation_starts_from_the_channels_that_were_kept() -> None:
    model = transducer({})
    structure = narrow(model, 3).without_scale()
    kept = list(structure.groups[NAME].kept)
    layers = torch.randn(2, 5, 20)
    distil = LayerDistillation(DistillationConfig(layers=(0, 1)), len(kept), 20)
    distil.select(structure)
    for projection in distil.projections:
        found = projection(layers[:, :, kept])
        assert torch.equal(found[:, :, kept], layers[:, :, kept])
        assert not found[:, :, sorted(set(range(20)) - set(kept))].any()
    before = LayerDistillation(DistillationConfig(layers=(1,)), 20, 20)
    before.select(Structure.dense(model.unit_groups()))  # without the residual width: nothing to select
    assert torch.equal(before.projections[0].weight, torch.eye(20))  # type: ignore[arg-type]
    assert kept_channels(structure, len(kept), 24) is None


def test_what_cannot_be_done_is_refused_by_name() -> None:
    model = network()
    with pytest.raises(UserError, match="Linear does not declare its residual width"):
        ResidualWidth(nn.Linear(3, 3))
    factored = low_rank.factorise(model, low_rank.linear_names(model))
    with pytest.raises(UserError, match="residual width of a network with low-rank layers"):
        ResidualWidth(factored).unit_groups()
    constraint = ConstraintConfig(size=0.0, latency=0.3, latency_table="table.json")
    for config in (PruningConfig("l0", constraint=constraint, l0=L0Config(GateConfig((WIDTH,)))),
                   PruningConfig("taylor", constraint=constraint, criterion=CriterionConfig((WIDTH,)))):  # fmt: skip
        with pytest.raises(UserError, match="a latency table does not say"):
            new_pruner(model, config, 0)
    assert isinstance(view_for(model, None), Transducer) and isinstance(view_for(model, (WIDTH,)), ResidualWidth)
    own = DeclaredNetwork(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), [])
    assert view_for(own, (WIDTH,)) is own, "the kind of its units may have this name"
    with pytest.raises(ValueError, match="the network has no norm nowhere"):
        check_groups(model, [UnitGroup("a", WIDTH, 20, (), rms_norms=("nowhere",))])


def test_a_narrowed_network_can_be_factored_and_its_weights_pruned() -> None:
    model = transducer({})
    small = both(model, narrow(model, 4, ALL, 0.8))[2]
    factored = low_rank.factorise(small, low_rank.linear_names(small))
    x, lengths = torch.randn(1, 70, 80), torch.tensor([70])
    with torch.no_grad():
        torch.testing.assert_close(factored(x, lengths).output, small(x, lengths).output, rtol=1e-3, atol=1e-4)
