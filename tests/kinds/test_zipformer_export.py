"""Exported Zipformers, irregular ones too, compute what PyTorch does; unmodified sherpa-onnx finds the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruning import registry
from pruning.bin import export
from pruning.core.extraction import extract
from pruning.core.low_rank import factorise, linear_names
from pruning.core.residual_width import ResidualWidth
from pruning.deploy import sherpa_decoding as sherpa
from pruning.deploy.export import write, write_torchscript
from pruning.deploy.exported import ExportedPart, read_parts
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.kinds.encoder_head_export import PART, encoder_head_exports, encoder_head_streams
from pruning.kinds.exports import Exports
from pruning.kinds.transducer_export import PARTS, transducer_exports, transducer_streams
from pruning.kinds.zipformer_streaming_export import declared
from pruning.models.chunk import Chunk
from pruning.models.prunable_zipformer import PrunableZipformer
from pruning.models.speech_model import SpeechModel, SpeechModelConfig
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.models.zipformer_stream import ZipformerStream
from pruning.models.zipformer_units import MODULE_KINDS, UNIT_KINDS
from pruning.speech.data.sources import FEATURES
from pruning.speech.decoding.ctc import ctc_greedy_search
from pruning.speech.decoding.greedy import greedy_search
from pruning.speech.text.bpe import UNKNOWN_ID, Tokenizer
from tests.kinds.test_transducer_export import lang_dir
from tests.models.speech_encoders import random_structure as of_components
from tests.models.test_zipformer_units import random_structure
from tests.models.zipformers import small

__all__ = ["lang_dir"]

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnx", reason="the extra 'export' is not installed")

RATE, VOCABULARY = 16000, 24
CHUNK = Chunk(8, 16)
SECONDS, RISE = (2.6, 1.7), 3.0
LONG = (60.0, 37.3)


class Sound(NamedTuple):
    """Samples ``(S,)`` and their features ``(T, C)``."""

    samples: Any
    features: Tensor


@pytest.fixture(scope="module")
def sounds() -> list[Sound]:
    return sounds_of(*SECONDS)


def sounds_of(*lengths: float) -> list[Sound]:
    """Return sounds of some seconds whose pitch rises again and again."""
    lhotse = pytest.importorskip("lhotse")
    extractor = lhotse.Fbank(lhotse.FbankConfig(num_mel_bins=80, sampling_rate=RATE))
    made = []
    for seed, seconds in enumerate(lengths):
        time = np.arange(int(seconds * RATE)) / RATE % RISE
        samples = (0.3 * np.sin(2 * np.pi * (200 + 900 * time * (1 + seed)) * time)).astype(np.float32)
        samples += np.random.default_rng(seed).normal(scale=0.01, size=len(samples)).astype(np.float32)
        made.append(Sound(samples, torch.from_numpy(extractor.extract(samples, RATE))))
    return made


def pruned(dense: nn.Module, seed: int = 3) -> Any:
    """Return a network of irregular layers, without some modules, and with a narrower residual stream."""
    structure = random_structure(ResidualWidth(dense).unit_groups(), seed, (*UNIT_KINDS, *MODULE_KINDS, "width"), 0.75)
    return extract(dense, structure).eval()  # type: ignore[arg-type]


def transducer(features: Tensor, causal: bool) -> Transducer:
    """Return an irregular transducer whose tokens are of the sound ``(T, C)``."""
    encoder = small(feature_dim=80, causal=causal)
    dense = Transducer(TransducerConfig(zipformer=encoder.config, vocab_size=VOCABULARY, decoder_dim=8, joiner_dim=16))
    dense.encoder.load_state_dict(encoder.state_dict())
    model: Transducer = pruned(dense)
    model.encoder.set_feature_statistics(features.mean(dim=0), features.std(dim=0))
    with torch.no_grad():
        model.joiner.output.weight *= 12
        model.joiner.decoder_proj.weight *= 0.01  # type: ignore[operator]
        encoded = model(features[None], torch.tensor([len(features)]))
        silent = model.decoder(torch.zeros(1, model.decoder.context_size, dtype=torch.int64), pad=False)
        model.joiner.output.bias -= model.joiner(encoded.output, silent).mean(dim=(0, 1))
        model.joiner.output.bias[UNKNOWN_ID] = -1e4  # which its search takes for blank, and ours for a word
    return model


def recogniser(features: Tensor, causal: bool) -> SpeechModel:
    """Return an irregular network with a CTC head whose tokens are of the sound ``(T, C)``."""
    encoder = small(feature_dim=80, causal=causal)
    described = {"type": "zipformer", "config": vars(encoder.config)}
    dense = SpeechModel(SpeechModelConfig(described, outputs=VOCABULARY, mix=False)).eval()
    dense.encoder.load_state_dict(encoder.state_dict())
    model: SpeechModel = pruned(dense)
    model.encoder.set_feature_statistics(features.mean(dim=0), features.std(dim=0))
    with torch.no_grad():
        model.head.output.weight *= 12
        model.head.output.bias -= model(features[None], torch.tensor([len(features)])).logits.mean(dim=(0, 1))
    return model


def compared(exports: Exports, directory: Path, lang_dir: Path) -> dict[str, ExportedPart]:
    """Write an export, check it against PyTorch in float32 and int8, and return its files."""
    forms = ["float32", "int8"]
    write(exports, directory, forms, lang_dir)
    calls = {form: read_parts(directory, list(exports.parts), form) for form in forms}
    whole, small = (exports.agreement(calls[form], None, 1) for form in forms)
    assert whole.difference < 1e-4 and "0 of 3" in whole.words
    assert 0 < small.difference < 0.3  # of weights that are far from those of a trained network
    return calls["float32"]


def spelled(tokens: list[int], lang_dir: Path) -> list[str]:
    """Return tokens as sherpa-onnx spells them."""
    names = Tokenizer(lang_dir).tokens()
    return [names[index].replace("▁", " ") for index in tokens]


def test_an_offline_transducer_in_sherpa_onnx(sounds: list[Sound], lang_dir: Path, tmp_path: Path) -> None:
    sound = sounds[0]
    model = transducer(sound.features, causal=False)
    calls = compared(transducer_exports(model), tmp_path, lang_dir)
    assert calls["encoder"].metadata["model_type"] == "zipformer2"
    exports = transducer_exports(model)
    write_torchscript(exports.parts, tmp_path)
    assert exports.agreement(read_parts(tmp_path, PARTS, "torchscript"), None, 1).difference < 1e-4
    with torch.no_grad():
        encoded = model(sound.features[None], torch.tensor([len(sound.features)]))
    (ours,) = greedy_search(model, encoded.output, encoded.lengths)
    assert len(set(ours)) > 5
    pytest.importorskip("sherpa_onnx", reason="the extra 'export' is not installed")
    theirs = sherpa.recogniser(tmp_path)
    stream = theirs.create_stream()
    stream.accept_waveform(RATE, sound.samples)
    theirs.decode_stream(stream)
    assert [token.replace("▁", " ") for token in stream.result.tokens] == spelled(ours, lang_dir)


@pytest.mark.slow
def test_offline_ctc_in_sherpa_onnx(sounds: list[Sound], lang_dir: Path, tmp_path: Path) -> None:
    sound = sounds[0]
    model = recogniser(sound.features, causal=False)
    compared(encoder_head_exports(model, FEATURES), tmp_path, lang_dir)
    with torch.no_grad():
        output = model(sound.features[None], torch.tensor([len(sound.features)]))
    (ours,) = ctc_greedy_search(output.logits.log_softmax(dim=2), output.encoded.lengths)
    assert len(set(ours)) > 5
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="the extra 'export' is not installed")
    theirs = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        model=str(tmp_path / f"{PART}.onnx"), tokens=str(tmp_path / "tokens.txt")
    )
    stream = theirs.create_stream()
    stream.accept_waveform(RATE, sound.samples)
    theirs.decode_stream(stream)
    assert [token.replace("▁", " ") for token in stream.result.tokens] == spelled(ours, lang_dir)


@pytest.mark.slow
def test_factored_layers_are_exported_with_ctc(sounds: list[Sound], lang_dir: Path, tmp_path: Path) -> None:
    dense = recogniser(sounds[0].features, causal=True)
    whole = factorise(dense, linear_names(dense))
    model = extract(whole, of_components(whole, 3, 0.9)).eval()
    assert isinstance(model, SpeechModel) and model.config.ranks
    compared(encoder_head_exports(model, FEATURES), tmp_path / "whole", lang_dir)
    compared(encoder_head_streams(model, CHUNK), tmp_path / "stream", lang_dir)


@torch.no_grad()
def chunk_by_chunk(encoder: PrunableZipformer, features: Tensor) -> Tensor:
    """Return the outputs ``(1, T', D)`` of a stream of ``(T, C)`` as far as whole chunks go."""
    stream = ZipformerStream(encoder, CHUNK)
    taken, ahead = stream.feature_frames
    state, outputs = stream.start(1), []
    for begin in range(0, len(features) - taken + 1, ahead):
        output, state = stream.step(features[None, begin : begin + taken], state)
        outputs.append(output)
    return torch.cat(outputs, dim=1)


def streamed(model: Transducer, sounds: list[Sound]) -> list[list[int]]:
    """Return the tokens of our greedy search in each sound, encoded chunk by chunk."""
    assert isinstance(model.encoder, PrunableZipformer)
    outputs = [chunk_by_chunk(model.encoder, sound.features) for sound in sounds]
    return [greedy_search(model, output, torch.tensor([output.shape[1]]))[0] for output in outputs]


def online_transducer(directory: Path) -> Any:
    """Return sherpa-onnx's online recogniser for an exported transducer."""
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="the extra 'export' is not installed")
    files = {name: str(directory / f"{name}.onnx") for name in PARTS}
    return sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(directory / "tokens.txt"), **files, num_threads=1, decoding_method="greedy_search"
    )


def online(theirs: Any, sounds: list[Sound], lang_dir: Path) -> list[list[str]]:
    """Return the tokens that an online recogniser of sherpa-onnx finds in sounds that it decodes together."""
    streams = []
    for sound in sounds:
        streams.append(theirs.create_stream())
        streams[-1].accept_waveform(RATE, sound.samples)
        streams[-1].input_finished()
    while ready := [stream for stream in streams if theirs.is_ready(stream)]:
        theirs.decode_streams(ready)
    return [[token.replace("▁", " ") for token in theirs.tokens(stream)] for stream in streams]


def test_two_streams_of_a_transducer_in_sherpa_onnx(sounds: list[Sound], lang_dir: Path, tmp_path: Path) -> None:
    model = transducer(sounds[0].features, causal=True)
    assert isinstance(model.encoder, PrunableZipformer)
    calls = compared(transducer_streams(model, CHUNK), tmp_path, lang_dir)
    about, config = calls["encoder"].metadata, model.encoder.config
    layers = declared(config, CHUNK)
    assert set(layers) == {index for index, there in enumerate(config.present) if there}
    assert about["num_encoder_layers"] == ",".join("1" for _ in layers)
    assert about["T"] == "29" and about["decode_chunk_len"] == "16"
    ours = streamed(model, sounds)
    assert all(len(set(tokens)) > 3 for tokens in ours)
    theirs = online_transducer(tmp_path)
    assert online(theirs, sounds, lang_dir) == [spelled(tokens, lang_dir) for tokens in ours]
    whole = sherpa.recogniser(tmp_path, streaming=True)
    stream = whole.create_stream()
    stream.accept_waveform(RATE, sounds[0].samples)
    whole.decode_stream(stream)
    assert stream.result.text.replace(" ", "").startswith("".join(spelled(ours[0], lang_dir)).replace(" ", ""))


@pytest.mark.slow
def test_a_stream_of_a_minute_in_sherpa_onnx(lang_dir: Path, tmp_path: Path) -> None:
    """Next to a shorter one, with which it is decoded; the caches are full many times over."""
    sounds = sounds_of(*LONG)
    model = transducer(sounds[0].features[:300], causal=True)
    write(transducer_streams(model, CHUNK), tmp_path, ["float32"], lang_dir)
    ours = streamed(model, sounds)
    assert all(len(tokens) > 100 and len(set(tokens)) > 3 for tokens in ours)
    assert online(online_transducer(tmp_path), sounds, lang_dir) == [spelled(tokens, lang_dir) for tokens in ours]


@pytest.mark.long
def test_two_streams_with_ctc_in_sherpa_onnx(sounds: list[Sound], lang_dir: Path, tmp_path: Path) -> None:
    model = recogniser(sounds[0].features, causal=True)
    assert isinstance(model.encoder, PrunableZipformer)
    compared(encoder_head_streams(model, CHUNK), tmp_path, lang_dir)
    ours = []
    for sound in sounds:
        output = chunk_by_chunk(model.encoder, sound.features)
        log_probs = model.head.output(output).log_softmax(dim=2)
        ours += ctc_greedy_search(log_probs, torch.tensor([output.shape[1]]))
    assert all(len(set(tokens)) > 3 for tokens in ours)
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="the extra 'export' is not installed")
    theirs = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
        tokens=str(tmp_path / "tokens.txt"), model=str(tmp_path / f"{PART}.onnx"), num_threads=1
    )
    assert online(theirs, sounds, lang_dir) == [spelled(tokens, lang_dir) for tokens in ours]


def test_streams_that_cannot_be_exported_are_refused(sounds: list[Sound]) -> None:
    features = sounds[0].features
    with pytest.raises(UserError, match="not causal"):
        transducer_streams(transducer(features, causal=False), CHUNK)
    with pytest.raises(UserError, match="a chunk of 6 frames is not a multiple"):
        transducer_streams(transducer(features, causal=True), Chunk(6, 16))
    wide = small(causal=True, subsampling_channels=(3, 4, 130), feature_dim=80)
    model = Transducer(TransducerConfig(zipformer=wide.config, vocab_size=9, decoder_dim=8, joiner_dim=8))
    with pytest.raises(UserError, match="130 channels, but sherpa-onnx streams at most 128; prune them"):
        transducer_streams(model, CHUNK)


def test_the_command_tells_streams_and_other_exports_apart(sounds: list[Sound], lang_dir: Path, tmp_path: Path) -> None:
    """Each replaces the other in a directory, and a check with other options than those of the export says so."""
    model, tokenizer = transducer(sounds[0].features, causal=True), Tokenizer(lang_dir)
    header = {"model": registry.describe(model), "tokenizer": tokenizer.describe()}
    checkpoint.save_model(checkpoint.best_path(tmp_path / "exp"), model, header)
    command = ["--exp-dir", str(tmp_path / "exp"), "--lang-dir", str(lang_dir), "--output", str(tmp_path / "out")]
    export.main([*command, "--torchscript"])
    with pytest.raises(UserError, match="encoder.onnx says nothing about T, but .* give the network, and the --chunk"):
        export.main([*command, "--check", "--chunk-size=8"])
    of_stream = [*command, "--chunk-size=8", "--left-context-frames=16"]
    export.main(of_stream)
    assert not (tmp_path / "out" / "encoder.pt").exists()
    export.main([*of_stream, "--check"])
    with pytest.raises(UserError, match="encoder.onnx says comment: pruned streaming Zipformer transducer, but for"):
        export.main([*command, "--check"])
    with pytest.raises(UserError, match="encoder.onnx says left_context_len: 16,.*, but for"):
        export.main([*command, "--check", "--chunk-size=8", "--left-context-frames=32"])
