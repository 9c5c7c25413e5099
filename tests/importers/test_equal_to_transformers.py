"""Greedy tokens of published networks on real recordings are those of transformers, if both are at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor

from pruning.importers import hf_tokens
from pruning.importers.encoder_decoder import load_encoder_decoder
from pruning.speech.data.whisper_features import WhisperFeatureConfig, whisper_features
from pruning.speech.decoding.config import DecodingConfig
from pruning.speech.decoding.own_decoder import Bounds, transcribe

transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")
NEAR = 1e-3
"""Difference of log-probabilities below which either of two tokens is right."""


def recordings(shared_data: Path, count: int) -> list[Tensor]:
    """Return recordings of dev speakers."""
    paths = sorted(path for speaker in (84, 174, 1988) for path in
                   (shared_data / "LibriSpeech" / "dev-clean" / str(speaker)).rglob("*.flac"))  # fmt: skip
    if len(paths) < count:
        pytest.skip(f"no dev speakers under {shared_data}")
    chosen = paths[:: len(paths) // count][:count]
    return [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in chosen]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moonshine-tiny", "whisper-tiny.en"])
@torch.no_grad()
def test_greedy_tokens(shared_data: Path, tmp_path: Path, name: str) -> None:
    directory = Path(os.environ.get("PRUNING_TEST_MODELS", "")) / name
    if "PRUNING_TEST_MODELS" not in os.environ or not directory.is_dir():
        pytest.skip(f"PRUNING_TEST_MODELS does not name a directory with {name}")
    if not hasattr(transformers, "MoonshineConfig"):
        pytest.skip("Moonshine needs transformers 4.48 or newer")
    ours = load_encoder_decoder(directory)
    tokens = hf_tokens.write_lang_dir(directory, ours.config, tmp_path / "lang")
    form, bins = tokens.form, ours.encoder.bins
    family = {"moonshine": "Moonshine", "whisper": "Whisper"}[ours.config.encoder.family]
    theirs: Any = getattr(transformers, f"{family}ForConditionalGeneration").from_pretrained(directory).eval()
    config = DecodingConfig("decoder_greedy_search")
    equal = near = 0
    for audio in recordings(shared_data, int(os.environ.get("PRUNING_TEST_UTTERANCES", "8"))):
        inputs = (whisper_features(audio, WhisperFeatureConfig(bins)) if bins else audio)[None]
        encoded = ours.encoder(inputs, torch.tensor([inputs.shape[1]]))
        bounds = Bounds.of(form, [len(audio) / 16000], config.tokens_per_second)
        found = transcribe(ours, encoded.output, encoded.lengths, config, bounds).tokens[0]
        options = {"max_new_tokens": bounds.most[0] + 1, "do_sample": False, "num_beams": 1}
        if bins:
            generated = theirs.generate(inputs.transpose(1, 2), return_timestamps=False, **options)
        else:
            generated = theirs.generate(input_values=inputs, **options)
        expected = [token for token in generated[0].tolist() if token not in (*form.start, form.end)]
        if found == expected:
            equal += 1
            continue
        place = next(index for index, pair in enumerate(zip([*found, form.end], [*expected, form.end]))
                     if pair[0] != pair[1])  # fmt: skip
        logits = ours(inputs, torch.tensor([inputs.shape[1]]), torch.tensor([[*form.start, *expected[:place]]]))
        scores = logits[0, -1].log_softmax(dim=0)
        pair = [([*text, form.end])[place] for text in (found, expected)]
        assert abs(float(scores[pair[0]] - scores[pair[1]])) < NEAR, (tokens.decode(found), tokens.decode(expected))
        near += 1
    assert equal > near
