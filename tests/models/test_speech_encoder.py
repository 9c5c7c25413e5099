"""Test our encoders of the wav2vec2 family: masks against extraction, costs against counts, configurations."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.core import low_rank
from pruning.core.cost import CostModel
from pruning.core.extraction import extract
from pruning.core.residual_width import ResidualWidth
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, check_groups
from pruning.errors import UserError
from pruning.models import encoder_types as encoders
from pruning.models import speech_encoder_units
from pruning.models.speech_encoder import SpeechEncoder
from pruning.models.speech_encoder_config import SpeechEncoderConfig
from tests.counter import count_macs
from tests.models.speech_encoders import (
    SHAPES,
    check_exact,
    check_gradients,
    config,
    hf_values,
    largest_difference,
    random_structure,
    shape_name,
    stirred,
    utterances,
)

BASE = {"model_type": "wav2vec2", "feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False,
        "conv_dim": [512] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16}  # fmt: skip


def network(shape: dict[str, Any], **changes: Any) -> SpeechEncoder:
    torch.manual_seed(1)
    model = stirred(SpeechEncoder(config(shape, **changes)))
    assert isinstance(model, SpeechEncoder)
    return model


def test_counts_of_wav2vec2_base() -> None:
    """Compare with the base network of arXiv 2006.11477, counted by hand."""
    base = config(BASE)
    groups = speech_encoder_units.unit_groups(base)

    def costs(seconds: int) -> CostModel:
        return CostModel(groups, speech_encoder_units.cost_terms(base, 16000 * seconds))

    ten, one = costs(10), costs(1)
    assert base.frames(160000)[-1] == 499 and base.frames(16000)[-1] == 49 and base.receptive_field == 400
    assert ten.dense["size"] == 94_371_712 - 768 - 128  # without the embedding of masked frames; weight norm folded
    assert ten.dense["macs"] / 1e9 == pytest.approx(74.1, abs=0.05)
    assert one.dense["macs"] / 1e9 == pytest.approx(6.907, abs=5e-4)
    kinds = ten.by_kind(ten.dense_counts())
    assert kinds["frontend"]["macs"] / ten.dense["macs"] == pytest.approx(0.331, abs=5e-4)
    assert kinds["frontend"]["size"] == pytest.approx(4.20e6, rel=1e-3)
    for kind, macs in (("frontend", 24.5), ("attention", 18.7), ("ffn", 28.3), ("positional", 2.35)):
        assert kinds[kind]["macs"] / 1e9 == pytest.approx(macs, abs=0.05), kind
    frontend = [term for term in ten.terms if term.kind == "frontend" and term.macs]
    by_layer = [term.macs * 512 ** len(term.groups) / 1e9 for term in frontend]
    assert by_layer == pytest.approx([0.16, 12.58, 6.29, 3.14, 1.57, 0.52, 0.26], abs=0.006)
    prices = dict(zip((group.name for group in groups), ten.prices("size").tolist()))
    assert prices["encoder.layers.3.attention.heads"] == 196_800
    assert prices["encoder.layers.3.feed_forward.hidden"] == 1_537


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_masked_equals_extracted_again_and_again(shape: dict[str, Any]) -> None:
    model = network(shape)
    check_groups(model, model.unit_groups())
    once = check_exact(model, random_structure(model, 1, 0.8))
    twice = check_exact(once, random_structure(once, 2, 0.7))
    again = encoders.build(json.loads(json.dumps(encoders.describe(twice))))
    again.load_state_dict(twice.state_dict(), strict=True)
    with torch.no_grad():
        assert largest_difference(again.eval()(*utterances()), twice(*utterances())) == 0


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(SHAPES[:8]), st.integers(0, 10_000), st.floats(0.2, 0.95), st.sampled_from([2, 4, 12, 24]))
def test_whole_groups_of_the_stream_can_go(shape: dict[str, Any], seed: int, keep: float, groups: int) -> None:
    """The residual width alone and with other units; the extracted network can be narrowed again and rebuilt."""
    model = network(shape, num_conv_pos_embedding_groups=groups)
    view = ResidualWidth(model)
    check_groups(model, view.unit_groups())
    structure = random_structure(view, seed, keep)
    if seed % 2:
        structure = Structure({name: units if units.kind == WIDTH else units.with_kept(range(units.size))
                               for name, units in structure.groups.items()})  # fmt: skip
    small = check_exact(model, structure, single=False)
    assert small.config.d_model == structure.count(WIDTH) * 24 // groups
    predicted = CostModel(view.unit_groups(), view.cost_terms(1600)).structure_cost(structure)
    assert predicted["size"] == sum(parameter.numel() for parameter in small.parameters())
    assert predicted["macs"] == count_macs(lambda: small(torch.randn(1, 1600), torch.tensor([1600])))
    dense = CostModel(model.unit_groups(), model.cost_terms(1600)).dense
    assert CostModel(view.unit_groups(), view.cost_terms(1600)).dense == dense
    check_exact(small.float(), random_structure(ResidualWidth(small), seed + 1, 0.8), single=False)
    encoders.build(encoders.describe(small)).load_state_dict(small.state_dict(), strict=True)


def test_a_stream_that_cannot_be_narrowed() -> None:
    """A WavLM's gates read it by heads. Units of several channels are not rounded where each is a multiple already."""
    with pytest.raises(UserError, match="width of WavLM cannot be pruned, because its gates read the stream by heads"):
        ResidualWidth(network(SHAPES[8])).unit_groups()
    view = ResidualWidth(network(SHAPES[0], num_conv_pos_embedding_groups=6))
    kept = {name: dataclasses.replace(units, kept=(0, 2, 5) if units.kind == WIDTH else units.kept,
                                      scores=tuple(map(float, range(units.size))))
            for name, units in Structure.dense(view.unit_groups()).groups.items()}  # fmt: skip
    assert Structure(kept).rounded(2, view.unit_groups()).count(WIDTH) == 3
    kept[WIDTH] = kept[WIDTH].with_kept((0, 2, 4, 5))
    assert Structure(kept).rounded(3, view.unit_groups()).count(WIDTH) == 3


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 10_000), st.floats(0.05, 0.95), st.integers(400, 3000))
def test_analytic_costs_equal_counted_ones(shape: dict[str, Any], seed: int, keep: float, samples: int) -> None:
    model = network(shape)
    structure = random_structure(model, seed, keep)
    small = check_exact(model, structure, single=False)
    predicted = CostModel(model.unit_groups(), model.cost_terms(samples)).structure_cost(structure)
    assert predicted["size"] == sum(parameter.numel() for parameter in small.parameters())
    assert predicted["macs"] == count_macs(lambda: small(torch.randn(1, samples), torch.tensor([samples])))
    own = CostModel(small.unit_groups(), small.cost_terms(samples))
    assert own.dense == predicted


@pytest.mark.parametrize("shape", SHAPES[::3], ids=shape_name)
def test_heads_keep_their_place_in_the_dense_network(shape: dict[str, Any]) -> None:
    """Head 2 of 4 owns rows 12 ... 17 (head_dim 6) and keeps its number 2 after another cut."""
    model = network(shape)
    masks = {"encoder.layers.1.attention.heads": torch.tensor([0.0, 1.0, 1.0, 0.0])}
    small = check_exact(model, Structure.from_masks(model.unit_groups(), masks))
    assert small.config.heads == ((0, 1, 2, 3), (1, 2), (0, 1, 2, 3))
    name = "encoder.layers.1.attention.k_proj.weight"
    assert torch.equal(small.state_dict()[name], model.state_dict()[name][6:18])
    masks = {"encoder.layers.1.attention.heads": torch.tensor([0.0, 1.0])}
    assert check_exact(small, Structure.from_masks(small.unit_groups(), masks)).config.heads[1] == (2,)


@pytest.mark.parametrize("shape", SHAPES[1::4], ids=shape_name)
def test_factored_layers_are_exact(shape: dict[str, Any]) -> None:
    dense = network(shape)
    model = low_rank.factorise(dense, low_rank.linear_names(dense))
    assert isinstance(model, SpeechEncoder)
    with torch.no_grad():
        assert largest_difference(model(*utterances()), dense(*utterances())) < 1e-4
    small = check_exact(model, random_structure(model, 3, 0.3, soft=False))
    after = CostModel(small.unit_groups(), small.cost_terms(1600)).dense
    assert after["size"] == sum(parameter.numel() for parameter in small.parameters())


def test_padding_changes_nothing_where_attention_leaves_it_out() -> None:
    """Holds with layer norm; a group norm over time includes padding."""
    model = network(SHAPES[2], num_conv_pos_embeddings=1)
    audio, lengths = utterances()
    with torch.no_grad():
        together, alone = model(audio, lengths), model(audio[1:2, :1200], lengths[1:2])
        frames = int(alone.lengths)
        assert torch.allclose(together.output[1, :frames], alone.output[0], atol=1e-5)
        noisy = torch.where(torch.arange(1600) < lengths[:, None], audio, torch.tensor(9.0))
        assert largest_difference(model(noisy, lengths), together) == 0, "padding is zeroed first"


def test_audio_is_normalised_within_its_length() -> None:
    model = SpeechEncoder(dataclasses.replace(config(SHAPES[0]), normalise_audio=True))
    audio, lengths = utterances()
    prepared = model.prepared(5 + 3 * audio, lengths)
    for row, length in zip(prepared, lengths.tolist()):
        assert row[:length].mean().abs() < 1e-5 and row[:length].var(unbiased=False) == pytest.approx(1, abs=1e-4)
        assert (row[length:] == 0).all()


def test_audio_shorter_than_a_frame_has_none() -> None:
    model = network(SHAPES[2])
    with torch.no_grad():
        encoded = model(torch.randn(1, 3), torch.tensor([3]))
    assert encoded.lengths.tolist() == [0] and encoded.output.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_gradients_do_not_depend_on_what_was_in_memory(shape: dict[str, Any]) -> None:
    check_gradients(network(shape))


def test_training_reaches_every_weight() -> None:
    for shape in SHAPES:
        model = network(shape).train()
        output = model(*utterances()).output
        (output * torch.randn_like(output)).sum().backward()
        assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_extraction_shares_no_memory() -> None:
    model = network(SHAPES[8])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in extract(model, Structure.dense(model.unit_groups())).parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "item"),
    [
        ({"model_type": "data2vec-audio"}, "data2vec-audio"),
        ({"feat_extract_norm": "batch"}, "'batch'"),
        ({"hidden_act": "mish"}, "mish"),
        ({"conv_dim": [4, 4]}, "must have the same length"),
        ({"add_adapter": True}, "add_adapter"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm"),
    ],
)
def test_configurations_of_other_networks_are_refused(changes: dict[str, Any], item: str) -> None:
    with pytest.raises(UserError, match=item):
        config(SHAPES[0], **changes)


def test_preprocessor_and_frontend_say_what_becomes_of_padding() -> None:
    defaults = dataclasses.asdict(config(SHAPES[0]))
    assert not defaults["attention_mask"] and config(SHAPES[2]).attention_mask
    values = {**hf_values(SHAPES[0]), **dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0),
        "hidden_act": "gelu", "feat_extract_activation": "gelu", "layer_norm_eps": 1e-5}  # fmt: skip
    told = SpeechEncoderConfig.from_hf(values, {"return_attention_mask": True, "do_normalize": True})
    assert told.attention_mask and told.normalise_audio


@pytest.mark.parametrize("changes", [{"heads": ((0, 1),) * 2}, {"heads": ((1, 0),) * 3}, {"heads": ((0, 4),) * 3}])
def test_heads_that_are_not_of_the_dense_network_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="heads"):
        dataclasses.replace(config(SHAPES[0]), **changes)
