"""Whisper and Moonshine as Hugging Face writes them: what comes back is equal, and other shapes are refused by name."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.core.constraint import ConstraintConfig
from pruning.core.extraction import extract
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.experiments.checkpoint import write_tensors
from pruning.files import write_json
from pruning.importers.encoder_decoder import configuration, load_encoder_decoder
from pruning.kinds.encoder_decoder_hf import as_hugging_face, hf_values
from pruning.kinds.exports import HuggingFaceForm
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from pruning.models.encoder_decoder import EncoderDecoder
from tests.models.encoder_decoders import (
    BOTH,
    MOONSHINE,
    SHAPES,
    WHISPER,
    greedy,
    network,
    relative,
    shape_name,
    transcripts,
    utterances,
)

GROUP, NARROW_FFN = {"heads": 0.5, "cross_heads": 0.5, "ffn": 0.6}, {"ffn": 0.6}


def cut(model: EncoderDecoder, kept: Mapping[str, float], layers: Sequence[int] = ()) -> EncoderDecoder:
    """Keep shares of the units of kinds, the last ones, and no unit of ``layers``."""
    groups, masks = model.unit_groups(), {}
    for group in groups:
        masks[group.name] = torch.zeros(group.size)
        if group.layer not in layers or group.kind == "frontend":
            masks[group.name][group.size - round(kept.get(group.kind, 1.0) * group.size) :] = 1
    small = extract(model, Structure.from_masks(groups, masks).resolved(groups))
    assert isinstance(small, EncoderDecoder)
    return small.eval()


def form_of(model: EncoderDecoder, shape: dict[str, Any]) -> HuggingFaceForm:
    return as_hugging_face(model, shape, {}, {})


def written(directory: Path, form: HuggingFaceForm) -> Path:
    write_json(directory / "config.json", form.values)
    write_tensors(directory / "model.safetensors", form.tensors, {"format": "pt"})
    return directory


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_what_is_imported_comes_back(tmp_path: Path, shape: dict[str, Any]) -> None:
    """The same tensors bit for bit, and the same configuration."""
    model = network(shape)
    form = form_of(model, shape)
    back = load_encoder_decoder(written(tmp_path, form))
    assert back.config == model.config
    state = back.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert {name: form.values[name] for name in shape} == shape
    assert configuration(hf_values(model.config, {})) == model.config, "without the values of the source"


@pytest.mark.parametrize("shape", BOTH, ids=shape_name)
def test_settings_that_hugging_face_lacks(shape: dict[str, Any]) -> None:
    """The tokens of a second of speech, which an import may set, are no reason to refuse a network."""
    model = network(shape)
    assert hf_values(replace(model.config, tokens_per_second=4.5), shape) == hf_values(model.config, shape)


def test_settings_of_another_network_are_refused() -> None:
    """What is written would not be this network: rotary rates of the decoder that are not those of the encoder."""
    config = replace(network(MOONSHINE).config, decoder=replace(network(MOONSHINE).config.decoder, rotary_base=77.0))
    with pytest.raises(UserError, match="kept in the lang dir is not that of this network; give the lang dir"):
        hf_values(config, MOONSHINE)


SMALLER = [
    pytest.param(shape, kept, layers, id=f"{shape_name(shape)}-{name}")
    for shape, (name, kept, layers) in itertools.product(
        BOTH, [("ffn", NARROW_FFN, ()), ("layers", {}, (1, 3, 5)), ("both", NARROW_FFN, (0, 4))]
    )
]
SMALLER += [pytest.param(MOONSHINE, GROUP, (2, 3), id="moonshine-heads")]


@pytest.mark.parametrize(("shape", "kept", "layers"), SMALLER)
@torch.no_grad()
def test_what_is_small_comes_back(
    tmp_path: Path, shape: dict[str, Any], kept: Mapping[str, float], layers: Sequence[int]
) -> None:
    """Layers of which nothing is left are dropped, and the others are equal."""
    small = cut(network(shape), kept, layers)
    back = load_encoder_decoder(written(tmp_path, form_of(small, shape)))
    removed = [sum(low <= layer < low + 3 for layer in layers) for low in (0, 3)]
    assert [back.config.encoder.num_layers, back.config.decoder.num_layers] == [3 - count for count in removed]
    assert sum(one.numel() for one in back.parameters()) == sum(one.numel() for one in small.parameters())
    (inputs, lengths), tokens = utterances(small), transcripts(small)
    assert torch.equal(back(inputs, lengths, tokens), small(inputs, lengths, tokens))


@pytest.mark.parametrize("target", [0.1, 0.4])
@pytest.mark.parametrize("shape", BOTH, ids=shape_name)
def test_whole_layers_leave_such_a_shape(tmp_path: Path, shape: dict[str, Any], target: float) -> None:
    model = network(shape)
    config = CriterionConfig(ranking="layers", whole_layers=True)
    pruner = CriterionPruning(model, "magnitude", config, ConstraintConfig(size=target, ramp="one_shot"), 1000)
    pruner.keep.copy_(pruner._cut(1.0))
    small = extract(model, pruner.structure())
    assert isinstance(small, EncoderDecoder)
    back = load_encoder_decoder(written(tmp_path, form_of(small.eval(), shape)))
    layers = back.config.encoder.num_layers + back.config.decoder.num_layers
    before = sum(one.numel() for one in model.parameters())
    assert layers < 6 and sum(one.numel() for one in back.parameters()) < (1 - target) * before


def test_the_whole_width_of_a_smaller_whisper(tmp_path: Path) -> None:
    """Three of four heads fill a width of 18 of 24."""
    shape = {**WHISPER, "d_model": 18, "encoder_attention_heads": 3, "decoder_attention_heads": 3}
    assert form_of(network(shape), WHISPER).values["d_model"] == 18


@pytest.mark.parametrize(
    ("shape", "kept", "layers", "message"),
    [
        (MOONSHINE, {"heads": 0.5}, (), "the layers of the decoder have 1 to 2 heads of attention, but .* one number"),
        (WHISPER, GROUP, (), "the encoder has 2 heads of dimension 6 and width 24, but .* as many heads as fill the"),
        (WHISPER, {"frontend": 0.5}, (), "front end of the encoder has 12 channels, not 24, but .* all channels of"),
        (MOONSHINE, {"frontend": 0.5}, (), "has 12 and 24 channels, not 24 and 48"),
        (WHISPER, {"ffn": 0.0}, (), r"layer 0 of the encoder has lost a part of its modules \(hidden units\), but .* "
         "whole layers only; export it to ONNX, or prune with criterion.ranking=group and criterion.kinds"),
        (MOONSHINE, {"cross_heads": 0.0}, (), r"layer 0 of the decoder has lost a part of its modules \(heads of"),
        (MOONSHINE, {}, (0, 1, 2), "the encoder has no layer left, and a Hugging Face directory needs one"),
    ],
)  # fmt: skip
def test_other_shapes_are_refused(
    shape: dict[str, Any], kept: Mapping[str, float], layers: Sequence[int], message: str
) -> None:
    small = cut(network(shape), kept, layers)
    with pytest.raises(UserError, match=message):
        form_of(small, shape)


def test_one_width_of_hidden_units() -> None:
    """One layer that differs is named with its side; Moonshine's sides have one number."""
    model = network(MOONSHINE)
    groups = model.unit_groups()
    masks = {group.name: torch.ones(group.size) for group in groups}
    name = next(group.name for group in groups if group.kind == "ffn" and group.layer == 1)
    masks[name][:7] = 0
    small = extract(model, Structure.from_masks(groups, masks))
    assert isinstance(small, EncoderDecoder)
    with pytest.raises(UserError, match="the layers of the encoder have 33 to 40 hidden units, but .* one number for"):
        form_of(small, MOONSHINE)
    for group in groups:
        if group.kind == "ffn" and group.layer is not None and group.layer < 3:
            masks[group.name][:7] = 0
    small = extract(model, Structure.from_masks(groups, masks))
    assert isinstance(small, EncoderDecoder)
    with pytest.raises(UserError, match="modules of encoder and decoder have 33 and 40 hidden units, but .* one"):
        form_of(small, MOONSHINE)


def test_factored_layers_are_refused() -> None:
    model = network(WHISPER).with_ranks({"encoder.layers.0.ffn.linear1": 3, "encoder.layers.1.ffn.linear1": 3})
    with pytest.raises(UserError, match="encoder.layers.0.ffn.linear1 and 1 more of the network are factored"):
        form_of(model, WHISPER)


def test_alignment_heads_go_with_their_layers() -> None:
    """They number layers and heads of the decoder; other settings of generation stay."""
    generation = {"alignment_heads": [[2, 0]], "suppress_tokens": [1]}
    model = network(WHISPER)
    assert as_hugging_face(model, WHISPER, generation, {}).generation == generation
    small = cut(model, {}, (4,))
    assert as_hugging_face(small, WHISPER, generation, {}).generation == {"suppress_tokens": [1]}


def test_settings_of_generation() -> None:
    """The language is that of the import; without a file, config.json keeps the settings that it has."""
    model, speech = network(WHISPER), {"language": "de", "task": "transcribe"}
    generation = {"max_length": 448, "forced_decoder_ids": [[1, 7], [2, 8]]}
    assert as_hugging_face(model, WHISPER, generation, {}, speech).generation == {"max_length": 448, **speech}
    assert as_hugging_face(model, WHISPER, generation, {}).generation == generation
    older = {**WHISPER, "max_length": 448, "suppress_tokens": [1]}
    form = as_hugging_face(model, older, {}, {}, speech)
    assert not form.generation and form.values["max_length"] == 448 and form.values["suppress_tokens"] == [1]
    assert as_hugging_face(model, {}, {}, {}).generation["eos_token_id"] == model.config.decoder.end


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_heads_of_both_sides_of_a_moonshine_are_equal(side: str) -> None:
    config = network(MOONSHINE).config
    stack = config.encoder if side == "encoder" else config.decoder
    changes: dict[str, Any] = {"heads": tuple(count // 2 for count in stack.heads)}
    changes |= {"cross_heads": changes["heads"]} if side == "decoder" else {}
    with pytest.raises(UserError, match="the encoder has . heads and the decoder ., but a Hugging Face directory has"):
        hf_values(replace(config, **{side: replace(stack, **changes)}), MOONSHINE)


@pytest.mark.parametrize("rotary", [{"partial_rotary_factor": 0.5}, {"rope_parameters": {
    "partial_rotary_factor": 0.5, "rope_theta": 500.0, "rope_type": "default"}}])  # fmt: skip
def test_rotary_positions(rotary: dict[str, Any]) -> None:
    """Settings that fit are taken over; without them, they are computed."""
    model = network({**MOONSHINE, **rotary})
    values = form_of(model, {**MOONSHINE, **rotary}).values
    assert {name: values[name] for name in rotary} == rotary
    assert configuration(form_of(model, {}).values) == model.config


transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")


@pytest.mark.parametrize(("shape", "kept", "layers"), [*SMALLER, pytest.param(WHISPER, {}, (), id="whisper-dense")])
@torch.no_grad()
def test_transformers_computes_the_same(
    tmp_path: Path, shape: dict[str, Any], kept: Mapping[str, float], layers: Sequence[int]
) -> None:
    """Logits within 1e-4, and greedy tokens."""
    if not hasattr(transformers, "MoonshineConfig") and shape is MOONSHINE:
        pytest.skip("Moonshine needs transformers 4.48 or newer")
    small = cut(network(shape), kept, layers)
    written(tmp_path, form_of(small, shape))
    name = {"whisper": "Whisper", "moonshine": "Moonshine"}[shape_name(shape)]
    theirs = getattr(transformers, f"{name}ForConditionalGeneration")
    theirs, said = theirs.from_pretrained(tmp_path, output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"] and not said["mismatched_keys"]
    (inputs, lengths), tokens = utterances(small, padding=False), transcripts(small, 1)
    given = {"input_features": inputs.transpose(1, 2)} if inputs.ndim == 3 else {"input_values": inputs}
    logits = theirs.eval()(**given, decoder_input_ids=tokens).logits
    assert relative(small(inputs, lengths, tokens), logits) < 1e-4
    found = greedy(small, inputs, lengths, [small.config.decoder.start], 8)
    whole = torch.cat([torch.tensor([[small.config.decoder.start]]), found], dim=1)
    assert torch.equal(theirs(**given, decoder_input_ids=whole).logits.argmax(dim=2)[:, :-1], found)
