"""Networks of the Llama family: steps, shared keys and values, masks against extraction, costs against counts."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor, nn

from pruning import registry
from pruning.core import low_rank
from pruning.core.cost import CostModel
from pruning.core.criteria import UnitScores, observed_inputs
from pruning.core.extraction import extract
from pruning.core.masking import Masker
from pruning.core.repair import repair
from pruning.core.residual_width import ResidualWidth
from pruning.core.selection import Selection
from pruning.core.single_weights import SingleWeights
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, UnitGroup, check_groups
from pruning.core.views import view_of
from pruning.models.layers import RMSNorm
from pruning.models.rotary import RotaryScaling, rates, scaled
from pruning.models.transformer_lm import TransformerLM
from tests.counter import count_macs
from tests.models.llamas import CONFIG, network, sentences

MODULES = ("attention_module", "ffn_module", "head_groups")
KINDS = ("heads", "ffn", WIDTH, *MODULES)


def test_steps_give_what_the_whole_sentence_gives() -> None:
    model, tokens = network(tied=False), sentences()
    expected, state = model.log_probs(tokens), model.start(len(tokens))
    for place in range(tokens.shape[1]):
        found, state = model.step(tokens[:, place], state)
        assert torch.allclose(found, expected[:, place], atol=1e-5)
    assert [keys.shape[1] for keys in state.keys.values()] == [2, 3, 3]
    _, begun = model.step(tokens[:, 0], model.start(len(tokens)))
    hidden, _ = model.extend(tokens[:, 1:], begun)
    assert torch.allclose(
        nn.functional.linear(hidden, model.output_weight).log_softmax(dim=2), expected[:, 1:], atol=1e-5
    )


def test_shared_keys_and_values_are_repeated_ones() -> None:
    """A network whose query heads each have a copy of their key/value head computes the same."""
    model, tokens = network(), sentences()
    plain = TransformerLM(dataclasses.replace(CONFIG, shared_by=())).eval()
    state = dict(model.state_dict())
    for index, shared in enumerate(CONFIG.shared_by):
        copies = torch.arange(len(shared)).repeat_interleave(torch.tensor(shared))
        for tensor in ("weight", "bias"):
            name = f"layers.{index}.attention.in_proj.{tensor}"
            query, key, value = state[name].split([6 * sum(shared), 6 * len(shared), 6 * len(shared)])
            repeated = [part.unflatten(0, (len(shared), 6))[copies].flatten(0, 1) for part in (key, value)]
            state[name] = torch.cat([query, *repeated])
    plain.load_state_dict(state, strict=True)
    assert torch.allclose(plain(tokens), model(tokens), atol=1e-5)


def test_a_norm_that_leaves_channels_out_is_that_of_the_others() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(3))
    norm, kept = RMSNorm(8, 1e-2), torch.tensor([0, 2, 3, 7])
    nn.init.normal_(norm.weight)
    small = RMSNorm(4, 1e-2)
    small.weight.data = norm.weight.data[kept]
    weights = torch.zeros(8).index_fill(0, kept, 1.0)
    assert torch.allclose(norm.normalised_over(weights, x)[..., kept], small(x[..., kept]), atol=1e-6)
    wide = x.double()
    expected = wide / (wide.square().mean(dim=-1, keepdim=True) + 1e-2).sqrt() * norm.weight
    assert torch.allclose(norm(x).double(), expected, atol=1e-6)


def test_rates_for_longer_contexts() -> None:
    """Slow rates are divided by the factor, fast ones stay, and in between they are mixed."""
    plain = rates(8, 500.0)
    assert torch.equal(scaled(plain, None), plain)
    assert torch.allclose(scaled(plain, RotaryScaling("linear", 4.0)), plain / 4)
    found = scaled(plain, RotaryScaling("llama3", 8.0, 1.0, 4.0, 32))
    turns = 32 * plain / (2 * torch.pi)
    for rate, own, turned in zip(found.tolist(), plain.tolist(), turns.tolist()):
        share = min(max((turned - 1) / 3, 0.0), 1.0)
        assert rate == pytest.approx(own * (share + (1 - share) / 8), rel=1e-5)
    assert any(1 < turned < 4 for turned in turns.tolist()) and turns.min() < 1 < 4 < turns.max()


def view(model: TransformerLM, what: str) -> ResidualWidth | SingleWeights | TransformerLM:
    return {WIDTH: ResidualWidth, "unstructured": SingleWeights}[what](model) if what in (WIDTH, "unstructured") \
        else model  # fmt: skip


def random_structure(groups: list[UnitGroup], seed: int, share: float, kinds: tuple[str, ...] | None) -> Structure:
    """Return a structure that keeps about ``share`` of the units of ``kinds``, with soft scales."""
    selection, generator = Selection(groups, kinds), torch.Generator().manual_seed(seed)
    keep = torch.rand(selection.num_units, generator=generator) < share
    for group, part in zip(selection.chosen, keep.split(selection.sizes)):
        part[: group.minimum] = True
    scale = None if selection.chosen[0].single else torch.rand(selection.num_units, generator=generator) + 0.1
    return selection.structure(keep, torch.rand(selection.num_units, generator=generator), scale)


@pytest.mark.parametrize(("kind", "share", "tied"), [*((kind, 0.5, True) for kind in KINDS), (WIDTH, 0.5, False),
                                                     ("all", 0.0, True), ("all", 0.6, False)])  # fmt: skip
def test_masked_is_extracted(kind: str, share: float, tied: bool) -> None:
    """For each kind of unit and for all together; costs are those of the parameters and of what runs."""
    model, tokens = network(tied=tied), sentences()
    with_width = kind in (WIDTH, "all")
    groups = view(model, WIDTH if with_width else "").unit_groups()
    check_groups(model, groups)
    for seed in range(3):
        structure = random_structure(groups, seed, share, None if kind == "all" else (kind,))
        with Masker(model, groups).applied(structure.masks()):
            masked = nn.functional.linear(model.hidden(tokens), model.output_weight)
        small = extract(model, structure)
        assert isinstance(small, TransformerLM)
        assert torch.allclose(small(tokens), masked, atol=1e-4 * float(masked.abs().max()))
        found, _ = small.step(tokens[:, 0], small.start(len(tokens)))
        assert torch.allclose(found, masked[:, 0].log_softmax(dim=1), atol=1e-4)
        expected = CostModel(groups, view_of(model, structure).cost_terms(9)).structure_cost(structure)
        assert CostModel(small.unit_groups(), small.cost_terms(9)).dense == pytest.approx(expected)
        inside = [p.numel() for name, p in small.named_parameters() if not name.startswith(("embedding", "output"))]
        assert expected["size"] == sum(inside)
        assert expected["macs"] == count_macs(lambda: small.hidden(tokens[:1]))  # noqa: B023  # called at once
        again = registry.build(json.loads(json.dumps(registry.describe(small))))
        again.load_state_dict(small.state_dict(), strict=True)
        assert torch.equal(again.eval()(tokens), small(tokens))


def test_a_key_value_head_goes_with_its_query_heads() -> None:
    """And a module whose key/value heads are all gone is gone with its norm and bias; the others stay as they are."""
    model = network(biased=("in_proj", "out_proj", "linear1", "linear2"))
    groups = model.unit_groups()
    masks = {"layers.0.attention.groups.1.heads": torch.zeros(3), "layers.0.attention.groups.0": torch.ones(1),
             "layers.1.attention.groups.0": torch.zeros(1), "layers.1.attention.groups.1.heads": torch.zeros(3),
             "layers.1.attention.groups.2.heads": torch.zeros(1)}  # fmt: skip
    structure = Structure.from_masks(groups, masks)
    assert structure.count("layers.0.attention.groups.1") == 0 and structure.count("layers.0.attention") == 1
    assert structure.count("layers.1.attention") == 0 and structure.count("layers.1.attention.groups.0.heads") == 0
    small = extract(model, structure)
    assert small.config.num_heads == (3, 0, 3) and small.config.shared(0) == (3,)
    assert not hasattr(small.layers[1].attention, "in_proj") and small.layers[1].attention_norm is None
    costs, selection = CostModel(groups, model.cost_terms(9)), Selection(groups)
    keep = torch.cat([structure.groups[group.name].mask() > 0 for group in selection.chosen])
    assert selection.hard_counts(keep).tolist() == costs.counts(structure).tolist()
    heads = [group for group in groups if group.kind == "heads"]
    assert CostModel(groups, model.cost_terms(9)).reachable(heads) == pytest.approx(
        costs.structure_sparsity(Structure.from_masks(groups, {group.name: torch.zeros(group.size)
                                                              for group in heads})))  # fmt: skip


@pytest.mark.parametrize("technique", ["low_rank", "unstructured"])
def test_masked_is_extracted_of_components_and_single_weights(technique: str) -> None:
    dense, tokens = network(), sentences()
    factored = low_rank.factorise(dense, low_rank.linear_names(dense)) if technique == "low_rank" else dense
    assert torch.allclose(factored(tokens), dense(tokens), atol=1e-4)
    of_view = view(factored, technique)
    structure = random_structure(of_view.unit_groups(), 1, 0.5, None)
    structure = structure.without_scale()
    with Masker(factored, of_view.unit_groups()).applied(structure.masks()):
        masked = factored(tokens)
    small = extract(factored, structure)
    assert torch.allclose(small(tokens), masked, atol=1e-4 * float(masked.abs().max()))


def test_repair_solves_a_layer_once_that_several_groups_of_heads_follow() -> None:
    """The outputs of the attention module come as near to the dense ones as least squares over all kept columns can."""
    dense, cut, tokens = network(), network(), sentences(8, 30)
    groups = dense.unit_groups()
    masks = {f"layers.0.attention.groups.{group}.heads": torch.tensor([1.0, float(group), 0.0]) for group in range(2)}
    structure = Structure.from_masks(groups, masks)
    assert repair(dense, cut, structure, [tokens], lambda model, batch: model(batch), ridge=1e-9) == 1
    seen: dict[str, Tensor] = {}
    for name, model in (("x", cut), ("y", dense)):
        layer = model.layers[0].attention.out_proj
        handle = layer.register_forward_hook(
            lambda _, x, y, name=name: seen.update({name: (x[0] if name == "x" else y).flatten(0, 1).double()})
        )
        with torch.no_grad():
            model(tokens)
        handle.remove()
    kept = torch.cat([torch.arange(0, 6), torch.arange(18, 30)])  # of six heads, the first, the fourth and the fifth
    expected = torch.linalg.lstsq(seen["x"][:, kept], seen["y"]).solution
    found = cut.layers[0].attention.out_proj.weight.double().T[kept]
    assert torch.allclose(found, expected, atol=1e-3)


def test_every_unit_has_a_score() -> None:
    """Wanda's, of units whose inputs are columns of a layer that several groups follow; and the weights' norms."""
    model, tokens = network(), sentences()
    selection = Selection(model.unit_groups(), ("heads", "head_groups", "ffn"))
    scores, totals = UnitScores("wanda", selection), dict[str, Tensor]()
    with observed_inputs(model, selection, totals), torch.no_grad():
        model(tokens)
    scores.observe(model, totals)
    parts = selection.split(scores.values(model))
    assert all(bool((part > 0).all()) for part in parts.values())
    for group in range(2):
        name = f"layers.0.attention.groups.{group}"
        assert parts[name].item() == pytest.approx(parts[f"{name}.heads"].sum().item())
    norms = selection.split(UnitScores("magnitude", selection).values(model))
    assert norms["layers.0.attention.groups.0"] > norms["layers.0.attention.groups.0.heads"].max()


def test_dimensions_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="shared_by of layer 1 counts 6 query heads, but num_heads 5"):
        dataclasses.replace(CONFIG, shared_by=((3, 3), (3, 3), (1, 1, 1)))
    with pytest.raises(ValueError, match="shared_by has 2 entries for 3 layers"):
        dataclasses.replace(CONFIG, shared_by=((3, 3), (5,)))
    with pytest.raises(ValueError, match="slow must be below fast, got 4.0 and 4.0"):
        RotaryScaling("llama3", 8.0, 4.0, 4.0)
    assert dataclasses.replace(CONFIG, num_heads=(4,), shared_by=((1, 1, 1, 1),)).shared_by == ()
