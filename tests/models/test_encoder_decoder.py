"""Test Whisper and Moonshine as networks of ours: batches, steps, masks against extraction, costs against counts."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.core import low_rank
from pruning.core.cost import CostModel
from pruning.core.criteria import UnitScores, observed_activations, observed_inputs
from pruning.core.extraction import extract
from pruning.core.masking import Masker
from pruning.core.prunable import Prunable
from pruning.core.repair import repair
from pruning.core.residual_width import ResidualWidth, has_width
from pruning.core.selection import Selection
from pruning.core.single_weights import SingleWeights
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, check_groups
from pruning.core.views import view_of
from pruning.errors import UserError
from pruning.importers.encoder_decoder import configuration
from pruning.kinds.encoder_decoder import EncoderDecoderKind
from pruning.models import encoder_decoder_units as units
from pruning.models import encoder_types as encoders
from pruning.models.audio_encoder import AudioEncoder
from pruning.models.encoder_decoder import EncoderDecoder
from pruning.models.encoder_decoder_config import EncoderDecoderConfig
from pruning.models.utterance_norm import UtteranceNorm
from tests.counter import count_macs
from tests.models.encoder_decoders import (
    BOTH,
    MOONSHINE,
    WHISPER,
    greedy,
    network,
    relative,
    shape_name,
    transcripts,
    utterances,
)

MODULES = ("attention_module", "cross_attention_module", "ffn_module")
UNITS = ("frontend", "heads", "cross_heads", "ffn", WIDTH)
ALL = (*UNITS, *MODULES)
TINY_MOONSHINE = {**MOONSHINE, "vocab_size": 32768, "hidden_size": 288, "intermediate_size": 1152,
                  "encoder_num_hidden_layers": 6, "encoder_num_attention_heads": 8, "decoder_num_hidden_layers": 6,
                  "decoder_num_attention_heads": 8}  # fmt: skip
BASE_WHISPER = {**WHISPER, "vocab_size": 51865, "num_mel_bins": 80, "d_model": 512, "encoder_layers": 6,
                "encoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_layers": 6,
                "decoder_attention_heads": 8, "decoder_ffn_dim": 2048, "max_source_positions": 1500,
                "max_target_positions": 448}  # fmt: skip
LARGE_V3 = {**BASE_WHISPER, "vocab_size": 51866, "num_mel_bins": 128, "d_model": 1280, "encoder_layers": 32,
            "encoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_layers": 32,
            "decoder_attention_heads": 20, "decoder_ffn_dim": 5120}  # fmt: skip
TINY_EN = {**BASE_WHISPER, "vocab_size": 51864, "d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6,
           "encoder_ffn_dim": 1536, "decoder_layers": 4, "decoder_attention_heads": 6,
           "decoder_ffn_dim": 1536}  # fmt: skip
BASE_MOONSHINE = {**TINY_MOONSHINE, "hidden_size": 416, "intermediate_size": 1664, "encoder_num_hidden_layers": 8,
                  "decoder_num_hidden_layers": 8, "partial_rotary_factor": 0.62}  # fmt: skip

both = pytest.mark.parametrize("shape", BOTH, ids=shape_name)


def costs_of(config: EncoderDecoderConfig, inputs: int, tokens: int) -> CostModel:
    """Return the costs of a network that is not made, without its unit groups at work."""
    with_shape = EncoderDecoder.__new__(EncoderDecoder)
    nn.Module.__init__(with_shape)
    with_shape.config = config
    return CostModel(with_shape.unit_groups(), [
        *units.encoder_terms(config.encoder, inputs, prefix=units.ENCODER),
        *units.decoder_terms(config.decoder, config.encoder.common.frames(inputs)[-1], tokens),
    ])  # fmt: skip


@both
@torch.no_grad()
def test_a_batch_gives_what_single_utterances_give(shape: dict[str, Any]) -> None:
    """Whatever the padding contains; also an utterance without frames is finite."""
    model = network(shape)
    inputs, lengths = utterances(model)
    tokens = transcripts(model)
    encoded, logits = model.encoder(inputs, lengths), model(inputs, lengths, tokens)
    spoiled = inputs.clone()
    for row, length in enumerate(lengths.tolist()):
        spoiled[row, length:] = float("nan")
        single = model.encoder(inputs[row : row + 1, :length], lengths[row : row + 1])
        frames = int(encoded.lengths[row])
        assert single.output.shape[1] == frames == int(single.lengths) > 0
        for whole, part in zip(encoded.layers, single.layers):
            assert relative(whole[row : row + 1, :frames], part) < 1e-5
        alone = model(inputs[row : row + 1, :length], lengths[row : row + 1], tokens[row : row + 1])
        assert relative(logits[row : row + 1], alone) < 1e-5
    assert torch.equal(model(spoiled, lengths, tokens), logits)
    assert model(inputs[:, :5], torch.tensor([5, 0, 0]), tokens).isfinite().all()


@both
def test_lengths_are_those_of_the_outputs(shape: dict[str, Any]) -> None:
    encoder = network(shape).encoder
    for size in (encoder.shortest, encoder.shortest + 1, 45, 58) if encoder.bins else (encoder.shortest, 1278, 1279):
        inputs = torch.randn((1, size, encoder.bins) if encoder.bins else (1, size))
        encoded = encoder(inputs, torch.tensor([size]))
        assert encoded.output.shape[1] == int(encoded.lengths) == encoder.config.common.frames(size)[-1] > 0
    assert encoder.stride == (2 if encoder.bins else 384) and encoder.shortest == (1 if encoder.bins else 895)
    assert int(encoder.frame_lengths(torch.tensor([encoder.shortest - 1]))) == 0


@torch.no_grad()
def test_the_norm_over_an_utterance() -> None:
    """Compare with torch's group norm over the valid frames, and over the kept channels."""
    torch.manual_seed(0)
    norm, theirs = UtteranceNorm(6), nn.GroupNorm(1, 6)
    for ours, other in zip(norm.parameters(), theirs.parameters()):
        other.copy_(nn.init.normal_(ours))
    x, lengths = torch.randn(3, 6, 50) + 2, (50, 31, 4)
    valid = torch.arange(50)[None, :] < torch.tensor(lengths)[:, None]
    y = norm(x, valid)
    kept = torch.tensor([0, 2, 3])
    part = norm.normalised_over(torch.tensor([1.0, 0, 1, 1, 0, 0]), x, valid)
    for row, length in enumerate(lengths):
        assert torch.allclose(y[row, :, :length], theirs(x[row : row + 1, :, :length])[0], atol=1e-5)
        small = nn.functional.group_norm(x[row : row + 1, kept, :length], 1, norm.weight[kept], norm.bias[kept])
        assert torch.allclose(part[row, kept, :length], small[0], atol=1e-5)


@both
def test_what_comes_later_changes_nothing(shape: dict[str, Any]) -> None:
    model = network(shape)
    inputs, tokens = utterances(model), transcripts(model)
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % model.config.decoder.vocab_size
    before, after = model(*inputs, tokens), model(*inputs, changed)
    assert relative(before[:, :4], after[:, :4]) < 1e-5 < relative(before[:, 4:], after[:, 4:])


def without_modules(shape: dict[str, Any], **changes: Any) -> EncoderDecoder:
    """Return a network some of whose layers lack modules, with other sizes in every layer."""
    config = configuration({**shape, **changes})
    encoder = dataclasses.replace(config.encoder, heads=(2, 0, 1), ffn_dim=(0, 0, 7))
    decoder = dataclasses.replace(config.decoder, heads=(0, 3, 0), cross_heads=(1, 0, 0), ffn_dim=(5, 0, 0))
    torch.manual_seed(2)
    return EncoderDecoder(EncoderDecoderConfig(encoder, decoder)).eval()


@both
@pytest.mark.parametrize("kind", ["whole", "parts", "untied"])
@torch.no_grad()
def test_steps_give_what_whole_transcripts_give(shape: dict[str, Any], kind: str) -> None:
    """Also for histories that are selected, repeated and of different lengths."""
    model = without_modules(shape) if kind == "parts" else network(shape, tie_word_embeddings=kind != "untied")
    decoder, tokens = model.decoder, transcripts(model)
    memory = decoder.memory(model.encoder(*utterances(model)))
    expected = decoder(tokens, memory).log_softmax(dim=2)
    state = decoder.start(memory)
    for place in range(5):
        scores, state = decoder.step(tokens[:, place], state)
        assert torch.allclose(scores, expected[:, place], atol=1e-4)
    index = torch.tensor([2, 0, 0, 1])
    picked = state.select(index)
    shorter = torch.tensor([5, 3, 5, 1])
    picked = picked._replace(history=picked.history._replace(lengths=shorter))
    scores, picked = decoder.step(torch.tensor([4, 5, 6, 7]), picked)
    assert picked.history.lengths.tolist() == [6, 4, 6, 2]
    for row, (utterance, length, token) in enumerate(zip(index.tolist(), shorter.tolist(), [4, 5, 6, 7])):
        history = torch.cat([tokens[utterance, :length], torch.tensor([token])])[None]
        alone = decoder(history, memory.select(index[row : row + 1]))[0, -1].log_softmax(dim=0)
        assert torch.allclose(scores[row], alone, atol=1e-4)


@both
def test_too_long_input_is_refused(shape: dict[str, Any]) -> None:
    model = network(shape)
    tokens = transcripts(model, 1, 21)
    if shape == MOONSHINE:
        assert model(*utterances(model, padding=False), tokens).shape == (1, 21, 41)
        return
    inputs, lengths = utterances(model, padding=False)
    with pytest.raises(UserError, match="a transcript of more than 20 tokens is too long for the decoder"):
        model(inputs, lengths, tokens)
    with pytest.raises(UserError, match="a transcript of more than 20 tokens is too long for the decoder"):
        greedy(model, inputs, lengths, [1], 21)
    with pytest.raises(UserError, match="features of 62 frames are too long for 30 positions, which are enough for 60"):
        model(torch.randn(1, 61, 8), torch.tensor([61]), tokens)


def random_structure(model: Prunable, seed: int, kinds: tuple[str, ...], keep: float = 0.6) -> Structure:
    """Return a structure with soft scales that removes units of the given kinds at random."""
    generator, masks = torch.Generator().manual_seed(seed), {}
    for group in model.unit_groups():
        opened = torch.rand(group.size, generator=generator) < keep
        if group.layer is not None and group.size == 1 and group.layer % 3 == seed % 3:
            opened[:] = False  # at least one module of each kind
        opened[: group.minimum] = True
        if group.kind in kinds:
            masks[group.name] = opened * (0.4 + torch.rand(group.size, generator=generator))
    return Structure.from_masks(model.unit_groups(), masks)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def view(model: EncoderDecoder | AudioEncoder, kinds: tuple[str, ...]) -> Prunable:
    return ResidualWidth(model) if WIDTH in kinds else model


@torch.no_grad()
def check_exact(model: EncoderDecoder, structure: Structure, dtype: torch.dtype) -> EncoderDecoder:
    """Check that masked and extracted outputs agree, in a batch and step by step, and that costs are as predicted."""
    model = model.to(dtype)
    declared = view_of(model, structure)
    check_groups(model, declared.unit_groups())
    inputs, lengths = utterances(model)
    inputs, tokens = inputs.to(dtype), transcripts(model)
    with Masker(model, declared.unit_groups()).applied(structure.masks()):
        encoded = model.encoder(inputs, lengths)
        memory = model.decoder.memory(encoded)
        masked = model.decoder(tokens, memory)
        stepped, _ = model.decoder.step(tokens[:, 0], model.decoder.start(memory))
    small = extract(model, structure)
    assert isinstance(small, EncoderDecoder)
    kept = structure.groups["encoder.width"].kept if has_width(structure) else range(encoded.output.shape[2])
    gone = sorted(set(range(encoded.output.shape[2])) - set(kept))
    cut = small.encoder(inputs, lengths)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    for whole, part in zip(encoded.layers, cut.layers):
        assert relative(part, whole[..., list(kept)]) < tolerance
        assert not whole[..., gone].any(), "the decoder reads zeros"
    assert relative(small(inputs, lengths, tokens), masked) < tolerance
    found, _ = small.decoder.step(tokens[:, 0], small.decoder.start(small.decoder.memory(cut)))
    assert relative(found, stepped) < tolerance
    expected = CostModel(declared.unit_groups(), declared.cost_terms(inputs.shape[1])).structure_cost(structure)
    assert CostModel(small.unit_groups(), small.cost_terms(inputs.shape[1])).dense == pytest.approx(expected)
    assert expected["size"] == parameters(small)
    again = EncoderDecoder(EncoderDecoderConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(small.config)))))
    again.to(dtype).load_state_dict(small.state_dict(), strict=True)
    assert torch.equal(again.eval()(inputs, lengths, tokens), small(inputs, lengths, tokens))
    return small


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kinds", [*((kind,) for kind in ALL), UNITS[:-1], (*UNITS, *MODULES)], ids="+".join)
def test_masked_equals_extracted_for_every_unit_kind(
    shape: dict[str, Any], dtype: torch.dtype, kinds: tuple[str, ...]
) -> None:
    model = network(shape)
    small = check_exact(model, random_structure(view(model, kinds), 1, kinds), dtype)
    assert parameters(small) < parameters(model)
    check_exact(small, random_structure(view(small, kinds), 2, kinds, 0.8), dtype)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(BOTH), st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.6, 1.0]), st.booleans())
def test_any_structure_is_exact_and_costs_what_is_counted(
    shape: dict[str, Any], seed: int, keep: float, tied: bool
) -> None:
    model = network(shape, tie_word_embeddings=tied)
    small = check_exact(model, random_structure(ResidualWidth(model), seed, ALL, keep), torch.float64)
    (inputs, lengths), tokens = utterances(small, padding=False), transcripts(small, 1)
    counted = count_macs(lambda: small(inputs.double(), lengths, tokens))
    terms = small.cost_terms(inputs.shape[1], tokens=tokens.shape[1])
    assert CostModel(small.unit_groups(), terms).dense["macs"] == counted


@both
def test_the_encoder_alone_is_pruned_and_rebuilt(shape: dict[str, Any]) -> None:
    """As an encoder that is combined with a head; its terms have the kinds of other encoders."""
    encoder = network(shape).encoder
    structure = random_structure(ResidualWidth(encoder), 1, ALL)
    small = extract(encoder, structure)
    assert isinstance(small, AudioEncoder)
    inputs, lengths = utterances(network(shape))
    with torch.no_grad(), Masker(encoder, ResidualWidth(encoder).unit_groups()).applied(structure.masks()):
        masked = encoder(inputs, lengths).output[..., list(structure.groups[WIDTH].kept)]
    assert relative(small(inputs, lengths).output, masked) < 1e-4
    again = encoders.build(json.loads(json.dumps(encoders.describe(small))))
    again.load_state_dict(small.state_dict(), strict=True)
    assert torch.equal(again.eval()(inputs, lengths).output, small(inputs, lengths).output)
    costs = CostModel(small.unit_groups(), small.cost_terms(inputs.shape[1]))
    assert costs.dense["size"] == parameters(small)
    assert {term.kind for term in costs.terms} <= {"frontend", "positional", "attention", "ffn", "norm"}
    assert costs.dense["macs"] == count_macs(lambda: small(inputs[:1], lengths[:1]))
    assert encoder.probe(torch.Generator().manual_seed(1)).shape[1] == encoder.width


def test_layers_are_numbered_over_encoder_and_decoder() -> None:
    layers = {group.name.split("layers.")[0] + str(group.layer) for group in network(WHISPER).unit_groups()}
    assert layers == {f"encoder.{i}" for i in range(3)} | {f"decoder.{i + 3}" for i in range(3)} | {
        "encoder.front_end.convolutions.0.channelsNone"
    }


def test_figures_of_moonshine_tiny() -> None:
    costs = costs_of(configuration(TINY_MOONSHINE), 160000, 33)
    kinds = costs.by_kind(costs.dense_counts())
    encoder = sum(row["macs"] for kind, row in kinds.items() if kind.startswith("encoder_"))
    assert encoder / 1e9 == pytest.approx(4.34, abs=5e-3)
    assert kinds["encoder_frontend"]["macs"] / 1e9 == pytest.approx(1.26, abs=5e-3)
    assert kinds["encoder_frontend"]["macs"] / encoder == pytest.approx(0.29, abs=5e-3)
    second = [term for term in costs.terms if term.kind == "encoder_frontend" and len(term.groups) == 2]
    assert second[0].macs * 288 * 576 / encoder == pytest.approx(0.22, abs=5e-3)
    assert costs.dense["size"] == 27_092_736
    assert kinds["output"] == {"size": 0, "macs": 33 * 288 * 32768}


def test_figures_of_whisper_base() -> None:
    """Shares of the computation for 30 s and 100 tokens."""
    config = configuration(BASE_WHISPER)
    costs = costs_of(config, 3000, 100)
    assert costs.dense["size"] == 72_593_920
    total, kinds = costs.dense["macs"], costs.by_kind(costs.dense_counts())
    projections = 6 * 4 * 1500 * 512 * 512
    assert kinds["encoder_ffn"]["macs"] / total == pytest.approx(0.348, abs=5e-4)
    assert projections / total == pytest.approx(0.174, abs=5e-4)
    assert (kinds["encoder_attention"]["macs"] - projections) / total == pytest.approx(0.255, abs=5e-4)
    assert kinds["encoder_frontend"]["macs"] / total == pytest.approx(0.029, abs=5e-4)
    assert kinds["decoder_cross_keys_values"]["macs"] / total == pytest.approx(0.087, abs=5e-4)
    assert kinds["output"] == {"size": 0, "macs": 100 * 512 * 51865}


@pytest.mark.parametrize(
    ("shape", "size"),
    [(BASE_MOONSHINE, 61_513_920), (TINY_EN, 37_760_256), (LARGE_V3, 1_543_490_560),
     ({**LARGE_V3, "decoder_layers": 4}, 808_878_080)],
    ids=["moonshine-base", "whisper-tiny.en", "whisper-large-v3", "whisper-turbo"],
)  # fmt: skip
def test_parameters_of_published_networks(shape: dict[str, Any], size: int) -> None:
    assert costs_of(configuration(shape), 160000 if shape == BASE_MOONSHINE else 3000, 100).dense["size"] == size


def test_tokens_follow_from_the_duration() -> None:
    for shape, inputs in ((WHISPER, 60), (MOONSHINE, 9600)):
        model = network(shape)
        terms = {term for term in model.cost_terms(inputs) if term.kind == "output"}
        assert terms == {term for term in model.cost_terms(inputs, tokens=2) if term.kind == "output"}


def test_tokens_of_speech_in_a_window_of_silence() -> None:
    """Whisper's frames cover silence, so that tokens follow from the seconds of speech."""
    model = network(WHISPER)
    length = EncoderDecoderKind.input_length(model, 0.3)
    assert (length, length.tokens, model.tokens_for(length)) == (60, 1, 1) and model.tokens_for(60) == 2
    assert model.cost_terms(length) == model.cost_terms(60, tokens=1)
    rated = model.with_tokens_per_second(10.0)
    assert EncoderDecoderKind.input_length(rated, 0.3).tokens == 3
    assert EncoderDecoderKind.reference(rated)[1] == "10 s, 100 tokens in a window of 0.6 s"


def test_dimensions_that_make_no_sense_are_refused() -> None:
    config = configuration(MOONSHINE)
    for changes, message in (
        ({"rotary_dim": 7}, "rotary_dim must be even and at most head_dim, got 7 and 12"),
        ({"rotary_dim": 0, "positions": 5}, "moonshine needs rotary_dim of at least 1 and no positions"),
        ({"heads": (1, 2)}, "heads has 2 entries for 3 layers"),
        ({"conv_channels": (4,)}, "conv_channels of moonshine must have 2 entries"),
        ({"bins": 80}, "moonshine needs samples: bins must be 0"),
        ({"d_model": 0}, "d_model must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(config.encoder, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whisper needs positions of at least 1 and no rotary_dim"):
        dataclasses.replace(configuration(WHISPER).encoder, positions=0, rotary_dim=2)
    with pytest.raises(ValueError, match="decoder.memory_dim must be encoder.d_model, 24, got 25"):
        EncoderDecoderConfig(config.encoder, dataclasses.replace(config.decoder, memory_dim=25))
    with pytest.raises(ValueError, match="encoder and decoder must be of one family, got whisper and moonshine"):
        EncoderDecoderConfig(configuration(WHISPER).encoder, config.decoder)
    with pytest.raises(ValueError, match="an encoder of whisper does not normalise its input"):
        network(WHISPER).encoder.set_feature_statistics(torch.zeros(8), torch.ones(8))


@both
def test_gradients_reach_all_weights(shape: dict[str, Any]) -> None:
    """In training, with masks that are learned; gradients in single precision equal those in double precision."""
    found: list[dict[str, Tensor]] = []
    for dtype in (torch.float32, torch.float64):
        model = network(shape).to(dtype).train()
        masks = {group.name: torch.full((group.size,), 0.9, dtype=dtype, requires_grad=True)
                 for group in model.unit_groups()}  # fmt: skip
        inputs, lengths = utterances(model)
        with Masker(model, model.unit_groups()).applied(masks):
            model(inputs.to(dtype), lengths, transcripts(model)).square().mean().backward()
        assert all(mask.grad is not None and mask.grad.any() for mask in masks.values())
        found.append({name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None})
        fixed = {"encoder.positions.weight"} if shape == WHISPER else set()
        assert {name for name, _ in model.named_parameters()} - found[-1].keys() == fixed
    for name, exact in found[1].items():
        assert (found[0][name] - exact).abs().max() < 1e-3 * exact.abs().max().clamp(min=1e-3), name


@both
@torch.no_grad()
def test_units_are_observed_and_weights_repaired(shape: dict[str, Any]) -> None:
    """Criteria see the inputs of all units, and repair brings the outputs nearer to those of the dense network."""
    model = network(shape)
    inputs, tokens = utterances(model), transcripts(model)
    selection = Selection(ResidualWidth(model).unit_groups(), UNITS)
    for criterion, observed in (("activation", observed_activations), ("wanda", observed_inputs)):
        totals: dict[str, Tensor] = {}
        with observed(model, selection, totals):
            model(*inputs, tokens)
        scores = UnitScores(criterion, selection)
        scores.observe(model, totals)
        assert (scores.values(model) > 0).all(), criterion
    structure = random_structure(model, 3, ("frontend", "ffn")).without_scale()
    repaired = copy.deepcopy(model)
    assert repair(model, repaired, structure, [(*inputs, tokens)], lambda network, batch: network(*batch)) >= 4
    dense, errors = model(*inputs, tokens), []
    for masked in (model, repaired):
        with Masker(masked, masked.unit_groups()).applied(structure.masks()):
            errors.append((masked(*inputs, tokens) - dense).square().mean())
    assert errors[1] < 0.7 * errors[0]


def thinned(declared: Prunable, share: float) -> Structure:
    """Return a structure that keeps a share of the units at random."""
    selection, generator = Selection(declared.unit_groups()), torch.Generator().manual_seed(1)
    keep = torch.rand(selection.num_units, generator=generator) < share
    for group, part in zip(selection.chosen, keep.split([group.size for group in selection.chosen])):
        part[: group.minimum] = True
    return selection.structure(keep, torch.rand(selection.num_units, generator=generator))


@both
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@torch.no_grad()
def test_masked_equals_extracted_for_factored_layers(shape: dict[str, Any], share: float) -> None:
    """Layers above their break-even rank are dense again; costs are those of what is left."""
    dense = network(shape).double()
    inputs, lengths = utterances(dense)
    inputs, tokens = inputs.double(), transcripts(dense)
    model = low_rank.factorise(dense, low_rank.linear_names(dense))
    assert isinstance(model, EncoderDecoder)
    assert relative(model(inputs, lengths, tokens), dense(inputs, lengths, tokens)) < 1e-5
    structure = thinned(model, share)
    with Masker(model, model.unit_groups()).applied(structure.masks()):
        masked = model(inputs, lengths, tokens)
    small = extract(model, structure)
    assert isinstance(small, EncoderDecoder)
    assert relative(small(inputs, lengths, tokens), masked) < 1e-9
    costs = CostModel(model.unit_groups(), model.cost_terms(60)).structure_cost(structure)
    assert costs["size"] == parameters(small)
    terms = small.cost_terms(inputs.shape[1], tokens=tokens.shape[1])
    counted = count_macs(lambda: small(inputs[:1], lengths[:1], tokens[:1]))
    assert CostModel(small.unit_groups(), terms).dense == {"size": parameters(small), "macs": counted}
    again = EncoderDecoder(EncoderDecoderConfig.from_dict(dataclasses.asdict(small.config)))
    again.double().load_state_dict(small.state_dict(), strict=True)


@both
@torch.no_grad()
def test_masked_equals_extracted_for_single_weights(shape: dict[str, Any]) -> None:
    model = network(shape)
    (inputs, lengths), tokens, declared = utterances(model), transcripts(model), SingleWeights(model)
    structure = thinned(declared, 0.6)
    with Masker(model, declared.unit_groups()).applied(structure.masks()):
        masked = model(inputs, lengths, tokens)
    assert torch.equal(extract(model, structure)(inputs, lengths, tokens), masked)


@both
def test_the_encoder_alone_is_factored(shape: dict[str, Any]) -> None:
    encoder = network(shape).encoder
    factored = low_rank.factorise(encoder, low_rank.linear_names(encoder))
    assert isinstance(factored, AudioEncoder)
    inputs, lengths = utterances(network(shape))
    assert relative(factored(inputs, lengths).output, encoder(inputs, lengths).output) < 1e-4
    costs = CostModel(factored.unit_groups(), factored.cost_terms(60))
    assert costs.dense["size"] == parameters(encoder), "full ranks are stored dense"
    with pytest.raises(UserError, match="the residual width of a network with low-rank layers cannot be pruned"):
        factored.unit_groups(width=True)
    with pytest.raises(ValueError, match="encoder.ranks must be empty: give ranks for the whole network"):
        EncoderDecoderConfig(factored.config, network(shape).config.decoder)
