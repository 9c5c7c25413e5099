"""Whisper and Moonshine of Hugging Face: equal outputs, all forms of checkpoints, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.importers.encoder_decoder import configuration, load_encoder_decoder
from pruning.models.encoder_decoder import EncoderDecoder
from tests.models.encoder_decoders import (
    MOONSHINE,
    SHAPES,
    WHISPER,
    greedy,
    relative,
    stirred,
    transcripts,
    utterances,
)

transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")
NAMES = {"whisper": "Whisper", "moonshine": "Moonshine"}
with_moonshine = pytest.mark.skipif(not hasattr(transformers, "MoonshineConfig"),
                                    reason="Moonshine needs transformers 4.48 or newer")  # fmt: skip
ALL = [pytest.param(shape, id=name, marks=with_moonshine if "moonshine" in name else ())
       for name, shape in SHAPES.items()]  # fmt: skip
BOTH = [pytest.param(WHISPER, id="whisper"), pytest.param(MOONSHINE, id="moonshine", marks=with_moonshine)]


def written(directory: Path, shape: dict[str, Any], head: str = "ForConditionalGeneration") -> nn.Module:
    """Write a Hugging Face checkpoint to ``directory``; return its network."""
    name = NAMES[shape["model_type"]]
    torch.manual_seed(1)
    config = getattr(transformers, f"{name}Config").from_dict(dict(shape))
    network = stirred(getattr(transformers, f"{name}{head}")(config))
    network.save_pretrained(directory)  # type: ignore[operator]
    return network


def inputs_of(network: Any, inputs: Tensor) -> dict[str, Tensor]:
    """Return what Hugging Face calls the inputs."""
    return {"input_features": inputs.transpose(1, 2)} if inputs.ndim == 3 else {"input_values": inputs}


@pytest.mark.parametrize("shape", ALL)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=str)
@torch.no_grad()
def test_outputs_are_equal(tmp_path: Path, shape: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    if dtype == torch.float64 and not hasattr(transformers, "MoonshineConfig"):
        pytest.skip("the causal mask of transformers before 4.48 does not work in float64")
    theirs: Any = written(tmp_path, shape).to(dtype)
    ours = load_encoder_decoder(tmp_path).to(dtype)
    assert not ours.training
    inputs, lengths = utterances(ours, padding=False)
    inputs, tokens = inputs.to(dtype), transcripts(ours, 1)
    given = inputs_of(theirs, inputs)
    expected = theirs(**given, decoder_input_ids=tokens, output_hidden_states=True)
    encoded = ours.encoder(inputs, lengths)
    assert relative(encoded.output, expected.encoder_last_hidden_state) < tolerance
    assert len(encoded.layers) == len(expected.encoder_hidden_states)
    for mine, other in zip(encoded.layers[:-1], expected.encoder_hidden_states):
        assert relative(mine, other) < tolerance
    states = ours.decoder.states(tokens, ours.decoder.memory(encoded))
    for mine, other in zip(states[:-1], expected.decoder_hidden_states):
        assert relative(mine, other) < tolerance
    assert relative(ours(inputs, lengths, tokens), expected.logits) < tolerance


@pytest.mark.parametrize("shape", ALL)
def test_greedy_tokens_are_equal(tmp_path: Path, shape: dict[str, Any]) -> None:
    theirs: Any = written(tmp_path, shape)
    ours = load_encoder_decoder(tmp_path)
    (inputs, lengths), start = utterances(ours, padding=False), ours.config.decoder.start
    given, tokens, past = inputs_of(theirs, inputs), torch.tensor([[start]]), None
    expected: list[int] = []
    with torch.no_grad():
        encoded = theirs.get_encoder()(**given)
        for _ in range(12):
            result = theirs(encoder_outputs=encoded, decoder_input_ids=tokens, past_key_values=past, use_cache=True)
            tokens, past = result.logits[:, -1:].argmax(dim=2), result.past_key_values
            expected.append(int(tokens))
    assert greedy(ours, inputs, lengths, [start], 12).tolist() == [expected]


@pytest.mark.parametrize("shape", BOTH)
@pytest.mark.parametrize("change", ["half", "pickle", "parts", "body", "untied", "with output"])
def test_forms_of_checkpoints(tmp_path: Path, shape: dict[str, Any], change: str) -> None:
    """Weights in half precision, pickled, in several files, without the output layer, and with one of their own."""
    changes = {"tie_word_embeddings": False} if change == "untied" else {}
    head = "Model" if change == "body" else "ForConditionalGeneration"
    theirs: Any = written(tmp_path, {**shape, **changes}, head)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    if change == "half":
        theirs.half().float()
        save_file({name: tensor.half() for name, tensor in tensors.items()}, path)
    elif change == "pickle":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
        path.unlink()
    elif change == "parts":
        parts = {f"model-0000{i + 1}-of-00002.safetensors": list(tensors)[i::2] for i in range(2)}
        for file, names in parts.items():
            save_file({name: tensors[name] for name in names}, tmp_path / file)
        index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        path.unlink()
    elif change == "with output":
        save_file({**tensors, "proj_out.weight": tensors["model.decoder.embed_tokens.weight"].clone()}, path)
    ours = load_encoder_decoder(tmp_path)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    assert (ours.decoder.output is None) == (change != "untied")
    inputs, lengths = utterances(ours, padding=False)
    tokens = transcripts(ours, 1)
    with torch.no_grad():
        result = theirs(**inputs_of(theirs, inputs), decoder_input_ids=tokens)
        if change == "body":
            states = ours.decoder.states(tokens, ours.decoder.memory(ours.encoder(inputs, lengths)))
            assert relative(states[-1], result.last_hidden_state) < 1e-4
        else:
            assert relative(ours(inputs, lengths, tokens), result.logits) < 1e-4


def changed(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bart"}, "unsupported model_type 'bart'; give a checkpoint of whisper or moonshine"),
        ({"architectures": ["WhisperForAudioClassification"]},
         "unsupported architecture 'WhisperForAudioClassification'; give a checkpoint of one of"),
        ({"vocab_size": 60}, r"decoder.embed_tokens.weight has shape \(53, 24\), not \(60, 24\); give the config.json"),
        ({"encoder_layers": 4}, "lacks tensors of the network: encoder.layers.3.self_attn.q_proj.weight and 14 more"),
        ({"decoder_layers": 2}, "has tensors that the network does not have: decoder.layers.2.encoder_attn.k_proj"),
        ({"encoder_attention_heads": 5}, "the heads do not divide d_model 24; give a checkpoint of a standard"),
        ({"d_model": 0}, "d_model must be at least 1, got 0; correct it"),
        ({"activation_function": "mish"}, "activation_function must be one of gelu, relu, silu, swish, got 'mish'"),
        ({"scale_embedding": True}, "scale_embedding must be one of False, got True"),
        ({"eos_token_id": 70}, "end must be below vocab_size 53, got 70"),
    ],
)  # fmt: skip
def test_other_networks_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    written(tmp_path, WHISPER)
    changed(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        load_encoder_decoder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_num_key_value_heads": 1}, "decoder_num_key_value_heads must be 2, the number of heads"),
        ({"attention_bias": True}, "attention_bias must be one of False, got True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type must be one of default, got 'yarn'"),
        ({"partial_rotary_factor": 0.8}, "rotary_dim must be even and at most head_dim, got 9 and 12"),
        ({"hidden_size": None}, "config.json has no hidden_size; give the config.json of the network"),
    ],
)
def test_other_moonshines_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        configuration({**MOONSHINE, **changes})


def test_a_list_of_one_end() -> None:
    assert configuration({**MOONSHINE, "eos_token_id": [2]}) == configuration(MOONSHINE)
    with pytest.raises(UserError, match=r"eos_token_id must be one token, got \[2, 3\]"):
        configuration({**MOONSHINE, "eos_token_id": [2, 3]})


def test_absent_keys_are_named() -> None:
    values = {name: value for name, value in WHISPER.items() if name != "d_model"}
    with pytest.raises(UserError, match="config.json has no d_model; give the config.json of the network"):
        configuration(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "lacks tensors of the network: encoder.conv1.bias; give a complete checkpoint"),
        ("extra", "has tensors that the network does not have: encoder.adapter.weight; give the config.json"),
        ("output", "proj_out.weight differs from the embedding, although config.json says that they are the same"),
        ("infinite", "encoder.conv1.bias contains values that are not finite"),
        ("quantised", "encoder.conv1.bias has type torch.int8, so its weights are quantised"),
    ],
)
def test_tensors_are_checked(tmp_path: Path, change: str, message: str) -> None:
    written(tmp_path, WHISPER)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = "model.encoder.conv1.bias"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["model.encoder.adapter.weight"] = torch.zeros(2)
    elif change == "output":
        tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"] + 1
    elif change == "infinite":
        tensors[name] = tensors[name] * float("inf")
    else:
        tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, path)
    with pytest.raises(UserError, match=message):
        load_encoder_decoder(tmp_path)


@pytest.mark.parametrize(("name", "millions"), [("moonshine-tiny", 27.1), ("whisper-tiny.en", 37.8)])
def test_published_networks(name: str, millions: float) -> None:
    """Load networks with their real weights, if an environment variable says where they are."""
    directory = Path(os.environ.get("PRUNING_TEST_MODELS", "")) / name
    if "PRUNING_TEST_MODELS" not in os.environ or not directory.is_dir():
        pytest.skip(f"PRUNING_TEST_MODELS does not name a directory with {name}")
    if not hasattr(transformers, "MoonshineConfig") and "moonshine" in name:
        pytest.skip("Moonshine needs transformers 4.48 or newer")
    ours = load_encoder_decoder(directory)
    assert sum(parameter.numel() for parameter in ours.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    theirs = getattr(transformers, f"{NAMES[ours.config.encoder.family]}ForConditionalGeneration")
    theirs = theirs.from_pretrained(directory).eval()
    generator = torch.Generator().manual_seed(1)
    bins = ours.encoder.bins
    inputs = 0.1 * torch.randn((1, 3000, bins) if bins else (1, 40000), generator=generator)
    tokens = transcripts(ours, 1)
    with torch.no_grad():
        expected = theirs(**inputs_of(theirs, inputs), decoder_input_ids=tokens).logits
        assert relative(ours(inputs, torch.tensor([inputs.shape[1]]), tokens), expected) < 1e-4


def test_the_network_has_no_transformers(tmp_path: Path) -> None:
    written(tmp_path, WHISPER)
    model = load_encoder_decoder(tmp_path)
    assert isinstance(model, EncoderDecoder)
    assert all(type(module).__module__.startswith(("pruning.", "torch.")) for module in model.modules())
