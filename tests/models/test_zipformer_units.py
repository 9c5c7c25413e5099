"""Test every unit kind of a Zipformer: masked outputs equal extracted ones, analytic costs equal counted ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.core.cost import CostModel
from pruning.core.extraction import extract
from pruning.core.masking import Masker
from pruning.core.residual_width import ResidualWidth
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, UnitGroup, check_groups
from pruning.models.encoder_types import build, describe
from pruning.models.prunable_zipformer import PrunableZipformer
from pruning.models.subsampling import beyond
from pruning.models.zipformer_units import MODULE_KINDS, UNIT_KINDS
from tests.counter import count_macs
from tests.models.zipformers import features, small

KINDS = (*UNIT_KINDS, *MODULE_KINDS, WIDTH)
FORMS = [{}, {"causal": True}, {"isolated": False}]


def random_structure(groups: Sequence[UnitGroup], seed: int, kinds: Sequence[str], keep: float = 0.6) -> Structure:
    """Keep and scale units at random; units of other kinds stay."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for group in groups:
        if group.kind in kinds:
            opened = torch.rand(group.size, generator=generator) < keep
            opened[: group.minimum] = True
            masks[group.name] = opened * (0.4 + torch.rand(group.size, generator=generator))
    return Structure.from_masks(groups, masks)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@torch.no_grad()
def check_exact(model: PrunableZipformer, structure: Structure, tolerance: float = 1e-4) -> PrunableZipformer:
    """Check that the extracted network computes and costs what is declared; return it."""
    view = ResidualWidth(model)
    x, lengths = features()
    x = x.to(next(model.parameters()).dtype)
    with Masker(model, view.unit_groups()).applied(structure.masks()):
        masked = model(x, lengths).output
    small = extract(model, structure)
    assert isinstance(small, PrunableZipformer)
    cut = small(x, lengths)
    kept = _kept_channels(view.unit_groups(), structure)
    valid = ~beyond(cut.lengths, cut.output.shape[1])
    assert difference(cut.output[valid], masked[..., kept][valid]) < tolerance
    closed = sorted(set(range(masked.shape[2])) - set(kept))
    assert not masked[..., closed].any()
    predicted = CostModel(view.unit_groups(), view.cost_terms(71)).structure_cost(structure)
    assert predicted["size"] == pytest.approx(sum(parameter.numel() for parameter in small.parameters()), abs=1e-6)
    assert predicted["macs"] == pytest.approx(count_macs(lambda: small(x[:1], lengths[:1])), abs=1e-6)
    assert CostModel(small.unit_groups(), small.cost_terms(71)).dense == pytest.approx(predicted)
    check_groups(small, small.unit_groups(width=True))
    build(describe(small)).load_state_dict(small.state_dict(), strict=True)
    return small


def _kept_channels(groups: Sequence[UnitGroup], structure: Structure) -> list[int]:
    kept, start = [], 0
    for group in groups:
        if group.kind == WIDTH:
            kept += [start + unit for unit in structure.groups[group.name].kept]
            start += group.size
    return kept


def test_the_declaration_fits_the_network() -> None:
    for form in FORMS:
        model = small(**form)
        check_groups(model, model.unit_groups(width=True))
        assert {group.kind for group in model.unit_groups(width=True)} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_masked_equals_extracted_for_each_kind(kind: str, form: dict[str, bool]) -> None:
    model = small(**form)
    groups = model.unit_groups(width=True)
    for seed in range(2):
        structure = random_structure(groups, seed, (kind,))
        cut = check_exact(model, structure)
        if any(len(units.kept) < units.size for units in structure.groups.values()):
            assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in model.parameters())


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), keep=st.floats(0.2, 0.95), causal=st.booleans())
def test_masked_equals_extracted_for_all_kinds_at_once(seed: int, keep: float, causal: bool) -> None:
    model = small(causal=causal).double()
    structure = random_structure(model.unit_groups(width=True), seed, KINDS, keep)
    once = check_exact(model, structure, 1e-9)
    check_exact(once, random_structure(once.unit_groups(width=True), seed + 1, KINDS, keep), 1e-9)


def test_channels_that_nothing_writes_any_more_can_go() -> None:
    """Those of the widest stack, after its layers are gone."""
    model = small().double()
    cut = check_exact(model, closed(model, "layers.1", "layers.2"), 1e-9)
    groups = [group for group in cut.unit_groups(width=True) if group.kind == WIDTH]
    assert [group.size for group in groups] == [16, 4, 4]
    assert groups[-1].masks[0].tensor == "resampling.1.combiner.scale"
    check_exact(cut, random_structure(cut.unit_groups(width=True), 5, (WIDTH,), 0.5), 1e-9)


def test_masking_does_something() -> None:
    model = small()
    groups = model.unit_groups(width=True)
    x, lengths = features()
    with torch.no_grad():
        dense = model(x, lengths).output
        for group in groups:
            with Masker(model, groups).applied({group.name: torch.zeros(group.size)}):
                assert difference(model(x, lengths).output, dense) > 1e-5, group.name
        assert torch.equal(model(x, lengths).output, dense), "no mask is left behind"


def test_gradients_reach_weights_and_masks() -> None:
    model = small().train()
    groups = model.unit_groups(width=True)
    masks = {group.name: torch.full((group.size,), 0.9, requires_grad=True) for group in groups}
    with Masker(model, groups).applied(masks):
        model(*features()).output.square().mean().backward()
    for group in groups:
        gradient = masks[group.name].grad
        assert gradient is not None and (gradient != 0).all(), group.name
    assert all(parameter.grad is not None for parameter in model.parameters())


LAYER = "layers.1"


def closed(model: PrunableZipformer, *names: str) -> Structure:
    """Return the structure in which the units of ``names`` are closed."""
    groups = model.unit_groups(width=True)
    masks = {group.name: torch.zeros(group.size) for group in groups if group.name in names}
    assert len(masks) == len(names)
    return Structure.from_masks(groups, masks)


def test_heads_go_with_the_modules_that_use_them() -> None:
    model = small()
    without = closed(model, f"{LAYER}.attention1", f"{LAYER}.attention2")
    assert without.count(f"{LAYER}.attention_weights.heads") == 0
    cut = check_exact(model, without)
    assert cut.config.num_heads[1] == 1, "the nonlinear attention keeps the first head"
    nothing = closed(model, f"{LAYER}.attention1", f"{LAYER}.attention2", f"{LAYER}.nonlin")
    cut = check_exact(model, nothing)
    assert cut.config.num_heads[1] == 0
    assert not any(name.startswith(f"{LAYER}.attention_weights") for name in cut.state_dict())


def test_the_first_head_can_go_after_the_nonlinear_attention() -> None:
    model = small()
    heads = f"{LAYER}.attention_weights.heads"
    assert {group.name: group.size for group in model.unit_groups()}[heads] == 3, "of four heads"
    cut = check_exact(model, closed(model, f"{LAYER}.nonlin"))
    group = next(group for group in cut.unit_groups() if group.name == heads)
    assert (group.size, group.minimum) == (4, 1)
    check_exact(cut, Structure.from_masks(cut.unit_groups(width=True), {heads: torch.tensor([0.0, 1.0, 0.0, 1.0])}))


def test_a_layer_goes_as_a_whole_and_the_others_keep_their_numbers() -> None:
    model = small()
    cut = check_exact(model, closed(model, LAYER))
    assert not any(name.startswith(f"{LAYER}.") for name in cut.state_dict())
    assert cut.config.present == (True, False, True, True)
    again = check_exact(cut, closed(cut, "layers.2"))
    assert again.config.present == (True, False, False, True)


def test_a_layer_without_modules_is_not_a_removed_layer() -> None:
    model = small()
    names = [group.name for group in model.unit_groups()
             if group.name.startswith(f"{LAYER}.") and group.kind.endswith("_module")]  # fmt: skip
    cut = check_exact(model, closed(model, *names))
    assert {name.removeprefix(f"{LAYER}.") for name in cut.state_dict() if name.startswith(f"{LAYER}.")} == {
        "bypass.scale", "bypass_mid.scale", "norm.bias", "norm.log_scale"
    }  # fmt: skip
