"""Test criteria against manual computation: norms of weights, sums of w g, inputs of the weights that follow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pruning.core.criteria import UnitScores, magnitudes, observed_activations, observed_inputs
from pruning.core.masking import Masker
from pruning.core.selection import Selection
from pruning.core.single_weights import SingleWeights
from pruning.core.units import Span, UnitGroup
from pruning.models.transducer import Transducer
from tests.methods.test_l0 import network
from tests.models.test_transformer_lm import network as language_model

HEADS, FFN = "encoder.layers.1.attention.heads", "encoder.layers.1.ffn.hidden"
CONV = "encoder.layers.2.convolution.channels"


def features() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 60, 80, generator=torch.Generator().manual_seed(0)), torch.tensor([60, 60])


def mask_gradient(model: Transducer, selection: Selection) -> Tensor:
    """Return d loss / d mask at 1; also computes the gradients of all weights."""
    probe = torch.zeros(selection.num_units, requires_grad=True)
    with Masker(model, selection.groups).applied(selection.split(1 + probe)):
        output = model(*features()).output
        (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(1))).mean().backward()
    assert probe.grad is not None
    return probe.grad


@pytest.mark.parametrize("norm", [1, 2])
def test_magnitude_is_the_norm_of_a_units_weights(norm: int) -> None:
    model = network()
    selection = Selection(model.unit_groups(), ("heads", "ffn", "conv"))
    own = selection.split(magnitudes(model, selection, norm, "own"))
    following = selection.split(magnitudes(model, selection, norm, "following"))
    ffn, attention = model.encoder.layers[1].ffn, model.encoder.layers[1].attention
    for unit in (0, 7, 63):
        expected = torch.cat([ffn.linear1.weight[unit], ffn.linear2.weight[:, unit]]).norm(norm)
        assert own[FFN][unit].item() == pytest.approx(expected.item(), rel=1e-5)
        assert following[FFN][unit].item() == pytest.approx(ffn.linear2.weight[:, unit].norm(norm).item(), rel=1e-5)
    head = slice(16, 24)  # head 2 of dimension 8
    blocks = [attention.in_proj.weight[part * 32 :][head] for part in range(3)]
    blocks += [attention.pos_proj.weight[head], attention.out_proj.weight[:, head]]
    expected = torch.cat([block.flatten() for block in blocks]).norm(norm)
    assert own[HEADS][2].item() == pytest.approx(expected.item(), rel=1e-5)
    assert following[HEADS][2].item() == pytest.approx(attention.out_proj.weight[:, head].norm(norm).item(), rel=1e-5)


def test_the_gradient_of_a_mask_is_the_sum_of_w_g() -> None:
    model = network().eval()
    selection = Selection(model.unit_groups())
    gradient = selection.split(mask_gradient(model, selection))
    layer = model.encoder.layers[1]
    by_hand = layer.ffn.linear2.weight * layer.ffn.linear2.weight.grad
    torch.testing.assert_close(gradient[FFN], by_hand.sum(dim=0).detach(), rtol=1e-4, atol=1e-9)
    by_hand = layer.attention.out_proj.weight * layer.attention.out_proj.weight.grad
    torch.testing.assert_close(gradient[HEADS], by_hand.sum(dim=0).view(4, 8).sum(dim=1).detach(), rtol=1e-4, atol=1e-9)
    module = sum((p * p.grad).sum() for p in layer.ffn.linear2.parameters())
    torch.testing.assert_close(gradient["encoder.layers.1.ffn"][0], module.detach(), rtol=1e-4, atol=1e-9)


def test_taylor_predicts_what_closing_a_unit_does() -> None:
    """Compare the first-order change of the loss with that of closing the unit by a tiny amount."""
    model = network().eval().double()
    selection = Selection(model.unit_groups(), ("ffn",))
    x, lengths = features()

    def loss(masks: dict[str, Tensor]) -> float:
        with torch.no_grad(), Masker(model, selection.groups).applied(masks):
            return model(x.double(), lengths).output.pow(2).mean().item()

    probe = torch.zeros(selection.num_units, dtype=torch.float64, requires_grad=True)
    with Masker(model, selection.groups).applied(selection.split(1 + probe)):
        model(x.double(), lengths).output.pow(2).mean().backward()
    assert probe.grad is not None
    for unit in (0, 100, 300):
        step = torch.zeros(selection.num_units, dtype=torch.float64)
        step[unit] = 1e-4
        change = loss(selection.split(1 + step)) - loss(selection.split(1 - step))
        assert probe.grad[unit].item() == pytest.approx(change / 2e-4, rel=1e-3, abs=1e-9)


def test_scores_from_gradients() -> None:
    model = network()
    selection = Selection(model.unit_groups(), ("heads",))
    first, second = torch.arange(12.0) - 5, torch.arange(12.0).flip(0) - 3
    scores = {name: UnitScores(name, selection, decay=0.5) for name in ("taylor", "fisher", "movement")}
    for score in scores.values():
        assert not score.ready
        score.observe_gradient(first, 0.1)
        score.observe_gradient(second, 0.2)
        assert score.ready
    weights = torch.tensor([0.5, 1.0]) / 1.5
    expected = weights[0] * first.abs() + weights[1] * second.abs()
    torch.testing.assert_close(scores["taylor"].values(model).float(), expected)
    expected = (weights[0] * first**2 + weights[1] * second**2) / 2
    torch.testing.assert_close(scores["fisher"].values(model).float(), expected)
    torch.testing.assert_close(scores["movement"].values(model).float(), -0.1 * first - 0.2 * second)


def test_movement_prefers_weights_that_grow() -> None:
    """A step against the gradient increases the weights of the unit with the larger score."""
    model = network().eval()
    selection = Selection(model.unit_groups(), ("ffn",))
    scores = UnitScores("movement", selection)
    scores.observe_gradient(mask_gradient(model, selection), 0.1)
    moved = selection.split(scores.values(model))[FFN]
    weight = model.encoder.layers[1].ffn.linear2.weight
    assert weight.grad is not None
    growth = ((weight - 1e-2 * weight.grad) ** 2).sum(dim=0) - (weight**2).sum(dim=0)
    assert moved[growth.argmax()] > 0 > moved[growth.argmin()]


def test_activation_is_what_enters_the_following_weights() -> None:
    model = network().eval()
    selection = Selection(model.unit_groups(), ("ffn", "heads", "conv", "subsampling"))
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen.__setitem__(name, inputs[0].detach()))
        for name, module in [
            (FFN, model.encoder.layers[1].ffn.linear2),
            (HEADS, model.encoder.layers[1].attention.out_proj),
            (CONV, model.encoder.layers[2].convolution.pointwise2),
            ("encoder.subsampling.convs.0.channels", model.encoder.subsampling.convs[1]),
            ("encoder.subsampling.convs.1.channels", model.encoder.subsampling.out),
        ]
    ]
    totals: dict[str, Tensor] = {}
    with torch.no_grad(), observed_activations(model, selection, totals):
        model(*features())
    scores = UnitScores("activation", selection)
    scores.observe(model, totals)
    values = {name: part.float() for name, part in selection.split(scores.values(model)).items()}
    torch.testing.assert_close(values[FFN], seen[FFN].abs().mean(dim=(0, 1)))
    torch.testing.assert_close(values[HEADS], seen[HEADS].abs().mean(dim=(0, 1)).view(4, 8).mean(dim=1))
    torch.testing.assert_close(values[CONV], seen[CONV].abs().mean(dim=(0, 1)))
    first, second = (f"encoder.subsampling.convs.{index}.channels" for index in (0, 1))
    torch.testing.assert_close(values[first], seen[first].abs().mean(dim=(0, 2, 3)))
    torch.testing.assert_close(values[second], seen[second].abs().mean(dim=(0, 1)).view(8, -1).mean(dim=1))
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        model(*features())
    assert all(total[-1] == 1 for total in totals.values()), "no hook is left behind"


def test_random_scores_repeat_with_their_seed() -> None:
    model = network()
    selection = Selection(model.unit_groups(), ("ffn",))
    one, same, other = (UnitScores("random", selection, seed=seed).values(model) for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert len(one.unique()) == selection.num_units
    drawn = UnitScores("random", selection, seed=3)
    drawn.forget()
    assert torch.equal(drawn.values(model), one), "the same after a cut"


def test_wanda_weighs_magnitudes_by_inputs() -> None:
    """Compare scores of single weights, hidden units and convolution channels with the formula."""
    lm = language_model()
    tokens = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(0))
    seen: dict[str, Tensor] = {}
    names = ("layers.0.ffn.linear2", "layers.1.ffn.linear1")
    handles = [lm.get_submodule(name).register_forward_pre_hook(lambda _, x, n=name: seen.update({n: x[0]}))
               for name in names]  # fmt: skip
    for view, kinds in ((SingleWeights(lm), None), (lm, ("ffn",))):
        selection = Selection(view.unit_groups(), kinds)
        scores = UnitScores("wanda", selection)
        assert scores.observer is observed_inputs and not scores.ready
        totals: dict[str, Tensor] = {}
        with torch.no_grad(), observed_inputs(lm, selection, totals):
            lm(tokens)
        scores.observe(lm, totals)
        values = selection.split(scores.values(lm))
        for name in names:
            weight, x = lm.get_parameter(f"{name}.weight"), seen[name].flatten(0, 1)
            expected = torch.tensor([[abs(float(weight[i, j])) * float(x[:, j].square().mean().sqrt())
                                      for j in range(weight.shape[1])] for i in range(len(weight))])  # fmt: skip
            if kinds is None:
                assert values[f"{name}.weights"].view_as(weight) == pytest.approx(expected, rel=1e-4)
            elif name == names[0]:
                assert values["layers.0.ffn.hidden"] == pytest.approx(expected.sum(dim=0), rel=1e-4)
    for handle in handles:
        handle.remove()
    model = network().eval()
    selection = Selection(model.unit_groups(), ("subsampling",))
    totals = {}
    with torch.no_grad(), observed_inputs(model, selection, totals):
        model(*features())
    convolution = model.encoder.subsampling.convs[1]
    squares = (totals[selection.chosen[0].name][:-1] / totals[selection.chosen[0].name][-1]).view(-1, 9)
    scores = UnitScores("wanda", selection)
    scores.observe(model, totals)
    by_hand = (convolution.weight.detach().double().flatten(2).abs() * squares.sqrt()).sum(dim=(0, 2))
    assert scores.values(model)[: len(by_hand)] == pytest.approx(by_hand, rel=1e-4)


def test_norms_and_biases_do_not_count_as_magnitude() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    own = (Span("0.weight", 0), Span("0.bias", 0), Span("1.weight", 0), Span("1.bias", 0), Span("2.weight", 1))
    selection = Selection([UnitGroup("hidden", "ffn", 4, (Span("2.weight", 1),), own)])
    found = magnitudes(model, selection)
    for unit in range(4):
        entries = [*model[0].weight[unit].tolist(), *model[2].weight[:, unit].tolist()]
        assert found[unit].item() == pytest.approx(sum(entry**2 for entry in entries) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(("criterion", "norm"), [("magnitude", 1), ("magnitude", 2), ("wanda", 2), ("activation", 2),
                                                 ("taylor", 2)])  # fmt: skip
def test_the_power_of_the_price_is_how_a_score_grows_with_its_weights(criterion: str, norm: int) -> None:
    """Units with one and nine columns of equal weights and inputs have equal scores after division by the price."""
    model = torch.nn.Sequential(torch.nn.Linear(20, 5, bias=False))
    torch.nn.init.constant_(model[0].weight, 0.5)
    groups = [UnitGroup("narrow", "narrow", 2, (Span("0.weight", 1),)),
              UnitGroup("wide", "wide", 2, (Span("0.weight", 1, width=9, offset=2),))]  # fmt: skip
    selection = Selection(groups)
    scores, totals = UnitScores(criterion, selection, norm), {}
    probe = torch.zeros(selection.num_units, requires_grad=True)
    with Masker(model, groups).applied(selection.split(1 + probe)):
        model(torch.ones(6, 20)).sum().backward()
    if scores.from_gradients:
        assert probe.grad is not None
        scores.observe_gradient(probe.grad, 0.1)
    if scores.observer is not None:
        with scores.observer(model, selection, totals):
            model(torch.ones(6, 20))
        scores.observe(model, totals)
    narrow, _, wide, _ = scores.values(model).tolist()
    assert wide / narrow == pytest.approx(9**scores.price_power)
