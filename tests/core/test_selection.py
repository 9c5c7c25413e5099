"""Units on which no target depends stay, for every network, method and kind of unit."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.core import low_rank, ranking
from pruning.core.constraint import ConstraintConfig
from pruning.core.cost import CostModel, CostTerm
from pruning.core.names import COSTS
from pruning.core.prunable import Prunable, prunable
from pruning.core.residual_width import ResidualWidth
from pruning.core.selection import Selection
from pruning.core.single_weights import SingleWeights
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from pruning.methods.l0 import Gating, L0Config
from tests.methods.test_l0 import network as transducer
from tests.models.encoder_decoders import MOONSHINE, WHISPER
from tests.models.encoder_decoders import network as encoder_decoder
from tests.models.test_transformer_lm import network as language_model

FRAMES = 1000
NETWORKS: dict[str, Callable[[], Prunable]] = {
    "transducer": transducer,
    "language model": language_model,
    "whisper": lambda: encoder_decoder(WHISPER),
    "moonshine": lambda: encoder_decoder(MOONSHINE),
    "width": lambda: ResidualWidth(encoder_decoder(WHISPER)),
    "single weights": lambda: SingleWeights(encoder_decoder(MOONSHINE)),
    "low rank": lambda: factored(),
}


def factored() -> Prunable:
    model = encoder_decoder(WHISPER)
    return prunable(low_rank.factorise(model, low_rank.linear_names(model)))


@functools.cache
def declared(name: str) -> tuple[list[UnitGroup], list[CostTerm]]:
    network = NETWORKS[name]()
    return list(network.unit_groups()), list(network.cost_terms(FRAMES))


@functools.cache
def parts_of(name: str) -> tuple[str, ...]:
    """Return the parts of a network that have a cost."""
    groups, terms = declared(name)
    parts = []
    for cost in COSTS:
        for kind in dict.fromkeys(term.kind for term in terms):
            own = [term for term in terms if term.kind == kind and term.groups]
            if any(term.parameters if cost == COSTS[0] else term.macs for term in own):
                parts.append(f"{cost}:{kind}")
    return tuple(parts)


def untouched(structure: Structure, groups: list[UnitGroup], costs: CostModel, targets: list[str]) -> bool:
    priced = set().union(*(costs.groups_of(cost) for cost in targets))
    return all(structure.count(group.name) == group.size for group in groups if group.name not in priced)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cost_does_not_change_with_units_that_it_does_not_price(name: str) -> None:
    groups, terms = declared(name)
    costs, selection = CostModel(groups, terms, parts=parts_of(name)), Selection(groups)
    for cost in costs.costs:
        keep = selection.priced(costs, [cost])
        least = torch.cat([torch.arange(group.size) < group.minimum for group in selection.chosen])
        assert costs.sparsity(selection.hard_counts(keep | least), cost).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=6, deadline=None)
@given(data=st.data(), share=st.floats(0.05, 0.95), seed=st.integers(0, 99), how=st.sampled_from(ranking.RANKINGS))
def test_units_that_no_target_prices_stay(name: str, data: st.DataObject, share: float, seed: int, how: str) -> None:
    groups, terms = declared(name)
    parts = data.draw(st.lists(st.sampled_from(parts_of(name)), min_size=1, max_size=2, unique=True))
    costs, selection = CostModel(groups, terms, parts=parts), Selection(groups)
    most = costs.reachable(groups)
    scores = torch.rand(selection.num_units, generator=torch.Generator().manual_seed(seed)).double()
    everything = torch.ones(selection.num_units, dtype=torch.bool)
    order = ranking.ordered(scores, selection, costs, "size", how, "none", everything)
    keep = selection.fitted(everything, order, costs, {part: share * most[part] for part in parts})
    assert bool(keep[~selection.priced(costs, parts)].all())
    assert untouched(selection.structure(keep, scores), groups, costs, parts)


@pytest.mark.parametrize("name", ["transducer", "language model", "whisper", "moonshine"])
@settings(max_examples=10, deadline=None)
@given(share=st.floats(0.01, 0.99), seed=st.integers(0, 99), meet=st.booleans())
def test_layers_go_whole_until_the_target_is_met(name: str, share: float, seed: int, meet: bool) -> None:
    """On a ramp until the next one would pass it. Either way, the target is missed by less than a layer."""
    groups, terms = declared(name)
    costs, selection = CostModel(groups, terms), Selection(groups)
    target = share * costs.reachable([group for group in groups if group.layer is not None])["size"]
    scores = torch.rand(selection.num_units, generator=torch.Generator().manual_seed(seed)).double()
    order = ranking.layer_order(scores, selection)
    everything = torch.ones(selection.num_units, dtype=torch.bool)
    keep = selection.without_layers(everything, order, costs, {"size": target}, meet)
    kept: dict[int, set[float]] = {}
    for group, part in zip(selection.chosen, keep.split(selection.sizes)):
        if group.layer is None:
            assert bool(part.all())
        elif not group.minimum:
            kept.setdefault(group.layer, set()).add(float(part.double().mean()))
    assert all(shares in ({0.0}, {1.0}) for shares in kept.values())
    reached = costs.sparsity(selection.hard_counts(keep), "size").item()
    assert reached >= target - 1e-5 if meet else reached <= target + 1e-5
    layers = [torch.cat([torch.full((group.size,), group.layer == layer) for group in groups]) for layer in kept]
    dearest = max(costs.sparsity(selection.hard_counts(~layer), "size").item() for layer in layers)
    assert abs(reached - target) <= dearest + 1e-5


@pytest.mark.parametrize("ranking", ["global", "group", "layers"])
@pytest.mark.parametrize(("name", "target"), [("whisper", 0.3), ("moonshine", 0.3), ("low rank", 0.1)])
def test_a_cut_for_the_encoder_leaves_the_decoder_whole(name: str, target: float, ranking: str) -> None:
    """Also groups of a kind and size that both parts have, which a ranking by group evens."""
    constraint = ConstraintConfig(size=0.0, parts={"macs:encoder": target}, ramp="one_shot")
    model = NETWORKS[name]()
    assert isinstance(model, torch.nn.Module)
    pruner = CriterionPruning(model, "magnitude", CriterionConfig(ranking=ranking), constraint, FRAMES)
    pruner.keep.copy_(pruner._cut(1.0))
    structure = pruner.structure()
    assert pruner.costs.structure_sparsity(structure)["macs:encoder"] == pytest.approx(target, abs=0.05)
    assert untouched(structure, pruner.units.groups, pruner.costs, ["macs:encoder"])


@pytest.mark.parametrize("parts", [{"macs:encoder": 0.2}, {"size:encoder": 0.2, "macs:encoder": 0.25}])
def test_gates_that_did_not_move_leave_the_other_part_whole(parts: dict[str, float]) -> None:
    model = encoder_decoder(WHISPER)
    gating = Gating(model, L0Config(), ConstraintConfig(size=0.0, parts=parts), FRAMES)
    structure = gating.structure()
    for part, target in parts.items():
        assert gating.costs.structure_sparsity(structure)[part] >= target - 0.05
    assert untouched(structure, gating.units.groups, gating.costs, list(parts))
