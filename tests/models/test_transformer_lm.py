"""Test the language model: causality, single steps against whole sentences, masks against extraction, costs."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning import registry
from pruning.core import low_rank
from pruning.core.cost import CostModel
from pruning.core.extraction import extract
from pruning.core.masking import Masker
from pruning.core.residual_width import ResidualWidth
from pruning.core.selection import Selection
from pruning.core.single_weights import SingleWeights
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, check_groups
from pruning.core.views import view_of
from pruning.models.rotary import rates, rotated, turns
from pruning.models.transformer_lm import TransformerLM
from pruning.models.transformer_lm_config import LanguageModelConfig

CONFIG = LanguageModelConfig(d_model=16, num_layers=3, head_dim=6, num_heads=(2, 3, 2), ffn_dim=(20, 8, 16),
                             vocab_size=11, dropout=0.3)  # fmt: skip
CHANGES: list[dict[str, object]] = [
    {}, {"num_heads": (2, 0, 1), "ffn_dim": (0, 8, 0)}, {"tied": False},
    {"shared_by": ((2,), (1, 2), (1, 1)), "norm": "rms", "gated": True, "activation": "silu", "rotary_base": 500.0},
]  # fmt: skip


def network(**changes: object) -> TransformerLM:
    torch.manual_seed(0)
    model = TransformerLM(dataclasses.replace(CONFIG, **changes)).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():  # also biases and norms, so that nothing cancels
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def sentences(n: int = 3, length: int = 7) -> Tensor:
    return torch.randint(CONFIG.vocab_size, (n, length), generator=torch.Generator().manual_seed(1))


def test_what_comes_later_changes_nothing() -> None:
    model, tokens = network(), sentences()
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % CONFIG.vocab_size
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-3)


def test_attention_is_that_of_the_formula() -> None:
    """Compare with complex numbers (arXiv 2104.09864, equation 13) and loops over positions and heads."""
    model, x = network(), torch.randn(1, 5, CONFIG.d_model, generator=torch.Generator().manual_seed(2))
    layer = model.layers[0].attention
    bias = torch.full((5, 5), float("-inf")).triu(1)
    ours = layer(x, turns(torch.arange(5), rates(CONFIG.head_dim, 10000.0)), bias)
    query, key, value = (part.view(5, 2, CONFIG.head_dim) for part in layer.in_proj(x)[0].chunk(3, dim=-1))
    half = CONFIG.head_dim // 2
    angles = torch.tensor([10000.0 ** (-2 * i / CONFIG.head_dim) for i in range(half)])

    def turned(vector: Tensor, place: int) -> Tensor:
        return torch.complex(vector[:half], vector[half:]) * torch.polar(torch.ones(half), place * angles)

    context = torch.zeros(5, 2, CONFIG.head_dim)
    for place, head in itertools.product(range(5), range(2)):
        scores = [(turned(query[place, head], place) * turned(key[j, head], j).conj()).real.sum()
                  for j in range(place + 1)]  # fmt: skip
        weights = (torch.stack(scores) / CONFIG.head_dim**0.5).softmax(dim=0)
        context[place, head] = (weights[:, None] * value[: place + 1, head]).sum(dim=0)
    assert torch.allclose(ours[0], layer.out_proj(context.flatten(1)), atol=1e-5)


def test_scores_depend_on_distances_alone() -> None:
    x, y = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(3))
    of_pairs = rates(6, 10000.0)
    products = [
        (rotated(x, *turns(torch.tensor([a + 3]), of_pairs)) * rotated(y, *turns(torch.tensor([a]), of_pairs))).sum()
        for a in (0, 5, 40)
    ]
    assert torch.allclose(torch.stack(products), products[0].expand(3), atol=1e-5)


@pytest.mark.parametrize("changes", CHANGES)
def test_steps_give_what_the_whole_sentence_gives(changes: dict[str, object]) -> None:
    model, tokens = network(**changes), sentences()
    expected = model(tokens).log_softmax(dim=2)
    state = model.start(len(tokens))
    for place in range(tokens.shape[1]):
        found, state = model.step(tokens[:, place], state)
        assert torch.allclose(found, expected[:, place], atol=1e-5)


def test_histories_of_different_lengths_step_together() -> None:
    """Select, repeat and mix histories with a new one; none affects another."""
    model, tokens = network(), sentences()
    _, state = model.step(tokens[:, 0], model.start(3))
    _, state = model.step(tokens[:, 1], state)
    short = model.start(1)
    index = torch.tensor([2, 0, 0])
    picked = state.select(index)
    joined = picked._replace(
        keys={i: torch.cat([k, k.new_zeros(1, *k.shape[1:])]) for i, k in picked.keys.items()},
        values={i: torch.cat([v, v.new_full((1, *v.shape[1:]), 7.0)]) for i, v in picked.values.items()},
        lengths=torch.cat([picked.lengths, short.lengths]),
    )
    found, joined = model.step(torch.tensor([4, 5, 6, 7]), joined)
    assert joined.lengths.tolist() == [3, 3, 3, 1]
    for row, history in enumerate([[*tokens[2, :2], 4], [*tokens[0, :2], 5], [*tokens[0, :2], 6], [7]]):
        expected = model(torch.tensor([history])).log_softmax(dim=2)[0, -1]
        assert torch.allclose(found[row], expected, atol=1e-5)


def test_costs_are_those_of_the_parameters() -> None:
    model = network()
    check_groups(model, model.unit_groups())
    costs = CostModel(model.unit_groups(), model.cost_terms(10))
    blocks = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embedding"))
    assert costs.dense["size"] == blocks
    macs = 0
    for heads, hidden in zip(CONFIG.num_heads, CONFIG.ffn_dim):
        inner = heads * CONFIG.head_dim
        macs += 10 * 4 * CONFIG.d_model * inner + 2 * 100 * inner + 10 * 2 * CONFIG.d_model * hidden
    assert costs.dense["macs"] == macs


def random_structure(model: TransformerLM, seed: int, share: float, what: str = "structured") -> Structure:
    """Return a random structure of a network, its factored form or its single weights, with soft scales if possible.

    ``what`` is a technique, or ``width``: structured, and the residual width too.
    """
    views = {"unstructured": SingleWeights, WIDTH: ResidualWidth}
    groups = views[what](model).unit_groups() if what in views else model.unit_groups()
    selection = Selection(groups)
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(selection.num_units, generator=generator) < share
    start = 0
    for group in selection.chosen:
        keep[start : start + group.minimum] = True
        start += group.size
    scale = torch.rand(selection.num_units, generator=generator) + 0.1 if what in ("structured", WIDTH) else None
    return selection.structure(keep, torch.rand(selection.num_units, generator=generator), scale)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.6, 0.9, 1.0]), st.booleans(), st.sampled_from(["units", WIDTH])
)
def test_masked_is_extracted(seed: int, share: float, tied: bool, what: str) -> None:
    """Also where the output layer is evaluated outside the masks, as in training."""
    model, tokens = network(tied=tied), sentences()
    structure = random_structure(model, seed, share, "structured" if what == "units" else what)
    view = view_of(model, structure)
    check_groups(model, view.unit_groups())
    with Masker(model, view.unit_groups()).applied(structure.masks()):
        hidden = model.hidden(tokens)
    masked = nn.functional.linear(hidden, model.output_weight)
    small = extract(model, structure)
    assert torch.allclose(small(tokens), masked, atol=1e-4 * float(masked.abs().max()))
    expected = CostModel(view.unit_groups(), view.cost_terms(10)).structure_cost(structure)
    assert isinstance(small, TransformerLM)
    assert CostModel(small.unit_groups(), small.cost_terms(10)).dense == pytest.approx(expected)
    assert expected["size"] == sum(
        p.numel() for name, p in small.named_parameters() if not name.startswith(("embedding", "output"))
    )
    found, _ = small.step(tokens[:, 0], small.start(len(tokens)))
    assert torch.allclose(found, masked[:, 0].log_softmax(dim=1), atol=1e-4)
    again = registry.build(registry.describe(small))
    again.load_state_dict(small.state_dict(), strict=True)
    assert torch.equal(again.eval()(tokens), small(tokens))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 0.6, 0.9, 1.0]))
def test_masked_is_extracted_of_factored_layers(seed: int, share: float) -> None:
    """Layers above their break-even rank are dense again; a pruned factored network can be pruned again."""
    dense, tokens = network(), sentences()
    model = low_rank.factorise(dense, low_rank.linear_names(dense))
    assert isinstance(model, TransformerLM)
    assert torch.allclose(model(tokens), dense(tokens), atol=1e-4)
    for _ in range(2):
        structure = random_structure(model, seed, share, "low_rank")
        with Masker(model, model.unit_groups()).applied(structure.masks()):
            masked = model(tokens)
        small = extract(model, structure)
        assert isinstance(small, TransformerLM)
        assert torch.allclose(small(tokens), masked, atol=1e-4 * float(masked.abs().max()))
        left = CostModel(small.unit_groups(), small.cost_terms(10)).dense["size"]
        assert left == sum(p.numel() for name, p in small.named_parameters() if not name.startswith("embedding"))
        assert left == CostModel(model.unit_groups(), model.cost_terms(10)).structure_cost(structure)["size"]
        model = small
        if not model.config.ranks:
            break


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 1.0]))
def test_masked_is_extracted_of_single_weights(seed: int, share: float) -> None:
    """Removed weights are zero, and the structure survives conversion to JSON."""
    model, tokens = network(), sentences()
    structure = random_structure(model, seed, share, "unstructured")
    again = Structure.from_dict(structure.to_dict())
    assert again == structure
    view = view_of(model, again)
    assert isinstance(view, SingleWeights)
    with Masker(model, view.unit_groups()).applied(again.masks()):
        masked = model(tokens)
    small = extract(model, again)
    assert torch.equal(small(tokens), masked)
    linear = low_rank.linear_names(model)
    nonzero = sum(int(small.get_parameter(f"{name}.weight").count_nonzero()) for name in linear)
    assert nonzero == sum(structure.count(f"{name}.weights") for name in linear)
    cost = CostModel(view.unit_groups(), view.cost_terms(10)).structure_cost(structure)["size"]
    others = sum(p.numel() for n, p in model.named_parameters() if n.rpartition(".")[0] not in linear)
    assert cost == nonzero + others + sum(model.get_submodule(n).bias.numel() for n in linear) - (
        model.embedding.weight.numel()
    )


def test_dimensions_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="head_dim must be even for rotary positions, got 5"):
        dataclasses.replace(CONFIG, head_dim=5)
    with pytest.raises(ValueError, match="num_heads has 2 entries for 3 layers"):
        dataclasses.replace(CONFIG, num_heads=(1, 2))
    with pytest.raises(ValueError, match="there is no layer layers.9.ffn.linear1"):
        TransformerLM(dataclasses.replace(CONFIG, ranks={"layers.9.ffn.linear1": 2}))
    with pytest.raises(ValueError, match="a 20 x 16 matrix cannot have rank 17"):
        TransformerLM(dataclasses.replace(CONFIG, ranks={"layers.0.ffn.linear1": 17}))


@pytest.mark.parametrize("changes", CHANGES)
def test_several_tokens_at_once_give_what_steps_and_the_whole_sentence_give(changes: dict[str, object]) -> None:
    """In parts of 3, 1 and 3 tokens, and then a single step."""
    model, tokens = network(**changes), sentences(length=8)
    expected, state, found = model.hidden(tokens), model.start(len(tokens)), []
    for part in tokens[:, :7].split((3, 1, 3), dim=1):
        hidden, state = model.extend(part, state)
        found.append(hidden)
    assert torch.allclose(torch.cat(found, dim=1), expected[:, :7], atol=1e-5)
    following, state = model.step(tokens[:, 7], state)
    assert torch.allclose(following, model.log_probs(tokens)[:, 7], atol=1e-5)
    assert state.lengths.tolist() == [8, 8, 8]


def test_histories_of_different_lengths_are_extended_together() -> None:
    """Rows get 1, 3 and 2 of the first tokens, then all get three more; padding has no effect."""
    model, tokens, counts = network(), sentences(length=6), torch.tensor([1, 3, 2])
    _, state = model.extend(tokens[:, :3], model.start(3), counts=counts)
    hidden, state = model.extend(tokens[:, 3:], state)
    assert state.lengths.tolist() == [4, 6, 5]
    for row, count in enumerate(counts.tolist()):
        whole = torch.cat([tokens[row, :count], tokens[row, 3:]])[None]
        assert torch.allclose(hidden[row], model.hidden(whole)[0, count:], atol=1e-5)


def test_a_tree_gives_what_each_of_its_branches_gives() -> None:
    """A trunk of 2 tokens behind a history of 3, and branches of 2 and 1 tokens."""
    model, history = network(), sentences(2, 3)
    parents = [-1, 0, 1, 2, 1]
    sees = torch.eye(5, dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            sees[node] |= sees[parent]
    _, state = model.extend(history, model.start(2))
    tree = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    hidden, _ = model.extend(tree, state, sees.expand(2, 5, 5))
    for branch in ([0, 1, 2, 3], [0, 1, 4]):
        expected = model.hidden(torch.cat([history, tree[:, branch]], dim=1))[:, 3:]
        assert torch.allclose(hidden[:, branch], expected, atol=1e-5)
