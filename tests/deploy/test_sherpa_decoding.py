"""What sherpa-onnx is given of cuts: one channel, at the rate of the recording; its features at that of the cuts'."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Fbank, FbankConfig, LilcomChunkyWriter, Recording, SupervisionSegment

from pruning.deploy import sherpa_decoding as sherpa
from pruning.errors import UserError


@dataclass
class Heard:
    """A recogniser that writes down what it is given, and says how much that was."""

    given: list[tuple[int, np.ndarray]] = field(default_factory=list)
    text: str = ""

    @property
    def result(self) -> Heard:
        return self

    def create_stream(self) -> Heard:
        return self

    def accept_waveform(self, rate: int, samples: np.ndarray) -> None:
        self.given.append((rate, samples))

    def input_finished(self) -> None:
        """Nothing follows."""

    def decode_stream(self, stream: Heard) -> None:
        self.text = f"{len(self.given[-1][1])} SAMPLES"


def cuts(directory: Path, samples: np.ndarray, rate: int, features: Optional[int] = None) -> Path:
    """A manifest of one cut of a recording, with features of another sampling rate if one is given."""
    soundfile.write(directory / "a.wav", samples, rate)
    cut = Recording.from_file(directory / "a.wav", recording_id="a").to_cut()
    cut.supervisions = [SupervisionSegment("a", "a", 0.0, cut.duration, channel=0, text="8000 SAMPLES")]
    if features is not None:
        with LilcomChunkyWriter(directory / "feats") as writer:
            extractor = Fbank(FbankConfig(sampling_rate=features))
            cut.features = cut.resample(features).compute_and_store_features(extractor, writer).features
    path = directory / "x_cuts_test.jsonl.gz"
    CutSet.from_cuts([cut]).to_file(path)
    return path


def test_it_hears_the_recording_at_its_own_rate(tmp_path: Path) -> None:
    """Not at that of the features, by which the cut goes."""
    tone = np.sin(np.arange(8000) / 8)
    path, heard = cuts(tmp_path, tone, 8000, 16000), Heard()
    assert sherpa.sampling_rate([path]) == 16000
    ((name, reference, hypothesis, *_),) = sherpa.recognise(heard, path).transcripts
    ((rate, samples),) = heard.given
    assert rate == 8000 and samples.dtype == np.float32
    assert samples == pytest.approx(tone, abs=1e-3)
    assert name == "a" and reference == hypothesis == ["8000", "SAMPLES"]


def test_no_channel_of_several_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cut a has 2 channels; choose one of them"):
        sherpa.recognise(Heard(), cuts(tmp_path, np.zeros((8000, 2)), 8000))


def test_sets_of_different_rates_are_not_decoded_together(tmp_path: Path) -> None:
    paths = []
    for rate in (8000, 16000):
        (tmp_path / str(rate)).mkdir()
        paths.append(cuts(tmp_path / str(rate), np.zeros(rate), rate, rate))
    assert [sherpa.sampling_rate([path]) for path in paths] == [8000, 16000]
    with pytest.raises(UserError, match="different sampling rates .*8000.* has 8000 Hz, .*16000.* has 16000 Hz"):
        sherpa.sampling_rate(paths)


def test_what_cannot_be_heard_is_named(tmp_path: Path) -> None:
    path = cuts(tmp_path, np.zeros(8000), 8000)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(UserError, match="cannot read the audio of cut a"):
        sherpa.recognise(Heard(), path)


def test_silence_follows_a_stream() -> None:
    """At least a step, of which sherpa-onnx decodes no part."""
    heard = Heard()
    stream = sherpa.OnlineStream(heard, 1.41)
    stream.accept_waveform(16000, np.ones(100, dtype=np.float32))
    assert [len(samples) for _, samples in heard.given] == [100, 22560] and not heard.given[1][1].any()
