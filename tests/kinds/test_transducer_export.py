"""Exported networks compute what PyTorch does, for any length and batch, with irregular layers and removed modules."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pruning import registry
from pruning.bin import export
from pruning.core.extraction import extract
from pruning.core.residual_width import ResidualWidth
from pruning.core.structure import Structure
from pruning.deploy import sherpa_decoding as sherpa
from pruning.deploy.export import export_onnx, write_torchscript
from pruning.deploy.exported import read_parts
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.kinds.transducer_export import PARTS, ExportedTransducer, agreement, noise, parts
from pruning.models.transducer import Transducer
from pruning.speech.decoding.beam import modified_beam_search
from pruning.speech.decoding.greedy import greedy_search
from pruning.speech.text.bpe import UNKNOWN_ID, Tokenizer
from pruning.speech.text.bpe import train as train_bpe
from tests.methods.test_l0 import network

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnx", reason="the extra 'export' is not installed")


@pytest.fixture(scope="module")
def lang_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lang") / "lang_bpe_24"
    texts = ["SOME WORDS OF A TEXT", "ANOTHER LINE WITH LETTERS", "QUITE ENOUGH OF THEM"]
    train_bpe(texts, directory, 24, "unigram")
    return directory


def irregular(vocab_size: int = 24) -> Transducer:
    """Return a network whose layers differ in shape, with some modules removed, and whose hypotheses are not empty."""
    torch.manual_seed(3)
    dense = Transducer(replace(network().config, vocab_size=vocab_size))
    generator = torch.Generator().manual_seed(5)
    masks = {}
    units = ResidualWidth(dense).unit_groups()
    for index, group in enumerate(units):
        if group.size > 1:
            mask = (torch.rand(group.size, generator=generator) < 0.3 + 0.04 * (index % 12)).float()
            mask[0] = 1.0
            masks[group.name] = mask
    for gone in ("encoder.layers.1.attention", "encoder.layers.2.convolution", "encoder.layers.0.macaron"):
        masks[gone] = torch.zeros(1)
    small = extract(dense, Structure.from_masks(units, masks)).eval()
    assert isinstance(small, Transducer) and small.config.encoder.d_model < small.config.encoder.dense_dim
    with torch.no_grad():
        small.joiner.output.weight *= 12
        small.decoder.embedding.weight *= 3
    return small


def read(directory: Path, form: str = "float32") -> ExportedTransducer:
    return ExportedTransducer(read_parts(directory, PARTS, form), directory)


@pytest.fixture(scope="module")
def exported(lang_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Transducer, Path]:
    model, directory = irregular(), tmp_path_factory.mktemp("export")
    export_onnx(model, directory, lang_dir)
    write_torchscript(parts(model), directory)
    return model, directory


@pytest.mark.parametrize("form", ["float32", "torchscript"])
@pytest.mark.parametrize(("seconds"), [(1.1,), (3.0, 0.4), (12.0, 11.0, 5.0), (0.07,), (0.06, 0.03)])
def test_outputs_and_hypotheses_agree(exported: tuple[Transducer, Path], form: str, seconds: tuple[float, ...]) -> None:
    model, directory = exported
    found = agreement(model, read(directory, form), [noise(80, seconds)])
    assert found.difference < 1e-4
    assert found.utterances == len(seconds) and found.differing == []
    batch = noise(80, seconds)
    lengths = read(directory, form).encoder(batch.features, batch.lengths).lengths
    with torch.no_grad():
        assert lengths.tolist() == model(batch.features, batch.lengths).lengths.tolist()


def test_the_searches_take_an_exported_network(exported: tuple[Transducer, Path]) -> None:
    model, directory = exported
    batch, onnx = noise(80), read(directory)
    with torch.no_grad():
        encoded = model(batch.features, batch.lengths)
    other = onnx.encoder(batch.features, batch.lengths)
    ours = greedy_search(model, encoded.output, encoded.lengths)
    assert any(len(tokens) > 2 for tokens in ours)
    assert greedy_search(onnx, other.output, other.lengths) == ours
    beams = [modified_beam_search(net, out.output, out.lengths, 4)
             for net, out in ((model, encoded), (onnx, other))]  # fmt: skip
    assert beams[0] == beams[1]


def test_int8_is_near(exported: tuple[Transducer, Path]) -> None:
    model, directory = exported
    found = agreement(model, read(directory, "int8"), [noise(80)])
    assert 0 < found.difference < 0.1


def test_the_command_exports_compares_and_refuses(
    lang_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = Tokenizer(lang_dir)
    model = irregular(tokenizer.vocab_size)
    header = {"model": registry.describe(model), "tokenizer": tokenizer.describe()}
    checkpoint.save_model(checkpoint.best_path(tmp_path / "small"), model, header)
    arguments = ["--lang-dir", str(lang_dir), "--output", str(tmp_path / "export")]
    with caplog.at_level(logging.INFO):
        export.main(["--exp-dir", str(tmp_path / "small"), *arguments, "--torchscript"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[-3:]] == ["float32", "int8", "torchscript"]
    assert "0 of 3 greedy hypotheses differ" in lines[-3]
    assert (tmp_path / "export/tokens.txt").read_text() == (lang_dir / "tokens.txt").read_text()
    assert (tmp_path / "export/int8/model.json").is_file()
    small = Transducer(replace(model.config, joiner_dim=model.config.joiner_dim + 1))
    header["model"] = registry.describe(small)
    checkpoint.save_model(checkpoint.best_path(tmp_path / "small"), small, header)
    facts = (tmp_path / "export/int8/model.json").read_bytes()
    with pytest.raises(UserError, match=r"joiner.onnx says joiner_dim: \d+, but for this network and these options it"):
        export.main(["--exp-dir", str(tmp_path / "small"), *arguments, "--check"])
    assert (tmp_path / "export/int8/model.json").read_bytes() == facts, "a check writes nothing"
    export.main(["--exp-dir", str(tmp_path / "small"), *arguments])  # without TorchScript, in the same directory
    assert not list((tmp_path / "export").glob("*.pt")) and (tmp_path / "export/int8/model.json").read_bytes() != facts
    checkpoint.save_model(checkpoint.best_path(tmp_path / "pruned"), model, {**header, "found_structure": {}})
    with pytest.raises(UserError, match="is of a pruning run; extract it first"):
        export.main(["--exp-dir", str(tmp_path / "pruned"), *arguments])


def test_missing_and_broken_exports_are_named(exported: tuple[Transducer, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="encoder.onnx does not exist; export it"):
        read(tmp_path)
    for name in ("encoder", "decoder", "joiner"):
        (tmp_path / f"{name}.onnx").write_bytes((exported[1] / f"{name}.onnx").read_bytes()[:2000])
    with pytest.raises(UserError, match="encoder.onnx cannot be loaded"):
        read(tmp_path)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_sherpa_onnx_loads_it_unchanged(lang_dir: Path, tmp_path: Path, rate: int) -> None:
    """Its greedy search on its own features finds what ours finds on the same samples."""
    pytest.importorskip("sherpa_onnx", reason="the extra 'export' is not installed")
    from lhotse import Fbank, FbankConfig

    time = np.arange(2 * rate) / rate
    samples = (0.3 * np.sin(2 * np.pi * (200 + 900 * time) * time)).astype(np.float32)
    samples += np.random.default_rng(0).normal(scale=0.01, size=len(samples)).astype(np.float32)
    extractor = Fbank(FbankConfig(num_mel_bins=80, sampling_rate=rate))
    features = torch.from_numpy(extractor.extract(samples, rate))[None]
    model = irregular()
    model.encoder.set_feature_statistics(features.mean(dim=(0, 1)), features.std(dim=(0, 1)))
    with torch.no_grad():
        model.joiner.decoder_proj.weight *= 0.01  # what it says is of the sound
        encoded = model(features, torch.tensor([features.shape[1]]))
        silent = model.decoder(torch.zeros(1, model.decoder.context_size, dtype=torch.int64), pad=False)
        model.joiner.output.bias -= model.joiner(encoded.output, silent).mean(dim=(0, 1))
        model.joiner.output.bias[UNKNOWN_ID] = -1e4  # which its search takes for blank, and ours for a word
    (ours,) = greedy_search(model, encoded.output, encoded.lengths)
    assert len(set(ours)) > 5
    export_onnx(model, tmp_path, lang_dir)
    recogniser = sherpa.recogniser(tmp_path, sampling_rate=rate)
    stream = recogniser.create_stream()
    stream.accept_waveform(rate, samples)
    recogniser.decode_stream(stream)
    tokens = Tokenizer(lang_dir).tokens()
    assert [token.replace(" ", "▁") for token in stream.result.tokens] == [tokens[index] for index in ours]


@pytest.mark.parametrize("samples", [0, 1, 100, 400, 800, 1200])
def test_sherpa_onnx_hears_no_words_in_what_is_too_short(exported: tuple[Transducer, Path], samples: int) -> None:
    """Less than the convolutions need, or than a frame: nothing fails, as where a microphone gives it."""
    pytest.importorskip("sherpa_onnx", reason="the extra 'export' is not installed")
    recogniser = sherpa.recogniser(exported[1])
    stream = recogniser.create_stream()
    stream.accept_waveform(16000, np.zeros(samples, dtype=np.float32))
    recogniser.decode_stream(stream)
    assert len(stream.result.tokens) <= samples // 640
