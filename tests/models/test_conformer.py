"""Test the Conformer: shapes, padding, relative positions, and the published parameter counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pruning.core.cost import CostModel
from pruning.models import conformer_units
from pruning.models.attention import relative_positions, relative_shift
from pruning.models.conformer import ConformerConfig, ConformerEncoder, depthwise_convolution
from pruning.models.subsampling import subsampled
from pruning.models.transducer import StatelessDecoder, Transducer, TransducerConfig


def encoder_config(d: int, hidden: int, layers: int, heads: int, **others: object) -> ConformerConfig:
    return ConformerConfig(
        d_model=d,
        num_layers=layers,
        head_dim=d // heads,
        num_heads=(heads,),
        macaron_dim=(hidden,),
        ffn_dim=(hidden,),
        conv_channels=(d,),
        **others,  # type: ignore[arg-type]
    )


def tiny(**others: object) -> TransducerConfig:
    settings: dict = {"conv_kernel": 5, "subsampling_channels": (3, 4), "subsampling_strides": (2, 2), **others}
    encoder = encoder_config(16, 24, 2, 4, **settings)
    return TransducerConfig(encoder=encoder, vocab_size=11, decoder_dim=8, joiner_dim=8)


@pytest.mark.parametrize(
    ("d", "layers", "heads", "millions", "shares"),
    [
        (256, 12, 4, 31.7, {"ffn": 79.6, "attention": 12.5, "convolution": 7.8}),
        (512, 12, 8, 75.9, {"ffn": 66.4, "attention": 20.8, "convolution": 12.7}),
        (512, 17, 8, 107.5, {"ffn": 66.4, "attention": 20.8, "convolution": 12.7}),
    ],
)
def test_published_counts(d: int, layers: int, heads: int, millions: float, shares: dict[str, float]) -> None:
    config = encoder_config(d, 2048, layers, heads)
    model = CostModel(conformer_units.unit_groups(config), conformer_units.cost_terms(config, 1000))
    kinds = {kind: row["size"] for kind, row in model.by_kind(model.dense_counts()).items() if kind != "subsampling"}
    blocks = sum(kinds.values())
    assert blocks / 1e6 == pytest.approx(millions, abs=0.05)
    for kind, share in shares.items():
        assert 100 * kinds[kind] / blocks == pytest.approx(share, abs=0.11)


def test_scaled_keeps_layers_and_heads_and_what_is_gone() -> None:
    config = dataclasses.replace(encoder_config(64, 128, 3, 4), ffn_dim=(128, 0, 2), dropout=0.0)
    half = config.scaled(32)
    assert (half.d_model, half.head_dim, half.num_heads) == (32, 8, (4, 4, 4))
    assert half.macaron_dim == (64, 64, 64) and half.ffn_dim == (64, 0, 1) and half.conv_channels == (32, 32, 32)
    assert half.subsampling_channels == (4, 16, 64) and config.scaled(64) == config
    assert config.scaled(2).head_dim == 1


def test_reach_without_the_subsampling() -> None:
    config = encoder_config(144, 576, 6, 4)
    model = CostModel(conformer_units.unit_groups(config), conformer_units.cost_terms(config, 1000))
    blocks = [group for group in model.groups if group.kind != "subsampling"]
    reachable = model.reachable(blocks)
    # the published 0.884 keeps the norms before closed modules; here they are removed with the module
    assert reachable["size"] == pytest.approx(0.884, abs=0.003)
    assert reachable["macs"] == pytest.approx(0.761, abs=0.001)
    assert model.reachable(model.groups)["macs"] > 0.99


@pytest.mark.parametrize(("strides", "channels"), [((2, 2), (3, 4)), ((1, 2, 2), (3, 4, 5))])
@pytest.mark.parametrize("frames", [7, 8, 9, 10, 50, 83])
def test_subsampling_by_four(strides: tuple[int, ...], channels: tuple[int, ...], frames: int) -> None:
    config = tiny(subsampling_channels=channels, subsampling_strides=strides).encoder
    output = ConformerEncoder(config).eval()(torch.randn(1, frames, 80), torch.tensor([frames]))
    expected = ((frames - 1) // 2 - 1) // 2
    assert output.output.shape == (1, expected, 16)
    assert output.lengths.tolist() == [expected] == [subsampled(frames, strides)]


def test_relative_shift_against_indexing() -> None:
    scores = torch.randn(2, 3, 5, 9)
    shifted = relative_shift(scores)
    for i in range(5):
        for j in range(5):
            assert torch.equal(shifted[:, :, i, j], scores[:, :, i, 4 - (i - j)])


def test_relative_shift_and_its_gradient_equal_the_plain_form() -> None:
    whole = torch.randn(2, 3, 12, 9, dtype=torch.float64, requires_grad=True)
    scores = whole[:, :, 2:7]  # not contiguous, not at the start of its storage
    assert torch.equal(relative_shift(scores), relative_shift(scores.detach()))
    assert torch.autograd.gradcheck(relative_shift, (scores,))
    weight = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((relative_shift(scores) * weight).sum(), whole)
    for i in range(5):
        for j in range(5):
            assert torch.equal(gradient[:, :, 2 + i, 4 - (i - j)], weight[:, :, i, j])
    assert (gradient != 0).sum() == weight.numel()


@pytest.mark.parametrize("channels", [1, 5, 8])
def test_depthwise_convolution_is_the_module_applied_to_channels_first(channels: int) -> None:
    convolution = torch.nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
    x = torch.randn(2, 11, channels)
    expected = convolution(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(depthwise_convolution(x, convolution), expected)


def test_relative_positions_are_sinusoids_of_the_distance() -> None:
    table = relative_positions(4, 6, torch.device("cpu"), torch.float32)
    assert table.shape == (7, 6)
    assert torch.allclose(table[3], torch.tensor([0.0, 1, 0, 1, 0, 1]))
    assert table[0, 0].item() == pytest.approx(torch.sin(torch.tensor(3.0)).item())


@pytest.mark.parametrize(
    ("strides", "channels"),
    [((2, 2), (3, 4)), ((1, 2, 2), (3, 4, 5)), ((2, 1, 2), (3, 4, 5)), ((1, 1, 2, 2), (3, 3, 4, 5))],
)
def test_padding_changes_nothing(strides: tuple[int, ...], channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Transducer(tiny(subsampling_channels=channels, subsampling_strides=strides)).eval()
    model.encoder.set_feature_statistics(torch.randn(80), torch.rand(80) + 0.5)
    long, short = torch.randn(1, 90, 80), torch.randn(1, 51, 80)  # subsampling reads all 51 frames
    batch = torch.cat([long, torch.nn.functional.pad(short, (0, 0, 0, 39), value=-23.0)])
    together = model(batch, torch.tensor([90, 51]))
    alone = model(short, torch.tensor([51]))
    assert together.lengths.tolist() == [21, 12]
    assert torch.allclose(together.output[1, :12], alone.output[0], atol=1e-5)


@pytest.mark.parametrize(("strides", "channels"), [((2, 2), (3, 4)), ((1, 2, 2), (3, 4, 5)), ((2, 1, 2), (3, 4, 5))])
@pytest.mark.parametrize("frames", [0, 1, 2, 3, 6])
def test_too_short_a_cut_gives_no_frames_alone_or_in_a_batch(
    strides: tuple[int, ...], channels: tuple[int, ...], frames: int
) -> None:
    model = Transducer(tiny(subsampling_channels=channels, subsampling_strides=strides)).eval()
    features = torch.randn(2, 40, 80)
    alone = model(features[:1, :frames], torch.tensor([frames]))
    together = model(features, torch.tensor([frames, 40]))
    assert alone.lengths.tolist() == [0]
    assert together.lengths.tolist() == [0, 9]
    assert alone.output.isfinite().all() and together.output.isfinite().all()


def test_the_residual_stream_keeps_the_precision_of_the_features() -> None:
    torch.manual_seed(0)
    model = Transducer(tiny(dropout=0.0)).eval()
    features, lengths = torch.randn(2, 60, 80), torch.tensor([60, 50])
    expected = model(features, lengths).output
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = model(features, lengths, return_layers=True)
        ctc = model.ctc(expected)
    assert {layer.dtype for layer in encoded.layers} == {torch.float32}
    assert not torch.equal(encoded.output, expected), "the modules do compute in bf16"
    assert (encoded.output - expected).abs().max() < 0.05 * expected.abs().max()
    assert ctc.dtype == torch.float32 and torch.equal(ctc, model.ctc(expected))
    double = model.double()
    assert double(features.double(), lengths).output.dtype == double.ctc(expected.double()).dtype == torch.float64


def test_feature_statistics_normalise() -> None:
    torch.manual_seed(0)
    model = Transducer(tiny()).eval()
    mean, deviation = torch.randn(80), torch.rand(80) + 0.5
    features, lengths = torch.randn(1, 40, 80), torch.tensor([40])
    plain = model(features, lengths).output
    model.encoder.set_feature_statistics(mean, deviation)
    assert torch.allclose(model(features * deviation + mean, lengths).output, plain, atol=1e-5)


def test_layers_are_returned_on_request() -> None:
    model = Transducer(tiny()).eval()
    encoded = model(torch.randn(1, 40, 80), torch.tensor([40]), return_layers=True)
    assert len(encoded.layers) == 3
    assert torch.equal(encoded.layers[-1], encoded.output)
    assert model(torch.randn(1, 40, 80), torch.tensor([40])).layers == []


def test_a_frame_alone_in_its_batch_can_be_trained_on() -> None:
    """The last batch of an epoch may be a single utterance of a tenth of a second."""
    model = Transducer(tiny()).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    for frames in (3, 7, 10):
        model(torch.randn(1, frames, 80), torch.tensor([frames])).output.sum().backward()
    assert all(torch.isfinite(value).all() for value in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers()), "no statistics of one frame"


def test_gradients_reach_every_parameter_of_the_encoder() -> None:
    model = Transducer(tiny())
    model(torch.randn(2, 60, 80), torch.tensor([60, 50])).output.square().sum().backward()
    for name, parameter in model.encoder.named_parameters():
        assert parameter.grad is not None, name
        # adding a constant to all keys of a head does not change its softmax
        if name.endswith("in_proj.bias"):
            continue
        assert parameter.grad.abs().sum() > 0, name


def test_decoder_pads_in_training_and_not_in_decoding() -> None:
    torch.manual_seed(0)
    decoder = StatelessDecoder(11, 8, 3)
    tokens = torch.tensor([[0, 5, 2, 7, 1]])
    whole = decoder(tokens, pad=True)
    assert whole.shape == (1, 5, 8)
    context = torch.tensor([[2, 7, 1]])
    assert torch.allclose(decoder(context, pad=False), whole[:, 4:], atol=1e-6)
    start = torch.tensor([[-1, -1, 0]])
    assert torch.allclose(decoder(start, pad=False), whole[:, :1], atol=1e-6), "ids below 0 count as blank"


def test_joiner_broadcasts_with_and_without_projection() -> None:
    model = Transducer(tiny())
    encoder_out, decoder_out = torch.randn(2, 5, 1, 16), torch.randn(2, 1, 3, 8)
    logits = model.joiner(encoder_out, decoder_out)
    assert logits.shape == (2, 5, 3, 11)
    projected = model.joiner.encoder_proj(encoder_out), model.joiner.decoder_proj(decoder_out)
    assert torch.allclose(logits, model.joiner(*projected, project=False))


@pytest.mark.parametrize(
    "wrong", [{"conv_kernel": 4}, {"subsampling_strides": (2, 1)}, {"num_heads": (4, 4, 4)},
              {"subsampling_channels": (3, 4, 5), "subsampling_strides": (2, 2, 2)}]
)  # fmt: skip
def test_impossible_dimensions_are_refused(wrong: dict) -> None:
    settings: dict = {
        "d_model": 16, "num_layers": 2, "head_dim": 4, "num_heads": (4,), "macaron_dim": (8,), "ffn_dim": (8,),
        "conv_channels": (16,), "subsampling_channels": (3, 4), "subsampling_strides": (2, 2), **wrong,
    }  # fmt: skip
    with pytest.raises(ValueError, match="must be odd|subsample by 4|entries for 2 layers"):
        ConformerEncoder(ConformerConfig(**settings))


def test_per_layer_dimensions_and_absent_modules() -> None:
    config = tiny(dropout=0.0).encoder
    from dataclasses import replace

    config = replace(config, num_heads=(0, 2), macaron_dim=(0, 5), ffn_dim=(0, 7), conv_channels=(0, 6))
    model = ConformerEncoder(config).eval()
    assert sorted({name.split(".")[2] for name, _ in model.named_parameters() if name.startswith("layers.0")}) == [
        "final_norm"
    ]
    assert model(torch.randn(1, 30, 80), torch.tensor([30])).output.isfinite().all()
    assert conformer_units.existing_layers(config) == [False, True]
