"""Whisper and Moonshine as ONNX: irregular layers, any length, and what sherpa-onnx decodes with them unchanged."""

from __future__ import annotations

import base64
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pruning import registry
from pruning.bin import decode, export, import_hf
from pruning.core.extraction import extract
from pruning.core.structure import Structure
from pruning.deploy import sherpa_decoding as sherpa
from pruning.deploy.exported import ExportedPart, read_parts
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.measurement import Measurement
from pruning.files import read_json, write_json
from pruning.importers import small_network
from pruning.importers.small_network import SmallConfig
from pruning.kinds import moonshine_export, whisper_export
from pruning.kinds.encoder_decoder import EncoderDecoderKind
from pruning.models.encoder_decoder import EncoderDecoder
from pruning.models.encoder_decoder_config import FAMILY_NAMES, MOONSHINE, WHISPER
from pruning.models.facts import write_facts
from pruning.speech.decoding.sherpa_rules import rules_tokens
from pruning.speech.text.network_tokens import NetworkTokens
from tests.kinds.test_encoder_head import WORDS
from tests.kinds.test_encoder_head import work as speech

__all__ = ["speech"]

pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
GONE = ("encoder.layers.0.attention", "decoder.layers.1.attention", "decoder.layers.0.cross_attention")


def irregular(dense: EncoderDecoder) -> EncoderDecoder:
    """Return a network whose layers differ in shape, with some modules removed, and whose transcripts vary."""
    generator, masks, units = torch.Generator().manual_seed(5), {}, dense.unit_groups()
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.add_(0.25 * torch.randn(parameter.shape, generator=generator))
        dense.decoder.embedding.weight[dense.config.decoder.end] *= 0.01  # so that transcripts do not end at once
    for index, group in enumerate(units):
        if group.size > 1:
            masks[group.name] = (torch.rand(group.size, generator=generator) < 0.3 + 0.04 * (index % 12)).float()
            masks[group.name][0] = 1.0
        if group.name in GONE:
            masks[group.name] = torch.zeros(1)
    small = extract(dense, Structure.from_masks(units, masks).resolved(units)).eval()
    assert isinstance(small, EncoderDecoder) and 0 in small.config.decoder.heads and 0 in small.config.encoder.heads
    return small


def experiment(place: Path, family: str) -> Path:
    """Import a small network, make it irregular, and return its experiment; its tokens are in ``lang`` beside it."""
    small_network.write(place / "source", WORDS.values(), SmallConfig(family, 32, 2, 270, seconds=4))
    import_hf.main(["--source", str(place / "source"), "--exp-dir", str(place / "imported"), "--lang-dir",
                    str(place / "lang")])  # fmt: skip
    dense, header = checkpoint.load_model(place / "imported")
    assert isinstance(dense, EncoderDecoder)
    model = irregular(dense)
    header = {key: header[key] for key in ("tokenizer", "pretrained")}
    checkpoint.save_model(place / "exp" / "best.safetensors", model, {**header, "model": registry.describe(model)})
    write_facts(place / "exp", model)
    return place / "exp"


def command(exp_dir: Path, *options: str) -> list[str]:
    return ["--exp-dir", str(exp_dir), "--lang-dir", str(exp_dir.parent / "lang"), "--output",
            str(exp_dir.parent / "onnx"), *options]  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Experiments by family, each with its export in ``onnx`` beside it."""
    found = {}
    for family in FAMILY_NAMES:
        found[family] = experiment(tmp_path_factory.mktemp(family), family)
        export.main(command(found[family]))
    return found


def chirp(seconds: float) -> np.ndarray:
    time = np.arange(round(16000 * seconds)) / 16000
    noise = np.random.default_rng(0).normal(scale=0.02, size=len(time))
    return (0.3 * np.sin(2 * np.pi * (200 + 500 * time) * time) + noise).astype(np.float32)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_logits_are_equal(exported: dict[str, Path], speech: Path, family: str) -> None:
    """Of noise and of utterances of other lengths than the traced ones; int8 only nearly."""
    exp_dir = exported[family]
    export.main(command(exp_dir, "--check"))
    model, _ = EncoderDecoderKind.load_network(exp_dir)
    exports = EncoderDecoderKind.exports(model, exp_dir.parent / "lang")
    for form, tolerance in (("float32", 1e-5), ("int8", 0.5)):
        calls = read_parts(exp_dir.parent / "onnx", list(exports.parts), form)
        same = exports.agreement(calls, speech / "slurp_cuts_dev.jsonl.gz", 20)
        assert same.difference < tolerance and "of 6 utterances" in same.words
    assert "Made from **source**" in (exp_dir.parent / "onnx" / "README.md").read_text()


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("seconds", [0.6, 2.5])
def test_sherpa_onnx_finds_the_same_tokens(exported: dict[str, Path], family: str, seconds: float) -> None:
    pytest.importorskip("sherpa_onnx", reason="the extra 'export' is not installed")
    directory, audio = exported[family].parent / "onnx", chirp(seconds)
    model, _ = EncoderDecoderKind.load_network(exported[family])
    tokens = NetworkTokens(exported[family].parent / "lang")
    ours = rules_tokens(model, torch.from_numpy(audio), tokens.form)
    assert len(set(ours)) > 1
    recogniser = sherpa.encoder_decoder_recogniser(directory)
    stream = recogniser.create_stream()
    stream.accept_waveform(16000, audio)
    recogniser.decode_stream(stream)
    rows = [line.split() for line in (directory / "tokens.txt").read_text().splitlines()]
    symbols = {int(row[-1]): row[0] if len(row) > 1 else " " for row in rows}
    assert not symbols.keys() & tokens.special().values(), "special tokens are not text"
    expected = [symbols[token] for token in ours if token in symbols]
    if family == WHISPER:
        text = b"".join(map(base64.b64decode, expected)).decode(errors="ignore")
        assert stream.result.text == text.strip()
    else:
        assert [token.replace(" ", "▁") for token in stream.result.tokens] == expected


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_decoding_by_the_command(exported: dict[str, Path], speech: Path, family: str) -> None:
    pytest.importorskip("sherpa_onnx", reason="the extra 'export' is not installed")
    place = exported[family].parent
    options = ["--exported", str(place / "onnx"), "--lang-dir", str(place / "lang"), "--cuts",
               str(speech / "slurp_cuts_dev.jsonl.gz")]  # fmt: skip
    engine = ["--engine", "sherpa-onnx"]
    decode.main([*options, *engine, "--method", "decoder_greedy_search", "--form", "int8"])
    (path,) = (place / "onnx" / "int8-sherpa-onnx" / "decoder_greedy_search").glob("decode-*.json")
    found = Measurement.read(path)
    assert found.total("words") == 8 and found.parameters["engine"] == "sherpa-onnx"
    assert found.parameters["decoding"] == {"method": "decoder_greedy_search", "tokens_per_second": 6.0}, "not ours"
    with pytest.raises(UserError, match="--tokens-per-second has no effect with --engine sherpa-onnx, which allows 6"):
        decode.main([*options, *engine, "--method", "decoder_greedy_search", "--tokens-per-second", "8"])
    with pytest.raises(UserError, match="which only sherpa-onnx decodes; give --engine sherpa-onnx"):
        decode.main([*options, "--method", "decoder_greedy_search"])
    with pytest.raises(UserError, match="does not support decoder_beam_search; choose decoder_greedy_search"):
        decode.main([*options, *engine, "--method", "decoder_beam_search"])


def test_what_sherpa_onnx_does_not_hear_is_told(
    exported: dict[str, Path], speech: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A Whisper hears 29.5 s, or its window if that is shorter; a Moonshine hears everything."""
    pytest.importorskip("sherpa_onnx", reason="the extra 'export' is not installed")
    place = exported[WHISPER].parent
    files = {family: read_parts(exported[family].parent / "onnx", parts, "float32")
             for family, parts in ((WHISPER, whisper_export.PARTS), (MOONSHINE, moonshine_export.PARTS))}  # fmt: skip
    assert sherpa.longest_heard(files[MOONSHINE]) is None
    assert sherpa.longest_heard(files[WHISPER]) == 4.0
    large = {**files[WHISPER]["encoder"].metadata, "n_audio_ctx": "1500"}
    monkeypatch.setattr(ExportedPart, "metadata", property(lambda _: large))
    assert sherpa.longest_heard(files[WHISPER]) == 29.5
    monkeypatch.setitem(large, "n_audio_ctx", "10")
    decode.main(["--exported", str(place / "onnx"), "--lang-dir", str(place / "lang"), "--cuts",
                 str(speech / "slurp_cuts_dev.jsonl.gz"), "--engine", "sherpa-onnx", "--method",
                 "decoder_greedy_search"])  # fmt: skip
    assert "are longer than the 0.2 s that the network takes" in caplog.text


def test_caches_have_the_widest_layer(exported: dict[str, Path]) -> None:
    model, _ = EncoderDecoderKind.load_network(exported[WHISPER])
    config = model.config.decoder
    calls = read_parts(exported[WHISPER].parent / "onnx", whisper_export.PARTS, "float32")
    facts = calls["encoder"].metadata
    assert int(facts["n_text_state"]) == max(config.heads) * config.head_dim
    assert [facts[key] for key in ("n_text_layer", "n_mels", "is_multilingual")] == ["2", "80", "0"]
    keys, values = calls["encoder"](torch.randn(1, 80, 301))
    assert keys.shape == values.shape == (2, 1, 151, max(config.cross_heads) * config.head_dim)
    assert not keys[0].any(), "the first layer does not read the encoder's output"


def test_states_have_their_own_width(exported: dict[str, Path]) -> None:
    model, _ = EncoderDecoderKind.load_network(exported[MOONSHINE])
    order = moonshine_export.state_order(model.config.decoder)
    assert ("keys", 1) not in order and ("cross_keys", 0) not in order
    calls = read_parts(exported[MOONSHINE].parent / "onnx", moonshine_export.PARTS, "float32")
    one = torch.ones(1, dtype=torch.int32)
    _, *states = calls["uncached_decode"](one[:, None], torch.randn(1, 7, 32), one)
    heads = {"keys": model.config.decoder.heads, "cross_keys": model.config.decoder.cross_heads}
    for (kind, index), state in zip(order, states):
        assert state.shape[1] == heads[kind.replace("values", "keys")][index]
        assert state.shape[2] == (7 if kind.startswith("cross") else 1)


def test_int8_has_a_scale_for_each_channel(exported: dict[str, Path]) -> None:
    import onnx

    graph = onnx.load(str(exported[WHISPER].parent / "onnx" / "decoder.int8.onnx")).graph
    scales = [list(one.dims) for one in graph.initializer if one.name.endswith("_scale")]
    assert scales and all(shape and shape[0] > 1 for shape in scales)


@pytest.mark.parametrize(("family", "part"), [(WHISPER, "decoder"), (MOONSHINE, "uncached_decode"),
                                               (MOONSHINE, "cached_decode")])  # fmt: skip
def test_a_tied_embedding_is_stored_once(exported: dict[str, Path], family: str, part: str) -> None:
    """As floats or as int8, and not both; sherpa-onnx decodes both forms in other tests."""
    import onnx

    config = EncoderDecoderKind.load_network(exported[family])[0].config.decoder
    size = config.vocab_size * config.d_model
    assert config.tied
    for form, kind in (("", onnx.TensorProto.FLOAT), (".int8", onnx.TensorProto.INT8)):
        graph = onnx.load(str(exported[family].parent / "onnx" / f"{part}{form}.onnx")).graph
        tables = [one for one in graph.initializer if math.prod(one.dims) == size]
        assert [one.data_type for one in tables] == [kind]


def test_tokens_that_sherpa_onnx_does_not_have(tmp_path: Path) -> None:
    """It begins every transcript of a Moonshine with 1 and ends it with 2."""
    small_network.write(tmp_path / "source", WORDS.values(), SmallConfig(width=16, layers=1, vocab_size=270))
    config = tmp_path / "source" / "config.json"
    write_json(config, {**read_json(config), "eos_token_id": 0})
    write_json(tmp_path / "source" / "generation_config.json", {})
    import_hf.main(["--source", str(tmp_path / "source"), "--exp-dir", str(tmp_path / "exp"), "--lang-dir",
                    str(tmp_path / "lang")])  # fmt: skip
    with pytest.raises(UserError, match=r"begin with \(1,\) and end with 0, but sherpa-onnx has 1 and 2 for every"):
        export.main(command(tmp_path / "exp"))


def test_several_languages() -> None:
    """The language and the task of the import, as sherpa-onnx is told them."""
    facts = {"is_multilingual": "1", "sot_sequence": "50,52,60", "all_language_tokens": "51,52",
             "all_language_codes": "en,de", "translate": "60"}  # fmt: skip
    assert whisper_export.asked_for(facts) == {"language": "de", "task": "translate"}
    assert whisper_export.asked_for({**facts, "translate": "61"}) == {"language": "de", "task": "transcribe"}
    assert whisper_export.asked_for({"is_multilingual": "0"}) == {}
