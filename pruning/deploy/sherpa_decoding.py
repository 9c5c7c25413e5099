"""Decode recordings with sherpa-onnx from an export, as in deployment: transducers, Whisper and Moonshine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from pruning.deploy.exported import ExportedPart
from pruning.errors import UserError
from pruning.files import PathLike
from pruning.kinds import moonshine_export, whisper_export
from pruning.kinds.forms import FORMS
from pruning.kinds.transducer_export import PARTS
from pruning.optional import package
from pruning.speech.data import sources
from pruning.speech.data.manifests import iterate_cuts
from pruning.speech.decoding.recognition import Recognition
from pruning.speech.decoding.sherpa_rules import LEAST_TAIL, WINDOW
from pruning.speech.scoring.word_errors import SCORED, Transcript, words_of

_RATE, _FRAMES_PER_SECOND = 16000, 100
_TAIL = 0.8  # seconds of silence after the recording of a stream, at least


def recogniser(
    directory: PathLike, form: str = "float32", threads: int = 1, feature_dim: int = 80, sampling_rate: int = _RATE,
    streaming: bool = False,
) -> Any:  # fmt: skip
    """Return sherpa-onnx's offline recogniser for an export, or an `OnlineRecogniser`, with greedy search.

    Args:
        directory: directory of the export.
        form: ``float32`` or ``int8``.
        threads: number of threads.
        feature_dim: number of bins of the features that it computes.
        sampling_rate: sampling rate of the audio that it computes them from, in Hz; it resamples other audio.
        streaming: whether the export is of a stream.

    Raises:
        UserError: sherpa-onnx is not installed, a file is missing, or the form is TorchScript.
    """
    sherpa_onnx, paths = _found(directory, PARTS, form)
    kind = sherpa_onnx.OnlineRecognizer if streaming else sherpa_onnx.OfflineRecognizer
    made = kind.from_transducer(
        **paths, num_threads=threads, feature_dim=feature_dim, sample_rate=sampling_rate,
        decoding_method="greedy_search",
    )  # fmt: skip
    if not streaming:
        return made
    step = float(ExportedPart(_file(directory, PARTS[0], form), 1).metadata["T"]) / _FRAMES_PER_SECOND
    return OnlineRecogniser(made, max(_TAIL, step))


class _Result(NamedTuple):
    text: str


class OnlineStream:
    """A recording that is decoded as a stream; see `OnlineRecogniser`."""

    def __init__(self, stream: Any, tail: float) -> None:
        self.stream, self.result = stream, _Result("")
        self._tail = tail

    def accept_waveform(self, rate: int, samples: Any) -> None:
        """Take a whole recording, samples ``(S,)`` at ``rate`` Hz, and silence, with which its last chunk is full."""
        self.stream.accept_waveform(rate, samples)
        self.stream.accept_waveform(rate, np.zeros(int(self._tail * rate), dtype=np.float32))
        self.stream.input_finished()


class OnlineRecogniser:
    """sherpa-onnx's online recogniser with the interface of its offline one.

    Args:
        recognizer: ``sherpa_onnx.OnlineRecognizer``.
        tail: seconds of silence after each recording, at least those of a step: the recogniser drops what is less.
    """

    def __init__(self, recognizer: Any, tail: float) -> None:
        self.recognizer, self._tail = recognizer, tail

    def create_stream(self) -> OnlineStream:
        """Return a stream for one recording."""
        return OnlineStream(self.recognizer.create_stream(), self._tail)

    def decode_stream(self, stream: OnlineStream) -> None:
        """Decode all of a recording, chunk by chunk, and set ``stream.result``."""
        while self.recognizer.is_ready(stream.stream):
            self.recognizer.decode_stream(stream.stream)
        stream.result = _Result(self.recognizer.get_result(stream.stream))


def is_encoder_decoder(directory: PathLike) -> bool:
    """Return whether a directory has the export of a Whisper or a Moonshine."""
    return _is_moonshine(directory) or (not _file(directory, PARTS[-1]).is_file()
                                        and _file(directory, whisper_export.DECODER).is_file())  # fmt: skip


def encoder_decoder_parts(directory: PathLike) -> tuple[str, ...]:
    """Return the names of the parts of a Whisper or a Moonshine."""
    return moonshine_export.PARTS if _is_moonshine(directory) else whisper_export.PARTS


def longest_heard(files: Mapping[str, ExportedPart]) -> Optional[float]:
    """Return the seconds of a recording that sherpa-onnx hears with the files of a Whisper; None: all, of a Moonshine.

    It drops what is beyond without a word.
    """
    if whisper_export.ENCODER not in files:
        return None
    window = 2 * int(files[whisper_export.ENCODER].metadata["n_audio_ctx"])
    return min(WINDOW - LEAST_TAIL, window) / _FRAMES_PER_SECOND


def encoder_decoder_recogniser(directory: PathLike, form: str = "float32", threads: int = 1) -> Any:
    """Return sherpa-onnx's offline recogniser for a Whisper or a Moonshine, with greedy search.

    A Whisper of several languages is asked for the language and the task that it was imported with.

    Args:
        directory: directory of the export.
        form: ``float32`` or ``int8``.
        threads: number of threads.

    Raises:
        UserError: sherpa-onnx is not installed, a file is missing, or the form is not ONNX.
    """
    sherpa_onnx, paths = _found(directory, encoder_decoder_parts(directory), form)
    if _is_moonshine(directory):
        given = {"preprocess": "preprocessor", "encode": "encoder", "uncached_decode": "uncached_decoder",
                 "cached_decode": "cached_decoder"}  # fmt: skip
        renamed = {given.get(name, name): path for name, path in paths.items()}
        return sherpa_onnx.OfflineRecognizer.from_moonshine(**renamed, num_threads=threads)
    facts = ExportedPart(_file(directory, whisper_export.ENCODER), 1).metadata
    return sherpa_onnx.OfflineRecognizer.from_whisper(
        **paths, **whisper_export.asked_for(facts), num_threads=threads, decoding_method="greedy_search"
    )


def _file(directory: PathLike, part: str, form: str = "float32") -> Path:
    return Path(directory) / f"{part}{FORMS[form]}"


def _is_moonshine(directory: PathLike) -> bool:
    return _file(directory, moonshine_export.CACHED).is_file()


def _found(directory: PathLike, parts: Sequence[str], form: str) -> tuple[Any, dict[str, str]]:
    """Return the package, and the paths of the parts and of the tokens."""
    if not FORMS[form].endswith(".onnx"):
        raise UserError(f"sherpa-onnx does not load {form}", "choose float32 or int8")
    files = {name: _file(directory, name, form) for name in parts}
    files["tokens"] = Path(directory) / "tokens.txt"
    for path in files.values():
        if not path.is_file():
            raise UserError(f"{path} does not exist", "export it: python -m pruning.bin.export --help")
    return package("sherpa_onnx", "this engine"), {name: str(path) for name, path in files.items()}


def sampling_rate(cuts: Sequence[PathLike]) -> int:
    """The sampling rate (Hz) that the features of test sets were computed at, by the first cut of each.

    Raises:
        UserError: they were computed at different ones.
    """
    rates = {path: int(cut.sampling_rate) for path in cuts for cut in itertools.islice(iterate_cuts(Path(path)), 1)}
    if len(set(rates.values())) > 1:
        what = ", ".join(f"{path} has {rate} Hz" for path, rate in rates.items())
        raise UserError(f"features of different sampling rates ({what})", "decode them one after the other")
    return next(iter(rates.values()), _RATE)


def recognise(recognizer: Any, cuts: PathLike, words_in: Callable[[str], list[str]] = SCORED["words"]) -> Recognition:
    """Decode the recordings of a test set one by one. The time includes all that sherpa-onnx does, also features.

    Args:
        recognizer: returned by `recogniser`.
        cuts: manifest of the test set, with recordings.
        words_in: function that splits reference and hypothesis into scored units.

    Raises:
        UserError: a cut has no recording, or its audio cannot be read, has several channels or no finite samples.
    """
    transcripts: list[Transcript] = []
    audio = computing = 0.0
    words = 0
    for cut in tqdm(iterate_cuts(Path(cuts)), unit="cut", disable=None):
        if not cut.has_recording:
            raise UserError(f"{cuts}: cut {cut.id} has no recording", "give cuts with recordings for sherpa-onnx")
        rate = sources.rate_of(cut)
        samples = sources.load_audio(rate, cut).numpy()
        started = time.perf_counter()
        stream = recognizer.create_stream()
        stream.accept_waveform(rate, samples)
        recognizer.decode_stream(stream)
        computing += time.perf_counter() - started
        audio += cut.duration
        reference = " ".join(one.text or "" for one in cut.supervisions)
        words += len(words_of(reference))
        transcripts.append(Transcript(cut.id, words_in(reference), words_in(stream.result.text)))
    return Recognition(transcripts, audio, computing, 0.0, words)
