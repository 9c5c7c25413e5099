"""Llama, SmolLM2 and Qwen2 of Hugging Face: equal outputs, all forms of checkpoints, their tokens, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruning.bin import import_hf
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.importers.llama import configuration, load_llama
from pruning.models.transformer_lm import TransformerLM
from pruning.speech.text.network_tokens import NetworkTokens
from tests.models.encoder_decoders import relative, stirred

transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")
BASE = {
    "model_type": "llama", "vocab_size": 53, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 1000.0, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
OLD = tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (4, 45)
LINEAR = {"type": "linear", "factor": 4.0} if OLD else {"rope_type": "linear", "factor": 4.0}
BIASES = {"attention_bias": True} if OLD else {"attention_bias": True, "mlp_bias": True}
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": BASE,
    "llama": {**BASE, "tie_word_embeddings": False, "num_key_value_heads": 4, **BIASES},
    "llama linear": {**BASE, "rope_scaling": LINEAR},
    "llama 3": {**BASE, "rope_scaling": LLAMA3, "tie_word_embeddings": False, "head_dim": 12},
    "qwen2": {**BASE, "model_type": "qwen2", "num_key_value_heads": 1},
}
ALL = [pytest.param(shape, id=name, marks=[pytest.mark.skipif(OLD, reason="older transformers lack llama3")]
                    if "llama 3" in name else []) for name, shape in SHAPES.items()]  # fmt: skip


def written(directory: Path, shape: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """Write a Hugging Face checkpoint to ``directory``; return its network."""
    name = {"llama": "Llama", "qwen2": "Qwen2"}[shape["model_type"]]
    torch.manual_seed(1)
    config = getattr(transformers, f"{name}Config").from_dict(dict(shape))
    config._attn_implementation = "eager"
    network: Any = stirred(getattr(transformers, f"{name}ForCausalLM")(config))
    network.save_pretrained(directory)
    return network.to(dtype)


def tokens_of(shape: dict[str, Any]) -> Tensor:
    return torch.randint(shape["vocab_size"], (2, 30), generator=torch.Generator().manual_seed(2))


def in_double(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let norms and softmax, which transformers computes in float32, keep float64."""
    for module in network.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = lambda x, m=module: (
                m.weight
                * (  # type: ignore[method-assign,assignment]
                    x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon)
                )
            )
    softmax = nn.functional.softmax
    monkeypatch.setattr(nn.functional, "softmax", lambda x, dim=None, dtype=None: softmax(x, dim=dim))


@pytest.mark.parametrize("shape", ALL)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=str)
@torch.no_grad()
def test_outputs_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    theirs, ours, tokens = written(tmp_path, shape, dtype), load_llama(tmp_path).to(dtype), tokens_of(shape)
    if dtype == torch.float64:
        if OLD and shape["model_type"] == "qwen2":
            pytest.skip("the causal mask of older transformers does not work in float64")
        in_double(theirs, monkeypatch)
    assert not ours.training and all(type(module).__module__.startswith(("pruning.", "torch."))
                                     for module in ours.modules())  # fmt: skip
    expected = theirs.lm_head(theirs.model(tokens)[0])  # older transformers return logits in float32
    assert relative(ours(tokens), expected) < tolerance
    found, state = ours.step(tokens[:, 0], ours.start(2))
    found, _ = ours.step(tokens[:, 1], state)
    assert relative(found, expected[:, 1].log_softmax(dim=1)) < 1e-4


@pytest.mark.parametrize("change", ["half", "pickle", "parts", "pickled parts", "with output"])
def test_forms_of_checkpoints(tmp_path: Path, change: str) -> None:
    """Weights in half precision, pickled, in several files of which each is opened once, and with the tied output."""
    theirs, tokens = written(tmp_path, BASE), tokens_of(BASE)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    if change == "half":
        for parameter in theirs.parameters():
            parameter.data = parameter.data.half().float()
        save_file({name: tensor.half() for name, tensor in tensors.items()}, path)
    elif change == "with output":
        save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    else:
        in_parts = 2 if "parts" in change else 1
        path.unlink()
        stem, end = ("model", "safetensors") if change == "parts" else ("pytorch_model", "bin")
        save = save_file if change == "parts" else torch.save
        files = [f"{stem}-{part}.{end}" if in_parts > 1 else f"{stem}.{end}" for part in range(in_parts)]
        weight_map = {name: files[place % in_parts] for place, name in enumerate(tensors)}
        for file in files:
            save({name: tensor for name, tensor in tensors.items() if weight_map[name] == file}, tmp_path / file)
        if in_parts > 1:
            (tmp_path / f"{stem}.{end}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    ours = load_llama(tmp_path)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    with torch.no_grad():
        assert relative(ours(tokens), theirs(tokens).logits) < 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "unsupported model_type 'mistral'; give a checkpoint of llama or qwen2"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "unsupported architecture 'LlamaForSequenceClass.*; "
         "give a checkpoint of LlamaForCausalLM"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "unsupported rope_scaling of type 'yarn'; give a "
         "network with one of default, linear, llama3"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "unsupported rope_scaling of type 'dynamic'"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
         r"a sliding window is used \(use_sliding_window\), which is not supported"),
        ({"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}, "a sliding window is used"),
        ({"quantization_config": {"bits": 4}}, "describes a quantised network; give the checkpoint before"),
        ({"num_key_value_heads": 3}, "the 3 key/value heads do not divide the 4 query heads"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "the 5 heads do not divide hidden_size 32"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"hidden_act": "gelu_new"}, "hidden_act must be one of gelu, relu, silu, swish, got 'gelu_new'"),
        ({"vocab_size": None}, "config.json has no vocab_size; give the config.json of the network"),
        ({"rope_scaling": {"rope_type": "linear"}}, "config.json has no factor"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor must be"),
    ],
)  # fmt: skip
def test_other_networks_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        configuration({**BASE, **changes})


def test_a_window_that_is_not_used_is_no_window() -> None:
    for changes in ({"use_sliding_window": False, "sliding_window": 8},
                    {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}):  # fmt: skip
        assert configuration({**BASE, "model_type": "qwen2", **changes}).biased == ("in_proj",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "lacks tensors of the network: model.layers.1.mlp.up_proj.weight; give a complete checkpoint"),
        ("extra", "has tensors that the network does not have: model.layers.0.self_attn.q_norm.weight; give the"),
        ("output", "lm_head.weight differs from the embedding, although config.json says that they are the same"),
        ("infinite", "model.layers.1.mlp.up_proj.weight contains values that are not finite"),
        ("shape", r"model.layers.1.mlp.up_proj.weight has shape \(39, 32\), not \(40, 32\)"),
        ("part", "lacks model-2.safetensors, which model.safetensors.index.json names; copy it again"),
    ],
)
def test_tensors_are_checked(tmp_path: Path, change: str, message: str) -> None:
    written(tmp_path, BASE)
    path, name = tmp_path / "model.safetensors", "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(path)
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["model.layers.0.self_attn.q_norm.weight"] = torch.zeros(2)
    elif change == "output":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    elif change == "infinite":
        tensors[name] = tensors[name] * float("inf")
    elif change == "shape":
        tensors[name] = tensors[name][1:].contiguous()
    save_file(tensors, path)
    if change == "part":
        path.rename(tmp_path / "model-1.safetensors")
        files = {name: f"model-{1 + place % 2}.safetensors" for place, name in enumerate(tensors)}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(UserError, match=message):
        load_llama(tmp_path)


def with_tokens(directory: Path, symbols: tuple[str, ...], **settings: Any) -> int:
    """Write byte-level word pieces after special ``symbols`` to ``directory``; return their number."""
    tokenizers = pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(symbols), show_progress=False, initial_alphabet=letters
    )
    tokenizer.train_from_iterator(["the birds are here", "is it the end"] * 3, trainer)
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return int(tokenizer.get_vocab_size())


def imported(
    place: Path, symbols: tuple[str, ...], *options: str, extra: int = 0, positions: int = 64, **settings: Any
) -> NetworkTokens:
    """Import a network whose embedding has ``extra`` more tokens than its tokenizer."""
    size = with_tokens(place / "source", symbols, **settings)
    written(place / "source", {**BASE, "vocab_size": size + extra, "max_position_embeddings": positions})
    import_hf.main(["--source", str(place / "source"), "--exp-dir", str(place / "exp"), *options])
    return NetworkTokens(place / "exp" / "lang")


def test_an_experiment_reloads(tmp_path: Path) -> None:
    tokens = imported(tmp_path, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), bos_token="<|im_start|>")
    assert (tokens.form.start, tokens.form.end) == ((0,), 0)
    model, header = checkpoint.load_model(tmp_path / "exp")
    tokens.check_matches(header["tokenizer"])
    given = tokens_of(BASE)
    assert isinstance(model, TransformerLM) and header["pretrained"] == "source"
    assert torch.equal(model(given), load_llama(tmp_path / "source")(given))
    assert tokens.decode(tokens.encode("the birds")) == "the birds"
    before = (tmp_path / "exp" / "best.safetensors").stat().st_mtime_ns
    import_hf.main(["--source", str(tmp_path / "source"), "--exp-dir", str(tmp_path / "exp")])
    assert (tmp_path / "exp" / "best.safetensors").stat().st_mtime_ns == before, "an import that exists is kept"
    with pytest.raises(UserError, match="lang has the tokens of another network, or of other settings"):
        import_hf.main(["--source", str(tmp_path / "source"), "--exp-dir", str(tmp_path / "exp"), "--start-token", "1"])


def test_an_import_of_other_weights_is_refused(tmp_path: Path) -> None:
    """Also if only one of several files of weights has changed."""
    size = with_tokens(tmp_path / "source", ("<|endoftext|>",))
    written(tmp_path / "source", {**BASE, "vocab_size": size})
    tensors = load_file(tmp_path / "source" / "model.safetensors")
    (tmp_path / "source" / "model.safetensors").unlink()
    names = {name: f"model-0000{place % 2}-of-00002.safetensors" for place, name in enumerate(tensors)}
    (tmp_path / "source" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))

    def save(factor: float) -> None:
        for file in set(names.values()):
            some = {name: tensor * factor for name, tensor in tensors.items() if names[name] == file}
            save_file(some, tmp_path / "source" / file)
            factor = 1.0

    given = ["--source", str(tmp_path / "source"), "--exp-dir", str(tmp_path / "exp")]
    save(1.0)
    import_hf.main(given)
    import_hf.main(given)
    save(2.0)
    with pytest.raises(UserError, match="exp contains another network"):
        import_hf.main(given)
    shared = ["--exp-dir", str(tmp_path / "exp2"), "--lang-dir", str(tmp_path / "exp" / "lang")]
    with pytest.raises(UserError, match="lang/source has the files of another checkpoint; give another --lang-dir"):
        import_hf.main([*given[:2], *shared])


@pytest.mark.parametrize(
    ("symbols", "settings", "options", "expected"),
    [
        (("<unk>", "<s>", "</s>"), {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}, [], (1, 2)),
        (("<|endoftext|>", "<|im_start|>"), {"bos_token": "<|im_start|>"}, ["--start-token", "<|im_start|>"], (1, 0)),
        (("<unk>", "</s>"), {"eos_token": "</s>"}, [], (1, 1)),
        (("<unk>", "</s>"), {}, ["--start-token", "1"], (1, 1)),
    ],
)
def test_the_token_before_a_text(
    tmp_path: Path, symbols: tuple[str, ...], settings: dict[str, Any], options: list[str], expected: tuple[int, int]
) -> None:
    form = imported(tmp_path, symbols, *options, extra=2, **settings).form
    assert (form.start[0], form.end) == expected


@pytest.mark.parametrize(
    ("extra", "options", "message"),
    [
        (20, [], "tokenizer.json has 276 tokens, but the network has 296; give the directory with the network's own"),
        (-1, [], "tokenizer.json has 276 tokens, but the network has 275"),
        (0, ["--start-token", "<s>"], "tokenizer.json has no token <s>; give --start-token as a symbol or a number"),
        (0, [], "does not tell which token begins a text; give --start-token"),
        (0, ["--tail", "1"], "--tail does not concern a language model; leave out --tail"),
    ],
)
def test_what_cannot_be_imported(tmp_path: Path, extra: int, options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        imported(tmp_path, ("<unk>",), *options, extra=extra)
    assert not (tmp_path / "exp").exists()


def test_a_published_network(tmp_path: Path) -> None:
    """Load SmolLM2 with its real weights, if an environment variable says where it is."""
    directory = Path(os.environ.get("PRUNING_TEST_MODELS", "")) / "smollm2-135m"
    if "PRUNING_TEST_MODELS" not in os.environ or not directory.is_dir():
        pytest.skip("PRUNING_TEST_MODELS does not name a directory with smollm2-135m")
    ours = load_llama(directory)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 134_515_008
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32).eval()
    tokens = torch.randint(ours.config.vocab_size, (1, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert relative(ours(tokens), theirs(tokens).logits) < 1e-4
