"""What encoders get of recordings: the same number of frames from the source, the costs and the encoder itself."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pruning.errors import UserError
from pruning.kinds.heard import input_length, source_of
from pruning.models.audio_encoder import AudioEncoder
from pruning.models.encoder import Window
from pruning.models.encoder_decoder_config import AudioEncoderConfig
from pruning.models.prunable_zipformer import PrunableZipformer
from pruning.models.zipformer_config import ZipformerConfig
from pruning.speech.data.sources import FEATURES
from tests.importers.test_icefall_zipformer import DIMENSIONS
from tests.models.encoder_decoders import MOONSHINE, WHISPER, network
from tests.models.test_speech_model import network as with_head
from tests.speech.data.test_sources import cuts

WHISPER_OF_2_S = {**WHISPER, "max_source_positions": 100}


@pytest.mark.parametrize("tail", [None, 0.5, 30.0])
def test_whisper_hears_a_window(tmp_path: Path, tail: float) -> None:
    encoder = network(WHISPER_OF_2_S).encoder
    assert encoder.window == Window(200, None)
    encoder = encoder if tail is None else encoder.with_tail(tail)
    assert AudioEncoderConfig.from_dict(asdict(encoder.config)).tail == tail, "it is recorded with the network"
    source = source_of(encoder)
    assert source.recorded and source.longest == 2.0
    from lhotse import load_manifest

    for cut in load_manifest(cuts(tmp_path)):
        features = source.load(cut)
        output = encoder(features[None], torch.tensor([len(features)]))
        assert output.output.shape[1] == output.lengths.item() == source.frames(cut)
        assert len(features) == input_length(encoder, cut.duration)
    assert [input_length(encoder, seconds) for seconds in (1.0, 10.0)] == [150 if tail == 0.5 else 200, 200]


def test_other_encoders_have_no_window() -> None:
    moonshine = network(MOONSHINE).encoder
    assert moonshine.window is None and source_of(moonshine).recorded and input_length(moonshine, 10.0) == 160000
    for encoder in (moonshine, with_head("conformer").encoder):
        with pytest.raises(UserError, match="leave out the tail"):
            encoder.with_tail(1.0)
    with pytest.raises(ValueError, match="moonshine takes samples, which have no tail, got tail 1.0"):
        AudioEncoder(replace(moonshine.config, tail=1.0))
    conformer = with_head("conformer").encoder
    assert source_of(conformer).load is FEATURES.load and input_length(conformer, 10.0) == 1000


@pytest.mark.parametrize("kind", ["conformer", "zipformer"])
def test_frames_of_features_are_those_of_the_encoder(kind: str) -> None:
    """Zipformers make other numbers of them than Conformers."""
    torch.manual_seed(0)
    zipformer = PrunableZipformer(ZipformerConfig(**DIMENSIONS))
    encoder = zipformer if kind == "zipformer" else with_head("conformer").encoder
    source = source_of(encoder.eval())
    for frames in (9, 11, 15, 40, 41, 42, 43, 44):
        cut = SimpleNamespace(has_features=True, num_frames=frames)
        output = encoder(torch.randn(1, frames, encoder.bins), torch.tensor([frames]))
        assert source.frames(cut) == output.lengths.item() == output.output.shape[1]


def test_a_tail_keeps_the_weights() -> None:
    encoder = network(WHISPER_OF_2_S).encoder
    other = encoder.with_tail(0.5)
    inputs, lengths = encoder.noise(torch.Generator().manual_seed(0))
    assert torch.equal(other(inputs, lengths).output, encoder(inputs, lengths).output)
