"""Test encoders with heads: exact extraction for every encoder and head, and outputs that do not depend on padding."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from pruning import registry
from pruning.core.cost import CostModel
from pruning.core.extraction import extract
from pruning.core.low_rank import factorise, linear_names
from pruning.core.masking import Masker
from pruning.core.prunable import Prunable, prunable
from pruning.core.residual_width import ResidualWidth
from pruning.core.single_weights import SingleWeights
from pruning.core.structure import Structure
from pruning.core.units import check_groups
from pruning.errors import UserError
from pruning.importers.encoder_decoder import configuration
from pruning.models.conformer import ConformerConfig
from pruning.models.speech_model import SpeechModel, SpeechModelConfig
from pruning.models.zipformer_config import ZipformerConfig
from tests.models.encoder_decoders import MOONSHINE, WHISPER
from tests.models.speech_encoders import SHAPES, config, hf_values, random_structure, stirred
from tests.models.zipformers import SMALL

AUDIO_ENCODERS = {"whisper": WHISPER, "moonshine": MOONSHINE}
CONFORMER = ConformerConfig(16, 2, 4, (2,), (8,), (12,), (8,), 3, 20, (4, 4), (2, 2))


def description(kind: str) -> dict[str, Any]:
    """Return the description of a small encoder."""
    if kind == "conformer":
        return {"type": kind, "config": dataclasses.asdict(CONFORMER)}
    if kind == "zipformer":
        return {"type": kind, "config": dataclasses.asdict(ZipformerConfig(**SMALL))}
    if kind in AUDIO_ENCODERS:
        config_of = configuration(AUDIO_ENCODERS[kind]).encoder
        return {"type": "audio_encoder", "config": dataclasses.asdict(config_of)}
    shape = SHAPES[-1] if kind.endswith("large") else SHAPES[0]
    if kind.startswith("hugging_face"):
        return {"type": "hugging_face", "config": {"network": hf_values(shape), "preprocessor": {}}}
    return {"type": "speech_encoder", "config": dataclasses.asdict(config(shape))}


def inputs(model: SpeechModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch with padding."""
    generator = torch.Generator().manual_seed(1)
    if not model.encoder.bins:
        unit = 16 if model.encoder.shortest < 100 else 80
        return torch.randn(3, 100 * unit, generator=generator), unit * torch.tensor([100, 75, 44])
    return torch.randn(3, 60, model.encoder.bins, generator=generator), torch.tensor([60, 44, 30])


def rebuilt(model: SpeechModel, view: Prunable, structure: Structure) -> SpeechModel:
    """Extract a structure, build the small model from its description, and check that it computes what masks give."""
    small = extract(model, structure)
    again = registry.build(json.loads(json.dumps(registry.describe(small))))
    assert isinstance(again, SpeechModel)
    again.load_state_dict(small.state_dict(), strict=True)
    with torch.no_grad(), Masker(model, view.unit_groups()).applied(structure.masks()):
        masked = model(*inputs(model)).logits
    found = again.eval()(*inputs(model)).logits
    assert torch.allclose(found, masked, atol=1e-4 * float(masked.abs().max()))
    return again


def network(kind: str, **changes: Any) -> SpeechModel:
    if kind.startswith("hugging_face"):
        pytest.importorskip("transformers", reason="its encoders are pruned")
    torch.manual_seed(0)
    return stirred(SpeechModel(SpeechModelConfig(description(kind), outputs=7, **changes)))  # type: ignore[arg-type,return-value]


KINDS = ("conformer", "speech_encoder", "speech_encoder_large", "hugging_face", "hugging_face_large", *AUDIO_ENCODERS)
HEADS: tuple[dict[str, Any], ...] = (
    {"task": "ctc"},
    {"task": "ctc", "mix": False, "hidden": 5},
    {"task": "intent", "pooling": "mean"},
    {"task": "intent", "pooling": "attention", "hidden": 5},
)


@pytest.mark.parametrize("kind", (*KINDS, "zipformer"))
@pytest.mark.parametrize("head", HEADS)
def test_masked_is_extracted(kind: str, head: dict[str, Any]) -> None:
    """Also check that the extracted model can be rebuilt from its description, with strict loading."""
    model = network(kind, **head)
    check_groups(model, model.unit_groups())
    for seed in range(2):
        structure = random_structure(model, seed, 0.6)  # type: ignore[arg-type]
        small = extract(model, structure)
        described = json.loads(json.dumps(registry.describe(small)))
        again = registry.build(described)
        again.load_state_dict(small.state_dict(), strict=True)
        again.eval()
        with torch.no_grad(), Masker(model, model.unit_groups()).applied(structure.masks()):
            masked = model(*inputs(model)).logits
        found = again(*inputs(model)).logits
        assert found.shape == ((3, 7) if head["task"] == "intent" else (3, masked.shape[1], 7))
        assert torch.allclose(found, masked, atol=1e-4 * float(masked.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
def test_masked_is_extracted_with_a_narrower_stream(head: dict[str, Any], kind: str) -> None:
    """The head reads all layers or the last one, with or without a hidden layer, and loses its columns."""
    model = network(kind, **head)
    if kind.endswith("large"):
        with pytest.raises(UserError, match="residual width of WavLM cannot be pruned"):
            ResidualWidth(model).unit_groups()
        return
    view = ResidualWidth(model)
    check_groups(model, view.unit_groups())
    for seed in range(2):
        structure = random_structure(view, seed, 0.6)
        assert 1 <= structure.count("encoder.width") <= structure.groups["encoder.width"].size
        again = rebuilt(model, view, structure)
        costs = CostModel(view.unit_groups(), view.cost_terms(60)).structure_cost(structure)
        assert costs["size"] == sum(parameter.numel() for parameter in again.encoder.parameters())


@pytest.mark.parametrize("kind", ["conformer", "speech_encoder_large", *AUDIO_ENCODERS])
def test_its_costs_are_the_encoders(kind: str) -> None:
    model = network(kind)
    cost = CostModel(model.unit_groups(), model.cost_terms(16000))
    alone: Any = model.encoder
    assert cost.dense == CostModel(alone.unit_groups(), alone.cost_terms(16000)).dense
    # not counted: running statistics, feature statistics, positions
    assert cost.dense["size"] == sum(p.numel() for p in alone.parameters())


@pytest.mark.parametrize("kind", ["conformer", "zipformer", "speech_encoder", *AUDIO_ENCODERS])
def test_low_rank_of_what_stands_in_a_model(kind: str) -> None:
    model = network(kind)
    factored = factorise(model, linear_names(model))
    assert isinstance(factored, SpeechModel) and all(name.startswith("encoder.") for name in linear_names(model))
    whole, again = model(*inputs(model)).logits, factored(*inputs(model)).logits
    assert torch.allclose(whole, again, atol=1e-4 * float(whole.abs().max()))


FACTORED = ("conformer", "zipformer", "speech_encoder", "whisper")


@pytest.mark.parametrize("kind", FACTORED)
@pytest.mark.parametrize("view", ["components", "single weights"])
def test_masked_is_extracted_without_components_and_single_weights(kind: str, view: str) -> None:
    """The extracted model is rebuilt from its description, and costs what is counted."""
    dense = network(kind, mix=False)
    model = factorise(dense, linear_names(dense)) if view == "components" else dense
    units = prunable(model) if view == "components" else SingleWeights(model)
    for seed in range(2):
        structure = random_structure(units, seed, 0.4)
        again = rebuilt(model, units, structure)
        counted = CostModel(units.unit_groups(), units.cost_terms(60)).structure_cost(structure)["size"]
        parameters = list(again.encoder.parameters())
        if view == "components":
            assert any(".u.weight" in name for name in again.state_dict())
            assert counted == pytest.approx(sum(parameter.numel() for parameter in parameters))
        else:  # other parameters than the weights of linear layers may be 0, too
            assert counted >= sum(int(parameter.count_nonzero()) for parameter in parameters)


@pytest.mark.parametrize("kind", FACTORED)
def test_a_model_is_built_from_the_description_of_an_older_version(kind: str) -> None:
    model = network(kind)
    described = registry.describe(model)
    assert described["config"].pop("ranks") == {}
    registry.build(described).load_state_dict(model.state_dict(), strict=True)


def test_ranks_are_in_one_place() -> None:
    with pytest.raises(ValueError, match="model.ranks must be empty: an encoder of this type has ranks of its own"):
        network("whisper", ranks={"encoder.layers.0.ffn.linear1": 3})
    with pytest.raises(ValueError, match="the configuration of an encoder of type zipformer has no ranks"):
        network("zipformer").encoder.with_ranks({})


@pytest.mark.parametrize("kind", ["conformer", "speech_encoder_large", *AUDIO_ENCODERS])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_padding_has_no_part_in_an_intent(kind: str, pooling: str) -> None:
    model = network(kind, task="intent", pooling=pooling)
    batch, lengths = inputs(model)
    together = model(batch, lengths).logits
    for row, length in enumerate(lengths.tolist()):
        alone = model(batch[row : row + 1, :length], lengths[row : row + 1]).logits
        assert torch.allclose(together[row : row + 1], alone, atol=1e-4 * float(alone.abs().max()))


def test_layers_are_weighed() -> None:
    model = network("conformer", task="ctc")
    assert model.head.mix is not None
    with torch.no_grad():
        model.head.mix.weights.fill_(-1e4)
        model.head.mix.weights[-1] = 0.0
    output = model(*inputs(model))
    assert torch.allclose(output.logits, model.head.output(output.encoded.output), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder": {"type": "rnn", "config": {}}, "outputs": 7}, "unknown encoder type 'rnn'"),
        ({"encoder": {"type": "conformer", "config": {"layers": 3}}, "outputs": 7}, "cannot build a"),
        ({"encoder": {"type": "speech_encoder"}, "outputs": 7}, "cannot build a"),
    ],
)
def test_bad_descriptions(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SpeechModel(SpeechModelConfig(**values))


@pytest.mark.parametrize("values", [{"task": "translation"}, {"pooling": "max"}, {"hidden": -1}])
def test_bad_configurations(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))} must be "):
        SpeechModelConfig(**values)
    with pytest.raises(ValueError, match="outputs"):
        SpeechModel(SpeechModelConfig(description("conformer")))
