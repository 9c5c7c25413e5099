"""Hugging Face checkpoints: all forms that save_pretrained writes, and what is refused."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.importers.hugging_face import load_hf
from pruning.models import encoder_types as encoders
from pruning.models.hf_encoder import WEIGHT_NORMS, HfEncoder
from tests.models.speech_encoders import (
    SHAPES,
    check_exact,
    hf_values,
    largest_difference,
    random_structure,
    shape_name,
    stirred,
    utterances,
)

transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")
HEADS = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}


def written(directory: Path, shape: dict[str, Any], head: str = "ForCTC") -> HfEncoder:
    """Write a Hugging Face checkpoint to ``directory``; return its encoder."""
    name = HEADS[shape["model_type"]]
    torch.manual_seed(1)
    config = getattr(transformers, f"{name}Config")(**hf_values(shape, vocab_size=7))
    network = getattr(transformers, f"{name}{head}")(config)
    inner = network if head == "Model" else getattr(network, network.base_model_prefix)
    encoder = stirred(HfEncoder(inner))
    network.save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert isinstance(encoder, HfEncoder)
    return encoder


def as_pickle(directory: Path, change: Any = lambda tensors: tensors) -> None:
    """Replace the weights by ``pytorch_model.bin``."""
    tensors = load_file(directory / "model.safetensors")
    torch.save(change(dict(tensors)), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@torch.no_grad()
def assert_same(loaded: HfEncoder, original: HfEncoder) -> None:
    assert not loaded.training
    assert largest_difference(loaded(*utterances()), original(*utterances())) == 0


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_a_checkpoint_with_a_head_loads_is_pruned_and_reloads(tmp_path: Path, shape: dict[str, Any]) -> None:
    original = written(tmp_path / "hf", shape)
    loaded = load_hf(tmp_path / "hf")
    assert_same(loaded, original)
    small = check_exact(loaded, random_structure(loaded, 1, 0.6))
    path = tmp_path / "small.safetensors"
    checkpoint.save_model(path, small, {"model": encoders.describe(small)})
    again, _ = checkpoint.load_model(path, build=encoders.build)
    with torch.no_grad():
        assert largest_difference(again(*utterances()), small(*utterances())) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["Model", "ForPreTraining", "ForSequenceClassification"])
def test_any_head_is_left_out(tmp_path: Path, head: str, caplog: pytest.LogCaptureFixture) -> None:
    original = written(tmp_path, SHAPES[0], head)
    with caplog.at_level(logging.INFO):
        assert_same(load_hf(tmp_path), original)
    assert "left out tensors that do not belong to the encoder: masked_spec_embed" in caplog.text
    assert ("more" in caplog.text) == (head != "Model")


@pytest.mark.parametrize("names", WEIGHT_NORMS)
@pytest.mark.parametrize("pickled", [False, True])
def test_weight_norm_of_any_torch(tmp_path: Path, names: tuple[str, str], pickled: bool) -> None:
    original = written(tmp_path, SHAPES[0])

    def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for pair in WEIGHT_NORMS:
            for new, old in zip(names, pair):
                if f"wav2vec2.{old}" in tensors:
                    tensors[f"wav2vec2.{new}"] = tensors.pop(f"wav2vec2.{old}")
        assert f"wav2vec2.{names[0]}" in tensors
        return tensors

    if pickled:
        as_pickle(tmp_path, renamed)
    else:
        save_file(renamed(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors")
    assert_same(load_hf(tmp_path), original)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_computed_with_in_single(tmp_path: Path, dtype: torch.dtype) -> None:
    original = written(tmp_path, SHAPES[3])
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    loaded = load_hf(tmp_path)
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    original.to(dtype).float()
    assert_same(loaded, original)
    check_exact(loaded, random_structure(loaded, 1, 0.6))


def test_weights_in_several_files(tmp_path: Path) -> None:
    original = written(tmp_path, SHAPES[8])
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    parts = {f"model-0000{i + 1}-of-00002.safetensors": list(tensors)[i::2] for i in range(2)}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, tmp_path / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(load_hf(tmp_path), original)


def test_the_preprocessor_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, SHAPES[0])
    said: dict[str, Any] = {"do_normalize": True, "return_attention_mask": False, "sampling_rate": 16000}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    config = load_hf(tmp_path).config
    assert config.normalise_audio and not config.attention_mask
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert load_hf(tmp_path).config.normalise_audio, "as Hugging Face does"
    (tmp_path / "preprocessor_config.json").unlink()
    with caplog.at_level("WARNING"):
        assert load_hf(tmp_path).config.normalise_audio
    assert "has neither preprocessor_config.json nor processor_config.json: audio is normalised" in caplog.text
    nested = {"feature_extractor": {**said, "feature_extractor_type": "Wav2Vec2FeatureExtractor"}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert load_hf(tmp_path).config == config, "as transformers 5 writes it"
    nested["feature_extractor"]["sampling_rate"] = 8000
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    with pytest.raises(UserError, match="processor_config.json: sampling_rate must be 16000, got 8000"):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("[1]", "does not contain a configuration"),
        ('{"do_normalize": "false"}', "do_normalize must be true or false, got 'false'"),
        ('{"sampling_rate": 8000}', "sampling_rate must be 16000, got 8000"),
    ],
)
def test_a_preprocessor_that_is_not_understood_is_refused(tmp_path: Path, text: str, item: str) -> None:
    written(tmp_path, SHAPES[0])
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(UserError, match=item):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("change", "item"),
    [
        (lambda weight: weight.to(torch.int8), "has type torch.int8, so its weights are quantised"),
        (lambda weight: weight * float("nan"), "not finite"),
    ],
)
def test_weights_that_are_none_are_refused(tmp_path: Path, change: Any, item: str) -> None:
    """Copied into a network, they would be meaningless numbers."""
    written(tmp_path, SHAPES[0])
    path, name = tmp_path / "model.safetensors", "wav2vec2.encoder.layers.1.attention.k_proj.weight"
    tensors = load_file(path)
    save_file({**tensors, name: change(tensors[name])}, path)
    with pytest.raises(UserError, match=f"encoder.layers.1.attention.k_proj.weight .*{item}"):
        load_hf(tmp_path)


def test_names_of_tensors_are_words(tmp_path: Path) -> None:
    written(tmp_path, SHAPES[0])
    as_pickle(tmp_path, lambda tensors: {1: torch.zeros(1), **tensors})
    with pytest.raises(UserError, match="is not a dictionary of tensors by name"):
        load_hf(tmp_path)


def test_a_pointer_of_git_lfs_is_told(tmp_path: Path) -> None:
    written(tmp_path, SHAPES[0])
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(UserError, match="model.safetensors is a Git LFS pointer"):
        load_hf(tmp_path)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    written(tmp_path, SHAPES[0])
    as_pickle(tmp_path, lambda tensors: {**tensors, "harm": Harm()})
    with pytest.raises(UserError, match="mkdir"):
        load_hf(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    written(tmp_path, SHAPES[0])
    path, name = tmp_path / "model.safetensors", "encoder.layers.1.attention.k_proj.bias"
    tensors = load_file(path)
    whole = tensors.pop(f"wav2vec2.{name}")
    save_file(tensors, path)
    with pytest.raises(UserError, match=f"lacks tensors of the encoder: {name}"):
        load_hf(tmp_path)
    save_file({**tensors, f"wav2vec2.{name}": whole[1:].clone()}, path)
    with pytest.raises(UserError, match=rf"{name} has shape \(23,\), not \(24,\)"):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("changes", "item"),
    [
        ({"model_type": "whisper"}, "whisper"),
        ({"model_type": None}, "None"),
        ({"feat_extract_norm": "batch"}, "unsupported feat_extract_norm 'batch'"),
        ({"hidden_act": "gelu_fast"}, "gelu_fast"),
        ({"num_attention_heads": 5}, "config.json"),
        ({"num_attention_heads": 4.0}, "config.json: num_attention_heads must be a whole number, got 4.0"),
        ({"conv_stride": [5, 0, 2]}, "conv_stride"),
        ({"attention_dropout": None}, "invalid value of attention_dropout, None"),
        ({"layer_norm_eps": "1e-5"}, "layer_norm_eps"),
        ({"do_stable_layer_norm": "false"}, "do_stable_layer_norm must be one of False, True, got 'false'"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
    ],
)
def test_other_networks_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], item: str) -> None:
    written(tmp_path, SHAPES[0])
    change_config(tmp_path, **changes)
    with pytest.raises(UserError, match=item):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("files", "item"),
    [
        ({}, "no config.json"),
        ({"config.json": "{"}, "not valid JSON"),
        ({"config.json": "[1]"}, "does not contain a configuration"),
        ({"config.json": json.dumps(hf_values(SHAPES[0]))}, "neither model.safetensors nor pytorch_model.bin"),
        ({"config.json": json.dumps(hf_values(SHAPES[0])), "model.safetensors": "x"}, "not a complete safetensors"),
        ({"config.json": json.dumps(hf_values(SHAPES[0])), "pytorch_model.bin": "x"}, "not a readable torch"),
        ({"config.json": json.dumps(hf_values(SHAPES[0])), "model.safetensors.index.json": "{}"}, "no weight_map"),
    ],
)
def test_directories_that_are_no_checkpoint_are_refused(tmp_path: Path, files: dict[str, str], item: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=item):
        load_hf(tmp_path)


def test_a_name_is_looked_up_in_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake hub: a repository without safetensors, then no repository."""
    original, asked = written(tmp_path, SHAPES[0]), []
    as_pickle(tmp_path)

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, "pytorch_model.bin" in [p.replace("*", "") for p in allow_patterns]))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert_same(load_hf("someone/a-network"), original)
    assert asked == [("someone/a-network", False), ("someone/a-network", True)]

    def offline(*_: Any, **__: Any) -> str:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(UserError, match="someone/a-network is not a directory") as caught:
        load_hf("someone/a-network")
    assert "\n" not in str(caught.value)
