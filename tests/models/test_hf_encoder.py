"""Test Hugging Face's encoders: ours compute the same, masked equals extracted, and their modules are not modified."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.core import low_rank, repair
from pruning.core.cost import CostModel
from pruning.core.criteria import UnitScores
from pruning.core.gates import GateConfig, HardConcreteGates
from pruning.core.masking import Masker
from pruning.core.residual_width import ResidualWidth
from pruning.core.selection import Selection
from pruning.core.single_weights import SingleWeights
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, check_groups
from pruning.errors import UserError
from pruning.models.conformer import EncoderOutput
from pruning.models.hf_encoder import HfEncoder
from tests.models.speech_encoders import (
    SHAPES,
    check_exact,
    check_gradients,
    closed,
    hf_values,
    largest_difference,
    random_structure,
    relative,
    shape_name,
    stirred,
    utterances,
)

transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
some_shapes = pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3], SHAPES[6], SHAPES[11]], ids=shape_name)
WAVLM = SHAPES[8:]


def network(shape: dict[str, Any], **changes: Any) -> HfEncoder:
    torch.manual_seed(1)
    model = stirred(HfEncoder.from_hf(hf_values(shape, **changes)))
    assert isinstance(model, HfEncoder)
    return model


@every_shape
@pytest.mark.parametrize("padding", [False, True])
@torch.no_grad()
def test_hidden_states_are_those_of_hugging_face(shape: dict[str, Any], padding: bool) -> None:
    values = hf_values(shape)
    name = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}[values["model_type"]]
    theirs = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**values))
    wrapped = stirred(HfEncoder(theirs))
    assert isinstance(wrapped, HfEncoder)
    audio, lengths = utterances(padding)
    audio = audio * (torch.arange(audio.shape[1]) < lengths[:, None])
    mask = (torch.arange(audio.shape[1]) < lengths[:, None]).long() if values["feat_extract_norm"] == "layer" else None
    output = theirs.eval()(audio, attention_mask=mask, output_hidden_states=True)
    expected = [*output.hidden_states[:-1], output.last_hidden_state]
    for network_ in (wrapped, wrapped.plain()):
        found = network_(audio, lengths)
        assert torch.equal(found.lengths, theirs._get_feat_extract_output_lengths(lengths))
        assert largest_difference(found, EncoderOutput(expected[-1], found.lengths, expected)) < 1e-5


@every_shape
def test_masked_equals_extracted(shape: dict[str, Any]) -> None:
    model = network(shape)
    check_groups(model, model.unit_groups())
    for seed, keep in enumerate((0.05, 0.3, 0.6, 0.9)):
        structure = random_structure(model, seed, keep)
        small = check_exact(model, structure, single=keep > 0.5)
        size = CostModel(model.unit_groups(), model.cost_terms(1600)).structure_cost(structure)["size"]
        assert size == sum(parameter.numel() for parameter in small.parameters())


@pytest.mark.parametrize("shape", SHAPES[:8], ids=shape_name)
def test_whole_groups_of_the_stream_can_go(shape: dict[str, Any]) -> None:
    """The residual width goes from unmodified modules, whose positional convolution has weight norm."""
    model = network(shape)
    view = ResidualWidth(model)
    check_groups(model, view.unit_groups())
    structure = random_structure(view, 3, 0.6)
    assert 1 <= structure.count(WIDTH) < 4
    small = check_exact(model, structure, single=False)
    size = CostModel(view.unit_groups(), view.cost_terms(1600)).structure_cost(structure)["size"]
    assert size == sum(parameter.numel() for parameter in small.parameters())


@every_shape
@pytest.mark.parametrize(
    "names",
    [
        ("encoder.layers.0.attention",),
        ("encoder.layers.1.attention", "encoder.layers.1.feed_forward"),
        ("encoder.layers.2.feed_forward",),
        ("encoder.layers.0.attention.heads", "encoder.layers.2.feed_forward.hidden"),
        ("feature_extractor.conv_layers.0.channels",),
        tuple(f"feature_extractor.conv_layers.{index}.channels" for index in range(3)),
        tuple(f"encoder.layers.{index}.attention" for index in range(3)),
    ],
    ids=["first attention", "whole layer", "ffn", "emptied modules", "few channels", "few everywhere", "no attention"],
)
def test_what_is_closed_goes(shape: dict[str, Any], names: tuple[str, ...]) -> None:
    model = network(shape)
    small = check_exact(model, closed(model, *names), single="channels" not in names[0])
    for name in names:
        module = name.removesuffix(".heads").removesuffix(".hidden")
        assert name.endswith("channels") or not any(key.startswith(f"{module}.") for key in small.state_dict())
    if shape["model_type"] == "wavlm":
        assert "encoder.rel_attn_embed.weight" in small.state_dict(), "later layers need the first one's table"


@every_shape
def test_every_mask_does_something_and_nothing_stays_behind(shape: dict[str, Any]) -> None:
    model = network(shape)
    before, attributes = model.state_dict(), {name: set(module.__dict__) for name, module in model.named_modules()}
    with torch.no_grad():
        dense = model(*utterances()).output
        for group in model.unit_groups():
            mask = torch.ones(group.size)
            mask[0] = 0
            with Masker(model, model.unit_groups()).applied({group.name: mask}):
                assert relative(model(*utterances()).output, dense) > 1e-4, group.name
        assert torch.equal(model(*utterances()).output, dense)
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for layer in model.encoder.layers for module in layer.modules())


@every_shape
def test_gradients_of_masks_are_finite_differences(shape: dict[str, Any]) -> None:
    """Check gradients through norms, heads and modules, at gates between 0 and 1."""
    model = network(shape).double()
    groups = model.unit_groups()
    generator = torch.Generator().manual_seed(4)
    masks = {g.name: (0.3 + 0.6 * torch.rand(g.size, generator=generator)).double().requires_grad_() for g in groups}
    audio, lengths = utterances()
    direction = torch.randn(24, generator=generator).double()
    masker = Masker(model, groups)

    def loss() -> Tensor:
        with masker.applied(masks):
            return (model(audio.double(), lengths).output @ direction).sum()

    loss().backward()
    for group in groups:
        mask, step = masks[group.name], 1e-5
        assert mask.grad is not None
        values = []
        for sign in (1, -1):
            mask.data[-1] += sign * step
            values.append(loss().item())
            mask.data[-1] -= sign * step
        expected = (values[0] - values[1]) / (2 * step)
        assert mask.grad[-1].item() == pytest.approx(expected, rel=1e-3, abs=1e-5), group.name


@every_shape
def test_gradients_do_not_depend_on_what_was_in_memory(shape: dict[str, Any]) -> None:
    check_gradients(network(shape))


@some_shapes
def test_gates_bring_it_to_a_target(shape: dict[str, Any]) -> None:
    model = network(shape).train()
    costs = CostModel(model.unit_groups(), model.cost_terms(16000))
    gates = HardConcreteGates(model.unit_groups(), GateConfig(initial=0.0, deviation=2.0), seed=1)
    with Masker(model, model.unit_groups()).applied(gates.masks(gates.sample())):
        model(*utterances()).output.square().mean().backward()
    assert gates.log_alpha.grad is not None and gates.log_alpha.grad.isfinite().all()
    assert (gates.log_alpha.grad != 0).sum() > 20
    structure = gates.structure(gates.fitted(costs, {"macs": 0.5}))
    assert costs.structure_sparsity(structure)["macs"] == pytest.approx(0.5, abs=0.02)
    assert structure.masks()["feature_extractor.conv_layers.1.channels"].max() < 1, "the structure has soft scales"
    small = check_exact(model.eval(), structure)
    assert CostModel(small.unit_groups(), small.cost_terms(16000)).dense == costs.structure_cost(structure)


@some_shapes
def test_linear_layers_can_be_factored_and_thinned(shape: dict[str, Any]) -> None:
    model = network(shape)
    factored = low_rank.factorise(model, low_rank.linear_names(model))
    with torch.no_grad():
        assert largest_difference(factored(*utterances()), model(*utterances())) < 1e-4
    check_exact(factored, random_structure(factored, 1, 0.4, soft=False))  # type: ignore[arg-type]
    view = SingleWeights(model)
    keep = {g.name: (torch.rand(g.size) < 0.5).float() for g in view.unit_groups()}
    with torch.no_grad(), Masker(model, view.unit_groups()).applied(keep):
        masked = model(*utterances())
    with torch.no_grad():
        thinned = model.plain()
        for name, mask in keep.items():
            thinned.get_parameter(name.removesuffix("s")).mul_(mask.view_as(thinned.get_parameter(name[:-1])))
        assert largest_difference(thinned(*utterances()), masked) < 1e-5


@pytest.mark.parametrize("criterion", ["magnitude", "activation", "wanda", "taylor"])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[7], SHAPES[8]], ids=shape_name)
def test_criteria_score_every_unit(shape: dict[str, Any], criterion: str) -> None:
    """WavLM's heads can only be observed in the same network made of our modules."""
    model: nn.Module = network(shape) if shape["model_type"] != "wavlm" else network(shape).plain()
    groups = model.unit_groups()  # type: ignore[operator]
    selection = Selection(groups, ("frontend", "heads", "ffn"))
    scores, totals = UnitScores(criterion, selection), dict[str, Tensor]()
    probe = torch.ones(selection.num_units, requires_grad=True)
    with Masker(model, groups).applied(selection.split(probe)):
        if scores.observer is not None:
            with scores.observer(model, selection, totals):
                output = model(*utterances()).output
            scores.observe(model, totals)
        else:
            output = model(*utterances()).output
    if scores.from_gradients:
        (output[..., 0].sum()).backward()
        assert probe.grad is not None
        scores.observe_gradient(probe.grad, 1.0)
    assert scores.ready and (scores.values(model) > 0).all()


@pytest.mark.parametrize("criterion", ["activation", "wanda"])
def test_what_is_not_seen_is_told(criterion: str) -> None:
    """Hugging Face's WavLM reads the weight that follows its heads without calling the layer."""
    model = network(WAVLM[0])
    selection = Selection(model.unit_groups())
    scores, totals = UnitScores(criterion, selection), dict[str, Tensor]()
    assert scores.observer is not None
    with torch.no_grad(), scores.observer(model, selection, totals):
        model(*utterances())
    with pytest.raises(UserError, match="observed no input of encoder.layers.0.attention.out_proj.weight"):
        scores.observe(model, totals)


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3], SHAPES[7]], ids=shape_name)
def test_what_follows_a_cut_can_be_solved_anew(shape: dict[str, Any]) -> None:
    model, other = network(shape), network(shape)
    other.load_state_dict(model.state_dict())
    structure = random_structure(model, 2, 0.6, soft=False)
    masker = Masker(other, other.unit_groups())

    def error() -> float:
        with torch.no_grad(), masker.applied(structure.masks()):
            return (other(*utterances(False)).output - model(*utterances(False)).output).square().mean().item()

    before = error()
    assert repair.repair(model, other, structure, [utterances(False)], lambda net, batch: net(*batch)) > 3
    assert error() < before
    check_exact(other, structure)


def test_the_probe_compares_masked_and_extracted() -> None:
    model = network(SHAPES[0])
    structure = random_structure(model, 1, 0.6)
    small = check_exact(model, structure)
    with torch.no_grad():
        probes = [net.probe(torch.Generator().manual_seed(0)) for net in (small, model)]
        with Masker(model, model.unit_groups()).applied(structure.masks()):
            masked = model.probe(torch.Generator().manual_seed(0))
    assert relative(probes[0], masked) < 1e-4 < relative(probes[1], masked)


def test_layer_drop_and_masked_frames_are_left_out() -> None:
    model = network(SHAPES[0], layerdrop=0.99, mask_time_prob=0.9, hidden_dropout=0.0, attention_dropout=0.0,
                    activation_dropout=0.0, feat_proj_dropout=0.0, feat_proj_layer_norm=True)  # fmt: skip
    with torch.no_grad():
        expected = model(*utterances())
        assert largest_difference(model.train()(*utterances()), expected) == 0
    assert not any("masked_spec_embed" in name for name in model.state_dict())


@some_shapes
def test_gradients_are_those_of_masked_layers_whatever_the_configuration_says(shape: dict[str, Any]) -> None:
    """Gradient checkpointing computes layers again in the backward pass, after the masking context has ended."""
    gradients = []
    for values in ({}, {"gradient_checkpointing": True}):
        model = network(shape, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
                        feat_proj_dropout=0.0, **values).train()  # fmt: skip
        structure = random_structure(model, 1, 0.6)
        with Masker(model, model.unit_groups()).applied(structure.masks()):
            loss = model(*utterances()).output.square().mean()
        loss.backward()
        gradients.append(model.feature_projection.projection.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[8]], ids=shape_name)
def test_only_hubert_can_be_without_that_norm(shape: dict[str, Any]) -> None:
    model = network(shape, feat_proj_layer_norm=False)
    assert model.config.projection_norm, "as in Hugging Face's network, which does not read this key"
    check_exact(model, random_structure(model, 1, 0.5))


def test_hubert_without_a_norm_before_the_projection() -> None:
    model = network(SHAPES[4], feat_proj_layer_norm=False)
    assert not model.config.projection_norm
    check_exact(model, random_structure(model, 1, 0.5))


@pytest.mark.parametrize("shape", WAVLM[:1], ids=shape_name)
def test_distances_beyond_the_last_bucket(shape: dict[str, Any]) -> None:
    """Every distance of a long utterance, near, far and beyond the table, has the same bucket as in Hugging Face."""
    model = network(shape, num_buckets=320, max_bucket_distance=250)
    theirs: Any = model.encoder.layers[0].attention  # type: ignore[index, union-attr]
    ours: Any = model.plain().encoder.rel_attn_embed
    with torch.no_grad():
        assert torch.equal(ours(torch.arange(400)), theirs.compute_bias(400, 400))


def test_dimensions_that_do_not_fit_are_told_in_one_line() -> None:
    with pytest.raises(UserError, match="config.json does not describe a valid wav2vec2 network") as caught:
        HfEncoder.from_hf(hf_values(SHAPES[0], num_attention_heads=5))
    assert "\n" not in str(caught.value)


def test_a_missing_transformers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match="transformers") as caught:
        HfEncoder.from_hf(hf_values(SHAPES[0]))
    assert "setup_env.sh --extras hf" in caught.value.remedy


def test_structures_are_of_their_network() -> None:
    model = network(SHAPES[0])
    structure = Structure.dense(network(SHAPES[2], intermediate_size=21).unit_groups())
    with pytest.raises(UserError, match="units in"):
        structure.check_fits(model.unit_groups())
