"""Test orders of units, and that any order can be brought to any reachable target."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.core import ranking
from pruning.core.constraint import ConstraintConfig
from pruning.core.cost import CostModel, CostTerm
from pruning.core.selection import Selection
from pruning.core.single_weights import SingleWeights
from pruning.core.units import Span, UnitGroup
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from tests.methods.test_l0 import network
from tests.models.encoder_decoders import MOONSHINE
from tests.models.encoder_decoders import network as encoder_decoder
from tests.models.test_transformer_lm import network as language_model

MODEL = network()
GROUPS = MODEL.unit_groups()
COSTS = CostModel(GROUPS, MODEL.cost_terms(1000))
UNITS = ("heads", "ffn", "conv", "subsampling")


def everything(selection: Selection) -> torch.Tensor:
    return torch.ones(selection.num_units, dtype=torch.bool)


def scores(selection: Selection, seed: int = 0) -> torch.Tensor:
    return torch.rand(selection.num_units, generator=torch.Generator().manual_seed(seed)).double()


@settings(max_examples=40, deadline=None)
@given(
    how=st.sampled_from(ranking.RANKINGS),
    normalisation=st.sampled_from(ranking.NORMALISATIONS),
    cost=st.sampled_from(("size", "macs")),
    target=st.floats(0.05, 0.75),
    seed=st.integers(0, 99),
)
def test_every_ranking_meets_every_target(how: str, normalisation: str, cost: str, target: float, seed: int) -> None:
    selection = Selection(GROUPS, UNITS)
    order = ranking.ordered(scores(selection, seed), selection, COSTS, cost, how, normalisation, everything(selection))
    keep = selection.fitted(everything(selection), order, COSTS, {cost: target})
    structure = selection.structure(keep, order)
    assert COSTS.structure_sparsity(structure)[cost] == pytest.approx(target, abs=0.01)
    assert all(structure.count(group.name) >= group.minimum for group in GROUPS)


@settings(max_examples=20, deadline=None)
@given(first=st.floats(0.1, 0.8), second=st.floats(0.1, 0.8), seed=st.integers(0, 99))
def test_parts_come_to_targets_of_their_own(first: float, second: float, seed: int) -> None:
    targets = {"size:subsampling": first, "macs:attention+ffn+convolution": second}
    costs = CostModel(GROUPS, MODEL.cost_terms(1000), parts=list(targets))
    selection = Selection(GROUPS, UNITS)
    keep = selection.fitted(everything(selection), scores(selection, seed), costs, targets)
    reached = costs.structure_sparsity(selection.structure(keep, scores(selection, seed)))
    for cost, target in targets.items():  # within half of the most expensive unit
        coarsest = costs.prices(cost)[[group.size > 1 for group in GROUPS]].max() / costs.dense[cost]
        assert reached[cost] == pytest.approx(target, abs=0.5 * float(coarsest) + 0.01)


@settings(max_examples=20, deadline=None)
@given(macs=st.floats(0.1, 0.5), part=st.floats(0.1, 0.5), seed=st.integers(0, 99))
def test_a_part_and_the_whole_do_not_close_more_than_they_need(macs: float, part: float, seed: int) -> None:
    """Units on which a lagging cost does not depend stay, whatever their scores: one target is met exactly."""
    targets = {"macs": macs, "size:ffn": part}
    costs = CostModel(GROUPS, MODEL.cost_terms(1000), parts=["size:ffn"])
    selection = Selection(GROUPS, UNITS)
    keep = selection.fitted(everything(selection), scores(selection, seed), costs, targets)
    reached = costs.structure_sparsity(selection.structure(keep, scores(selection, seed)))
    excess = {cost: reached[cost] - target for cost, target in targets.items()}
    assert min(excess.values()) >= -0.02 and min(excess.values()) <= 0.02
    alone = selection.fitted(everything(selection), scores(selection, seed), costs, {"macs": macs})
    if costs.structure_sparsity(selection.structure(alone, scores(selection, seed)))["size:ffn"] >= part:
        assert excess["macs"] <= 0.02, "closing units for MACs also meets the target of the part"


def test_a_global_ranking_closes_the_smallest() -> None:
    selection = Selection(GROUPS, ("ffn",))
    values = scores(selection)
    keep = selection.fitted(everything(selection), values, COSTS, {"size": 0.2})
    assert values[keep].min() > values[~keep].max()


@settings(max_examples=25, deadline=None)
@given(target=st.floats(0.1, 0.7), seed=st.integers(0, 99))
def test_counts_of_equal_groups_are_evened(target: float, seed: int) -> None:
    selection = Selection(GROUPS, ("ffn",))
    values = scores(selection, seed)
    order = ranking.group_order(values, selection)
    keep = selection.fitted(everything(selection), order, COSTS, {"size": target / 2})
    even = ranking.evened(keep, order, selection, everything(selection))
    counts = {group.name: int(part.sum()) for group, part in zip(selection.chosen, even.split(selection.sizes))}
    assert len(set(counts.values())) == len({group.size for group in selection.chosen})
    lost = [int(part.sum()) for part in (keep & ~even).split(selection.sizes)]
    assert max(lost) <= 1 and not (even & ~keep).any(), "at most one unit less in a group"


@settings(max_examples=25, deadline=None)
@given(target=st.floats(0.1, 0.7), seed=st.integers(0, 99))
def test_a_ranking_by_group_keeps_the_same_share_everywhere(target: float, seed: int) -> None:
    selection = Selection(GROUPS, UNITS)
    values = scores(selection, seed)
    order = ranking.group_order(values, selection)
    keep = selection.fitted(everything(selection), order, COSTS, {"size": target})
    kept, by_group = selection.split(keep.double()), selection.split(values)
    shares = {group.name: kept[group.name].mean().item() for group in selection.chosen}
    fine = [shares[group.name] for group in selection.chosen if group.size >= 32]
    assert max(fine) - min(fine) <= 3 / 32
    for group in selection.chosen:
        inside, outside = by_group[group.name][kept[group.name] > 0], by_group[group.name][kept[group.name] == 0]
        assert not len(outside) or not len(inside) or inside.min() > outside.max(), "the best units of a group stay"


@pytest.mark.parametrize("how", ranking.RANKINGS)
@pytest.mark.parametrize("target", [0.3, 0.6, 0.75])
def test_a_ramp_ends_where_one_cut_does(how: str, target: float) -> None:
    """With constant scores, the removed units do not depend on the number of cuts."""
    selection = Selection(GROUPS, UNITS)
    values = scores(selection, 4)

    def cut(keep: torch.Tensor, share: float) -> torch.Tensor:
        order = ranking.ordered(values, selection, COSTS, "size", how, "group", keep)
        return selection.fitted(keep, order, COSTS, {"size": target * share}, may_open=keep, fill=share == 1)

    keep = everything(selection)
    for step in range(1, 26):
        keep = cut(keep, 1 - (1 - step / 25) ** 3)
    ramp, at_once = selection.split(keep.float()), selection.split(cut(everything(selection), 1.0).float())
    for group in selection.chosen:  # one head more or less, and its equivalent in finer units
        assert abs(ramp[group.name].sum() - at_once[group.name].sum()) <= max(1.0, 0.06 * group.size)


@pytest.mark.parametrize("target", [0.5, 0.75])
def test_no_module_of_a_uniform_network_is_empty(target: float) -> None:
    selection = Selection(GROUPS, ("heads", "ffn", "conv"))
    order = ranking.ordered(scores(selection), selection, COSTS, "size", "group", "none", everything(selection))
    keep = selection.fitted(everything(selection), order, COSTS, {"size": target})
    kept = selection.split(keep)
    assert all(kept[group.name].any() for group in selection.chosen)


def test_layers_go_whole_and_one_in_part() -> None:
    selection = Selection(GROUPS, ("heads", "ffn", "conv"))
    order = ranking.layer_order(scores(selection), selection)
    keep = selection.fitted(everything(selection), order, COSTS, {"size": 0.4})
    shares: dict[int, list[float]] = {}
    for group, part in zip(selection.chosen, selection.split(keep.double()).values()):
        assert group.layer is not None
        shares.setdefault(group.layer, []).append(part.mean().item())
    whole = [layer for layer, values in shares.items() if all(value == 1 for value in values)]
    gone = [layer for layer, values in shares.items() if all(value == 0 for value in values)]
    assert gone == [1] and len(whole) == 1


@pytest.mark.parametrize(
    ("layers", "order"),
    [(1, [0]), (2, [0, 1]), (3, [1, 0, 2]), (6, [4, 2, 3, 1, 0, 5]), (7, [5, 3, 1, 4, 2, 0, 6])],
)
def test_every_other_layer_goes_first(layers: int, order: list[int]) -> None:
    assert ranking.drop_order(layers) == order
    assert ranking.drop_order_of_parts([list(range(layers))]) == order, "a network of one part"


@pytest.mark.parametrize(
    ("encoder", "decoder", "order"),
    [
        (6, 6, ["e4", "d4", "e2", "d2", "e3", "d3", "e1", "d1", "e0", "d0", "e5", "d5"]),
        (4, 2, ["e2", "e1", "d0", "e0", "d1", "e3"]),
        (3, 5, ["d3", "e1", "d1", "d2", "e0", "d0", "e2", "d4"]),
    ],
)
def test_every_other_layer_of_each_part_goes_first(encoder: int, decoder: int, order: list[str]) -> None:
    """No part loses its first or its last layer while another one has an inner layer."""
    names = [*(f"e{layer}" for layer in range(encoder)), *(f"d{layer}" for layer in range(decoder))]
    parts = [range(encoder), range(encoder, encoder + decoder)]
    assert [names[layer] for layer in ranking.drop_order_of_parts(parts)] == order


@pytest.mark.parametrize("name", ["encoder-decoder", "transducer"])
def test_layers_go_in_the_order_of_their_parts(name: str) -> None:
    model = encoder_decoder({**MOONSHINE, "encoder_num_hidden_layers": 4}) if name == "encoder-decoder" else MODEL
    selection = Selection(model.unit_groups())
    found: dict[str, float] = {}
    for group, part in selection.split(ranking.layer_order(scores(selection), selection)).items():
        if ".layers." in group:
            found.setdefault(group.partition(".layers.")[0][0] + group.partition(".layers.")[2][0], float(part.max()))
    expected = ["e2", "d1", "e1", "d0", "e0", "d2", "e3"] if name == "encoder-decoder" else ["e1", "e0", "e2"]
    assert sorted(found, key=lambda layer: found[layer]) == expected


def test_counts_of_another_structure() -> None:
    selection = Selection(GROUPS, UNITS)
    values = scores(selection)
    counts = {"encoder.layers.0.ffn.hidden": 5, "encoder.layers.1.attention.heads": 0}
    keep = ranking.with_counts(values, selection, counts)
    structure = selection.structure(keep, values)
    assert structure.count("encoder.layers.0.ffn.hidden") == 5
    assert structure.count("encoder.layers.1.attention") == 0
    assert structure.count("encoder.layers.2.ffn.hidden") == 64
    best = selection.split(values)["encoder.layers.0.ffn.hidden"].topk(5).indices.sort().values
    assert structure.groups["encoder.layers.0.ffn.hidden"].kept == tuple(best.tolist())


def test_a_price_is_what_the_unit_saves() -> None:
    selection = Selection(GROUPS, UNITS)
    ones = torch.ones(selection.num_units, dtype=torch.float64)
    prices = selection.split(1 / ranking.normalised(ones, selection, COSTS, "size", "cost"))
    dense = COSTS.dense_counts()
    for index, group in enumerate(GROUPS):
        if group.kind in UNITS:
            fewer = dense.clone()
            fewer[index] -= 1
            saved = COSTS.dense["size"] - COSTS.evaluate(fewer, "size").item()
            assert prices[group.name][0].item() == pytest.approx(saved)


def test_prices_of_norms_and_of_negative_scores() -> None:
    """If all weights have the same magnitude, the L2 norm is proportional to the root of their number."""
    selection = Selection(GROUPS, UNITS)
    ones = torch.ones(selection.num_units, dtype=torch.float64)
    prices = 1 / ranking.normalised(ones, selection, COSTS, "size", "cost")
    norms = ranking.normalised(0.1 * prices.sqrt(), selection, COSTS, "size", "cost", 0.5)
    assert norms.min().item() == pytest.approx(0.1) and norms.max().item() == pytest.approx(0.1)
    below = ranking.normalised(-ones, selection, COSTS, "size", "cost")
    assert torch.equal(below.argsort(stable=True), (-prices).argsort(stable=True)), "the costlier of two bad units goes"


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_prices_of_units_that_are_a_thousand_times_as_cheap_or_save_nothing(power: float) -> None:
    groups = [UnitGroup(name, "k", 4, (Span(name, 0),)) for name in ("cheap", "dear", "free")]
    prices = {"cheap": 2.0, "dear": 2000.0}
    costs = CostModel(groups, [CostTerm("k", (name,), price, price) for name, price in prices.items()])
    selection = Selection(groups)
    ones = torch.ones(selection.num_units, dtype=torch.float64)
    for how, exponent in (("cost", power), ("root_cost", power / 2)):
        found = selection.split(ranking.normalised(ones, selection, costs, "size", how, power))
        for name, price in prices.items():
            assert found[name].tolist() == pytest.approx([price**-exponent] * 4)
        assert found["cheap"][0] < found["free"][0] < float("inf"), "closing it would save nothing"


def test_closed_units_are_below_the_worst_open_one() -> None:
    values, keep = torch.tensor([3.0, -1.0, 2.0, -1.0]), torch.tensor([True, True, False, False])
    assert ranking.last(values, keep)[~keep].max() < ranking.last(values, keep)[keep].min()
    assert torch.equal(ranking.last(values, keep)[keep], values[keep])


def test_normalised_by_group() -> None:
    selection = Selection(GROUPS, ("ffn", "heads"))
    values = ranking.normalised(scores(selection), selection, COSTS, "size", "group")
    assert all(part.pow(2).mean().item() == pytest.approx(1.0) for part in selection.split(values).values())
    modules = Selection(GROUPS, ("ffn_module", "attention_module"))
    raw = scores(modules, 3)
    values = ranking.normalised(raw, modules, COSTS, "size", "group")
    of_kind = torch.tensor([group.kind == "ffn_module" for group in modules.chosen])
    for kind in (of_kind, ~of_kind):
        assert torch.equal(values[kind].argsort(), raw[kind].argsort()), "single units keep their order"
        assert values[kind].pow(2).mean().item() == pytest.approx(1.0)


def test_closed_units_come_last_in_their_groups_too() -> None:
    selection = Selection(GROUPS, ("ffn",))
    values, keep = scores(selection), everything(selection)
    keep[selection.num_units // 3 :: 7] = False
    order = ranking.ordered(values, selection, COSTS, "size", "group", "none", keep)
    kept = selection.split(keep)
    for name, part in selection.split(order).items():
        assert part[kept[name]].min() > part[~kept[name]].max() if (~kept[name]).any() else True
    fitted = selection.fitted(keep, order, COSTS, {"size": 0.4}, may_open=keep)
    assert not (fitted & ~keep).any()


def test_counts_on_the_way() -> None:
    selection = Selection(GROUPS, ("ffn",))
    counts = {"encoder.layers.0.ffn.hidden": 4}
    assert ranking.interpolated(selection, counts, 0.5)["encoder.layers.0.ffn.hidden"] == 34
    assert ranking.interpolated(selection, counts, 1.0)["encoder.layers.0.ffn.hidden"] == 4
    assert ranking.interpolated(selection, counts, 1.0)["encoder.layers.1.ffn.hidden"] == 64
    for share, nearest in ((0.01, 63), (0.02, 63), (0.03, 62), (0.99, 5)):  # 63.4, 62.8, 62.2, 4.6
        assert ranking.interpolated(selection, counts, share)["encoder.layers.0.ffn.hidden"] == nearest


@pytest.mark.parametrize("target", [0.3, 0.7])
def test_rows_keep_the_same_share(target: float) -> None:
    """Every output of every matrix loses the same number of weights, within one; the best weights of a row stay."""
    model = language_model()
    view = SingleWeights(model)
    selection = Selection(view.unit_groups())
    costs = CostModel(view.unit_groups(), view.cost_terms(10))
    given = scores(selection)
    order = ranking.ordered(given, selection, costs, "size", "row", "cost", everything(selection))
    keep = selection.fitted(everything(selection), order, costs, {"size": target})
    assert costs.sparsity(selection.hard_counts(keep), "size").item() == pytest.approx(target, abs=2e-3)
    shares = []
    for group, part, value in zip(selection.chosen, keep.split(selection.sizes), given.split(selection.sizes)):
        rows, values = part.view(group.rows, -1), value.view(group.rows, -1)
        for row, of_row in zip(rows, values):
            shares.append((row.sum() / len(row), 1.0 / len(row)))
            if row.any() and not row.all():
                assert of_row[row].min() > of_row[~row].max()
    for share, grain in shares:
        assert abs(share - shares[0][0]) <= grain + shares[0][1] + 1e-6


def test_a_target_of_single_weights_takes_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each evaluation counts all weights, which are tens of millions in a language model."""
    groups = [UnitGroup(f"w{index}", "weights", 50_000, (Span("w", None),), rows=50) for index in range(12)]
    costs = CostModel(groups, [CostTerm("w", (group.name,), 1, 1) for group in groups])
    selection, looks = Selection(groups), []
    counted = Selection.hard_counts
    monkeypatch.setattr(Selection, "hard_counts", lambda self, keep: looks.append(1) or counted(self, keep))
    scores = torch.rand(selection.num_units, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    keep = selection.fitted(torch.ones(selection.num_units, dtype=torch.bool), scores, costs, {"size": 0.7})
    assert costs.sparsity(counted(selection, keep), "size").item() == pytest.approx(0.7, abs=2e-6)
    assert len(looks) < 40


@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_subnormal=False), min_size=2, max_size=30),
       seed=st.integers(0, 9))  # fmt: skip
def test_a_draw_keeps_the_order_of_different_scores(values: list[float], seed: int) -> None:
    given_ = torch.tensor(values)
    drawn = ranking.untied(given_, seed)
    smaller = given_[:, None] < given_[None, :]
    assert bool((drawn[:, None] < drawn[None, :])[smaller].all())
    assert torch.equal(drawn, ranking.untied(given_, seed))


def test_equal_weights_go_from_everywhere() -> None:
    """Of a network whose weights are 0, 1 and -1, each half of whose matrices is zero, a quarter goes."""
    model = language_model()
    single = SingleWeights(model)
    with torch.no_grad():
        for group in single.unit_groups():
            weight = model.get_parameter(group.masks[0].tensor)
            weight.copy_(torch.arange(weight.numel()).view_as(weight) % 4 - 1).clamp_(-1, 1).mul_(weight != 2)
    kept = []
    for seed in (0, 0, 1):
        pruner = CriterionPruning(model, "magnitude", CriterionConfig(normalisation="none"),
                                  ConstraintConfig(size=0.2, ramp="one_shot"), 1, seed, view=single)  # fmt: skip
        pruner._cut(1.0)
        kept.append(pruner._cut(1.0))
    shares = [float(part.double().mean()) for part in pruner.units.split(kept[0]).values()]
    assert max(shares) - min(shares) < 0.2
    assert torch.equal(kept[0], kept[1]) and not torch.equal(kept[0], kept[2])
