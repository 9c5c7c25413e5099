"""Import of icefall's Zipformers: from state dicts with its names, and from its own modules if there is a checkout."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.core.cost import CostModel
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.importers import icefall_zipformer
from pruning.importers.icefall_checkpoint import Choice
from pruning.importers.icefall_teacher import import_experiment, load
from pruning.importers.icefall_zipformer import ZipformerOptions
from pruning.importers.zipformer_names import AROUND, UNUSED, layer_prefix, theirs
from pruning.models.chunk import Chunk
from pruning.models.icefall_encoder import RECIPES, importing_from
from pruning.models.prunable_zipformer import PrunableZipformer
from pruning.models.speech_model import SpeechModel
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.models.zipformer_config import ZipformerConfig
from pruning.models.zipformer_costs import cost_terms
from pruning.models.zipformer_stream import ZipformerStream
from pruning.models.zipformer_units import unit_groups
from pruning.speech.text.bpe import train as train_bpe
from tests.icefall.networks import checkout
from tests.models.zipformers import DOWNSAMPLING, HEADS, KERNELS, PUBLISHED, published

VOCABULARY, DECODER, JOINER = 11, 12, 10
OPTIONS = ZipformerOptions(query_head_dim=(5,), pos_head_dim=(2,), value_head_dim=(3,))
DIMENSIONS: dict[str, Any] = {
    "widths": (16, 24, 20), "stack_layers": (1, 2, 1), "downsampling": (1, 2, 4), "num_heads": (4, 4, 8),
    "query_dim": (5,), "position_dim": (2,), "value1_dim": (3,), "value2_dim": (3,), "ffn1_dim": (12, 18, 15),
    "ffn2_dim": (16, 24, 20), "ffn3_dim": (20, 30, 25), "nonlin_dim": (12, 18, 15), "conv1_channels": (16, 24, 20),
    "conv2_channels": (16, 24, 20), "conv_kernel": (7, 5, 3), "encoding_dim": 8, "subsampling_channels": (3, 4, 6),
    "convnext_dim": 18,
}  # fmt: skip


def transducer(ctc: bool = False, vocabulary: int = VOCABULARY, **others: Any) -> Transducer:
    """Return a small transducer as icefall's recipe has them."""
    torch.manual_seed(0)
    config = ZipformerConfig(**{**DIMENSIONS, **others})
    return Transducer(TransducerConfig(zipformer=config, vocab_size=vocabulary, decoder_dim=DECODER, joiner_dim=JOINER,
                                       blank_embedding=True, ctc=ctc, decoder_group=4)).eval()  # fmt: skip


def icefall_state(model: Transducer) -> dict[str, Tensor]:
    """Return the state dict that icefall's network with the same weights has."""
    config, state = model.config.zipformer, {}
    assert config is not None
    for name, tensor in model.state_dict().items():
        module, _, parameter = name.rpartition(".")
        if module in AROUND:
            state[f"{AROUND[module]}.{parameter}"] = tensor
        elif "feature_" not in name:
            state[theirs(config, name.removeprefix("encoder."))] = tensor
    for layer in range(config.num_layers):
        prefix = layer_prefix(config, layer)
        state[f"{prefix}{UNUSED}"] = torch.zeros(len(state[f"{prefix}norm.bias"]))
    return state


def imported(state: dict[str, Tensor], options: ZipformerOptions = OPTIONS, **settings: Any) -> Any:
    return icefall_zipformer.load(state, settings, options, "epoch-1.pt")


def refused(message: str, state: dict[str, Tensor], options: ZipformerOptions = OPTIONS, **settings: Any) -> None:
    with pytest.raises(UserError, match=message) as raised:
        imported(state, options, **settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ctc", [False, True])
def test_a_transducer_is_imported(causal: bool, ctc: bool) -> None:
    model = transducer(ctc, causal=causal)
    found = imported(icefall_state(model))
    assert found.config == model.config
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in found.state_dict().items())


def test_a_network_with_only_ctc_is_imported() -> None:
    model = transducer(ctc=True)
    heads = ("decoder.", "joiner.", "simple_")
    state = {name: tensor for name, tensor in icefall_state(model).items() if not name.startswith(heads)}
    found = imported(state)
    assert isinstance(found, SpeechModel)
    assert found.config.outputs == VOCABULARY
    features, lengths = torch.randn(1, 60, 80), torch.tensor([60])
    expected = model.ctc(model.encoder(features, lengths).output)
    assert torch.allclose(found(features, lengths).logits.log_softmax(dim=2), expected, atol=1e-5)
    refused("neither a joiner nor a CTC head", {k: v for k, v in state.items() if not k.startswith("ctc_output")})


def test_settings_of_the_checkpoint_come_before_defaults() -> None:
    model = transducer()
    settings = {"query_head_dim": "5", "pos_head_dim": "2,2,2", "value_head_dim": "3", "feature_dim": 80}
    assert imported(icefall_state(model), ZipformerOptions(), **settings).config == model.config
    assert imported(icefall_state(model), ZipformerOptions(num_heads=(4, 4, 8), downsampling_factor=(1, 2, 4)),
                    **settings).config == model.config  # fmt: skip
    assert imported(icefall_state(model), ZipformerOptions(), **{**settings, "query_head_dim": (5, 5, 5),
                    "pos_head_dim": [2]}).config == model.config  # fmt: skip
    refused("has query_head_dim 'wide', which is not a list of numbers; give the checkpoint as icefall wrote it",
            icefall_state(model), ZipformerOptions(), **{**settings, "query_head_dim": "wide"})  # fmt: skip
    refused("was trained with token 3 as blank, but blank must be token 0", icefall_state(model), blank_id=3)


def test_an_import_with_other_dimensions_is_refused(tmp_path: Path) -> None:
    """Two head dimensions may fit the same shapes."""
    lang_dir = tmp_path / "lang"
    texts = ["SOME WORDS OF A TEXT", "ANOTHER LINE WITH LETTERS", "QUITE ENOUGH OF THEM"]
    vocabulary = train_bpe(texts, lang_dir, 24, "unigram").vocab_size
    dims = {"query_dim": (6,), "position_dim": (2,), "value1_dim": (4,), "value2_dim": (4,)}
    torch.save({"model": icefall_state(transducer(vocabulary=vocabulary, **dims))}, tmp_path / "pretrained.pt")

    def run(heads: int) -> Transducer:
        options = ZipformerOptions(tuple(6 * heads for _ in range(1)), (2 * heads,), (4 * heads,))
        import_experiment(tmp_path / "pretrained.pt", Choice(), lang_dir, tmp_path / "exp", options=options)
        found, _ = checkpoint.load_model(tmp_path / "exp")
        assert isinstance(found, Transducer)
        return found

    first = run(1)
    assert run(1).config == first.config
    with pytest.raises(UserError, match="exp contains another network; remove it, or give another directory"):
        run(2)


def test_what_contradicts_the_shapes_is_refused() -> None:
    state, causal = icefall_state(transducer()), icefall_state(transducer(causal=True))
    refused("stack 0 of epoch-1.pt does not have heads of query, position and value dimensions 32, 4 and 12", state,
            ZipformerOptions())  # fmt: skip
    dims = {"query_head_dim": (5,), "pos_head_dim": (2,), "value_head_dim": (3,)}
    refused("has 4,4,8 heads, if those have the query, position and value dimensions 5,5,5; 2,2,2; 3,3,3, not 4,4,4; "
            "leave out --num-heads", state, ZipformerOptions(**dims, num_heads=(4,)))  # fmt: skip
    refused("downsamples by 1,2,4, not by 2,2,2", state, ZipformerOptions(**dims, downsampling_factor=(2,)))
    refused("has 2 values, but epoch-1.pt has 3 stacks", state, ZipformerOptions(**dims, num_heads=(4, 4)))
    refused("epoch-1.pt is causal; give --causal true", causal, ZipformerOptions(**dims, causal=False))
    refused("epoch-1.pt is not causal; give --causal false", state, ZipformerOptions(**dims, causal=True))
    refused("feature_dim of 40", state, feature_dim=40)


def test_what_contradicts_the_settings_of_the_checkpoint_is_refused() -> None:
    state, causal = icefall_state(transducer()), icefall_state(transducer(causal=True))
    settings = {"num_heads": "4,4,8", "query_head_dim": "5", "pos_head_dim": "2", "value_head_dim": "3",
                "downsampling_factor": "1,2,4", "causal": False}  # fmt: skip
    assert imported(state, **settings).config == imported(state, ZipformerOptions(), **settings).config
    half = ZipformerOptions(query_head_dim=(10,), pos_head_dim=(4,), value_head_dim=(6,))  # the same shapes
    assert imported(state, half).config.zipformer.num_heads != imported(state).config.zipformer.num_heads
    refused("was trained with query_head_dim 5,5,5, but --query-head-dim says 10,10,10; leave out --query-head-dim",
            state, half, **settings)  # fmt: skip
    for option, said in (("num_heads", "2,2,4"), ("downsampling_factor", "2,2,4")):
        flag, values = option.replace("_", "-"), tuple(map(int, said.split(",")))
        refused(f"was trained with {option} {settings[option]}, but --{flag} says {said}; leave out --{flag}",
                state, ZipformerOptions(**{option: values}), **settings)  # fmt: skip
    refused("has 4,4,8 heads, if those have the query, position and value dimensions 5,5,5; 2,2,2; 3,3,3, not 2,2,4 as "
            "its num_heads says; give --query-head-dim", state, num_heads="2,2,4")  # fmt: skip
    refused("has 2,2,4 heads, .*10,10,10; 4,4,4; 6,6,6, not 4,4,8 as its num_heads", state, half, num_heads="4,4,8")
    refused("downsamples by 1,2,4, not by 2,2,4 as its downsampling_factor says; give the checkpoint as icefall wrote",
            state, downsampling_factor=(2, 2, 4))  # fmt: skip
    refused("num_heads has 2 values, but epoch-1.pt has 3 stacks; give the checkpoint", state, num_heads="4,4")
    refused("is causal by its tensors, but its setting causal is False; give the checkpoint", causal, **settings)
    refused("is not causal by its tensors, but its setting causal is True", state, **{**settings, "causal": True})


def test_other_tensors_are_refused() -> None:
    state = icefall_state(transducer())
    refused("contains attention_decoder.x", {**state, "attention_decoder.x": torch.zeros(1)})
    refused("has no tensor simple_lm_proj.bias", {k: v for k, v in state.items() if k != "simple_lm_proj.bias"})
    name = "encoder.encoders.1.encoder.layers.1.conv_module2.out_proj.weight"
    refused(f"has {name} of shape", {**state, name: torch.zeros(24, 3)})
    refused("earlier recipe", {**state, "encoder.encoder_embed.conv.0.weight": torch.zeros(8, 1, 3, 3)})
    refused("has no tensor encoder.encoders.0.layers.0.self_attn_weights.in_proj.weight",
            {"encoder.encoders.0.layers.0.feed_forward1.in_proj.weight": torch.zeros(2, 2)})  # fmt: skip


def test_experiments_and_files_are_loaded(tmp_path: Path) -> None:
    model = transducer(causal=True)
    state = icefall_state(model)
    settings = {"query_head_dim": "5", "pos_head_dim": "2", "value_head_dim": "3", "causal": True}
    for number in (1, 2):
        scaled = {name: tensor * number for name, tensor in state.items()}
        torch.save({"model": scaled, "model_avg": {k: v.double() for k, v in scaled.items()}, "average_period": 1,
                    "batch_idx_train": 10 * number, **settings}, tmp_path / f"epoch-{number}.pt")  # fmt: skip
    averaged, found = load(tmp_path, Choice(epoch=2, avg=1))
    assert isinstance(averaged, Transducer)
    assert [path.name for path in found.files] == ["epoch-1.pt", "epoch-2.pt"]
    assert torch.allclose(averaged.simple_am.weight, 3 * model.simple_am.weight)  # (20 x 2 - 10 x 1) / 10
    torch.save({"model": state}, tmp_path / "pretrained.pt")
    plain, _ = load(tmp_path / "pretrained.pt", Choice(), options=OPTIONS)
    assert plain.config == averaged.config == model.config


PARAMETERS = {("S", False): 23_285_615, ("S", True): 23_627_887, ("M", False): 65_549_011, ("M", True): 66_110_931,
              ("L", False): 148_439_574, ("L", True): 149_281_046}  # fmt: skip


@pytest.mark.parametrize(("size", "causal"), PARAMETERS)
def test_parameters_of_whole_transducers_are_the_published_ones(size: str, causal: bool) -> None:
    """With the simple heads, and with a scale of each layer that icefall's network has but does not use."""
    config = published(size, causal=causal)
    encoder = CostModel(unit_groups(config), cost_terms(config, 1000)).dense["size"]
    unused = sum(stack.width * len(stack.layers) for stack in config.stacks)
    d, decoder, joiner, vocabulary = config.d_model, 512, 512, 500
    around = vocabulary * decoder + 8 * decoder  # embedding and convolution over two tokens in groups of four channels
    around += joiner * (d + decoder + 2) + vocabulary * (joiner + 1)  # joiner
    around += vocabulary * (d + decoder + 2)  # simple heads
    assert encoder + unused + around == PARAMETERS[size, causal]


@pytest.mark.parametrize(("size", "giga"), [("S", (6.09, 20.4)), ("M", (9.72, 31.6)), ("L", (17.1, 54.0))])
def test_macs_at_ten_and_thirty_seconds(size: str, giga: tuple[float, float]) -> None:
    """Those of the encoder and of the joiner's projection."""
    config = published(size)
    for seconds, expected in zip((10, 30), giga):
        macs = CostModel(unit_groups(config), cost_terms(config, 100 * seconds)).dense["macs"]
        macs += 25 * seconds * config.d_model * 512
        assert macs / 1e9 == pytest.approx(expected, rel=6e-3)


class Recipe:
    """Classes of icefall's recipe ``zipformer``."""

    def __init__(self, directory: Path) -> None:
        with importing_from(directory / RECIPES / "zipformer", directory):
            names = ("zipformer", "subsampling", "scaling", "decoder", "joiner", "model")
            self.modules = {name: importlib.import_module(name) for name in names}
        scaling = self.modules["scaling"]
        # k2's activations compute in float32 whatever the precision of their input
        scaling.SwooshL.forward = lambda _, x: scaling.SwooshLForward(x)
        scaling.SwooshR.forward = lambda _, x: scaling.SwooshRForward(x)

    def network(self, size: str, causal: bool) -> Any:
        """Return the whole network, with weights away from the initial ones, in evaluation mode."""
        layers, hidden, widths = PUBLISHED[size]
        torch.manual_seed(1)
        modules = self.modules
        network = modules["model"].AsrModel(
            modules["subsampling"].Conv2dSubsampling(80, widths[0], dropout=0.0),
            modules["zipformer"].Zipformer2(2, DOWNSAMPLING, widths, layers, (192,), (32,), (4,), (12,), HEADS, hidden,
                                            KERNELS, 48, 0.0, causal=causal, chunk_size=[-1], left_context_frames=[-1]),
            modules["decoder"].Decoder(500, 512, 0, 2),
            modules["joiner"].Joiner(max(widths), 512, 512, 500),
            encoder_dim=max(widths), use_ctc=True,
        ).eval()  # fmt: skip
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith("bypass_scale"):
                    parameter.uniform_(0.2, 1.0)
                else:
                    parameter.add_(0.05 * torch.randn_like(parameter) * (parameter.std() if parameter.ndim > 1 else 1))
        return network


@pytest.fixture(scope="module")
def recipe() -> Iterator[Recipe]:
    yield Recipe(checkout())


def _error(ours: Tensor, expected: Tensor, lengths: Tensor) -> float:
    valid = torch.arange(ours.shape[1]) < lengths[:, None]
    return float((ours - expected)[valid].abs().max() / expected[valid].abs().max())


@pytest.mark.parametrize("size", PUBLISHED)
@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_outputs_equal_those_of_icefall(recipe: Recipe, size: str, causal: bool) -> None:
    network = recipe.network(size, causal)
    state = network.state_dict()
    unused = sum(tensor.numel() for name, tensor in state.items() if name.startswith("ctc_output"))
    assert sum(parameter.numel() for parameter in network.parameters()) - unused == PARAMETERS[size, causal]
    model = imported(state, ZipformerOptions())
    features, lengths = torch.randn(2, 171, 80), torch.tensor([171, 122])
    for double in (False, True):
        if double:
            network, model, features = network.double(), model.double(), features.double()
        tolerance = 1e-9 if double else 1e-4
        for index in range(2):  # each utterance alone
            one, length = features[index : index + 1, : lengths[index]], lengths[index : index + 1]
            expected, left = network.forward_encoder(one, length)
            assert _error(model(one, length).output, expected, left) < tolerance
            alone = model(features, lengths)
            assert _error(alone.output[index : index + 1, : left[0]], expected, left) < tolerance
        if double:
            assert torch.allclose(model.ctc(expected), network.ctc_output(expected))
            tokens = torch.tensor([[0, 3, 499]])
            assert torch.allclose(model.decoder(tokens), network.decoder(tokens))
            history = model.decoder(tokens)[:, None]
            joined = network.joiner(expected[:, :, None], history)
            assert torch.allclose(model.joiner(expected[:, :, None], history), joined)
    _check_batches(network, model, features, lengths, causal)


def _check_batches(network: Any, model: Any, features: Tensor, lengths: Tensor, causal: bool) -> None:
    """Check padded batches, in which icefall's padding reaches into utterances, and chunks of a causal network."""
    config = {**vars(model.config.zipformer), "isolated": False}
    batched = PrunableZipformer(ZipformerConfig(**config)).double().eval()
    batched.load_state_dict(model.encoder.state_dict())
    for size, context in ((0, 0), (16, 128), (32, 0), (64, 300)) if causal else ((0, 0),):
        network.encoder.chunk_size, network.encoder.left_context_frames = [size or -1], [context or -1]
        expected, left = network.forward_encoder(features, lengths)
        found = batched(features, lengths, chunk=Chunk(size, context).in_whole_chunks())
        assert torch.equal(found.lengths, left)
        assert _error(found.output, expected, left) < 1e-9


@torch.no_grad()
def test_streams_equal_those_of_icefall(recipe: Recipe) -> None:
    network = recipe.network("S", True).double()
    model = imported(network.state_dict(), ZipformerOptions()).double()
    stream = ZipformerStream(model.encoder, Chunk(16, 128))
    taken, _ = stream.feature_frames
    network.encoder.chunk_size, network.encoder.left_context_frames = [16], [128]
    front, ours = network.encoder_embed.get_init_states(2).double(), stream.start(2)
    states = [state.double() for state in network.encoder.get_init_states(2)]
    for index in range(4):
        chunk = torch.randn(2, taken, 80, dtype=torch.float64)
        output, ours = stream.step(chunk, ours)
        x, lengths, front = network.encoder_embed.streaming_forward(chunk, torch.full((2,), taken), front)
        before = torch.arange(128, 0, -1) > 16 * index  # frames before the stream
        closed = torch.cat([before.expand(2, -1), torch.zeros(2, 16, dtype=torch.bool)], dim=1)
        expected, _, states = network.encoder.streaming_forward(x.transpose(0, 1), lengths, states, closed)
        assert _error(output, expected.transpose(0, 1), torch.full((2,), 8)) < 1e-9


def test_names_and_shapes_are_those_of_icefall() -> None:
    """As a digest of those of its network S, with and without a checkout."""
    assert _digest(published("S")) == DIGESTS[False]
    assert _digest(published("S", causal=True)) == DIGESTS[True]


DIGESTS = {
    False: "72af0fd5ad255be060a5d298e55969a582d8d851c7e0fe898c5a4cdfbaf68bfa",
    True: "19aefb1bdfaf2ad787f5a213f4b5282dc4f424616d728ac707102a34bc9b7967",
}


def _digest(config: ZipformerConfig) -> str:
    model = Transducer(TransducerConfig(zipformer=config, vocab_size=500, decoder_group=4, ctc=True))
    return digest(icefall_state(model))


def digest(state: dict[str, Tensor]) -> str:
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("causal", [False, True])
def test_the_digest_is_that_of_icefall(recipe: Recipe, causal: bool) -> None:
    state = recipe.network("S", causal).state_dict()
    assert digest(state) == DIGESTS[causal]
