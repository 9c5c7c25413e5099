"""Recognise a test set: from batches of features to transcripts and timings."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor
from tqdm import tqdm

from pruning import clock
from pruning.files import PathLike
from pruning.speech.data.manifests import iterate_cuts
from pruning.speech.decoding.beam import Hypothesis
from pruning.speech.decoding.config import DecodingConfig
from pruning.speech.decoding.graphs import DecodingGraph
from pruning.speech.decoding.methods import LanguageModel, decode, decode_n_best
from pruning.speech.decoding.n_best import Entry
from pruning.speech.decoding.own_decoder import Bounds, transcribe
from pruning.speech.scoring.word_errors import SCORED, Transcript
from pruning.speech.scoring.word_errors import words_of as plain_words
from pruning.speech.text.transcript_form import TranscriptForm

logger = logging.getLogger(__name__)


class Recognition(NamedTuple):
    """Transcripts of a test set, wall-clock times in seconds, and n-best lists if requested."""

    transcripts: list[Transcript]
    audio_seconds: float
    encoder_seconds: float
    search_seconds: float
    words: int
    """Number of words of the references, as they are in the cuts."""
    entries: Sequence[Entry] = ()


@torch.no_grad()
def recognise(
    model: Any,
    batches: Iterable[Any],
    words_of: Callable[[list[int]], str],
    config: DecodingConfig,
    device: str = "cpu",
    words_in: Callable[[str], list[str]] = SCORED["words"],
    lm: Optional[LanguageModel] = None,
    graph: Optional[DecodingGraph] = None,
    num_hypotheses: int = 0,
    form: Optional[TranscriptForm] = None,
) -> Recognition:
    """Decode a test set.

    Args:
        model: network with its encoder, in evaluation mode, on ``device``.
        batches: :class:`pruning.speech.data.batches.Batch` objects; loading them is not timed.
        words_of: converts token ids to text.
        config: decoding method and settings.
        device: device to compute on.
        words_in: splits reference and hypothesis into the units that are scored, words or characters.
        lm: language model on ``device``, for the methods that need one.
        graph: decoding graph, for the methods that need one.
        num_hypotheses: length of the n-best lists, for the methods that have them; 0: no lists.
        form: how transcripts begin and end, for networks with a decoder that writes text.
    """
    entries: list[Entry] = []
    transcripts: list[Transcript] = []
    audio = encoding = searching = 0.0
    words = cut_off = 0
    for batch in tqdm(batches, unit="batch", disable=None):  # None: only on a terminal
        batch = batch.to(device)
        started = clock.now(device)
        encoded = model.encoder(batch.features, batch.lengths)
        between = clock.now(device)
        if form is not None:
            bounds = Bounds.of(form, batch.durations, config.tokens_per_second, model.decoder.room)
            tokens, ranked = transcribe(model, encoded.output, encoded.lengths, config, bounds)
            cut_off += bounds.reached(tokens)
        elif num_hypotheses:
            ranked = decode_n_best(model, encoded.output, encoded.lengths, config, lm)
            tokens = [hypotheses[0].tokens if hypotheses else [] for hypotheses in ranked]
        else:
            tokens = decode(model, encoded.output, encoded.lengths, config, lm, graph)
        searching += clock.now(device) - between
        encoding += between - started
        audio += batch.seconds
        words += sum(len(plain_words(text)) for text in batch.texts)
        transcripts += [
            Transcript(name, words_in(text), words_in(words_of(hypothesis)))
            for name, text, hypothesis in zip(batch.ids, batch.texts, tokens)
        ]
        if num_hypotheses:
            for name, hypotheses in zip(batch.ids, ranked):
                entries += _distinct(name, hypotheses, words_of)[:num_hypotheses]
    if cut_off:
        logger.warning("%d of %d texts were cut because they have more than %g tokens a second: they loop, or the "
                       "language needs a larger --tokens-per-second", cut_off, len(transcripts),
                       config.tokens_per_second)  # fmt: skip
    return Recognition(transcripts, audio, encoding, searching, words, entries)


def _distinct(name: str, hypotheses: Iterable[Hypothesis], words_of: Callable[[list[int]], str]) -> list[Entry]:
    """Return the distinct hypotheses of an utterance in their order; of those with equal words, the first."""
    found: dict[str, Entry] = {}
    for hypothesis in hypotheses:
        text = words_of(hypothesis.tokens)
        found.setdefault(text, Entry(name, hypothesis.score, text))
    return list(found.values())


@dataclass(frozen=True)
class FeatureTiming:
    """Time that computing features from waveforms in memory took."""

    seconds: float
    audio_seconds: float


def time_features(cuts_path: PathLike, extract: Optional[Callable[[Tensor], Any]] = None) -> Optional[FeatureTiming]:
    """Compute the features of a test set from its recordings, to time it for the real-time factor.

    Args:
        cuts_path: manifest of cuts with features, and recordings if the time is to be measured.
        extract: computes features of samples ``(S,)``; None: filter banks like those of the cuts.

    Returns:
        The time; None if a recording is missing or unusable (a log message names it).
    """
    seconds = audio_seconds = 0.0
    for cut in iterate_cuts(Path(cuts_path)):
        if not cut.has_recording:
            logger.warning("%s: cut %s has no recording; the real-time factor will exclude features", cuts_path, cut.id)
            return None
        try:
            samples = cut.load_audio()
            extract = extract or _filter_banks(cut)
            started = time.perf_counter()
            extract(torch.from_numpy(samples[0]))
            seconds += time.perf_counter() - started
        except Exception as error:  # raised by any audio backend; losing the timing is better than losing the results
            logger.warning("%s: cut %s: features cannot be computed (%s); the real-time factor will exclude features",
                           cuts_path, cut.id, error)  # fmt: skip
            return None
        audio_seconds += cut.duration
    return FeatureTiming(seconds, audio_seconds)


def _filter_banks(cut: Any) -> Callable[[Tensor], Any]:
    """Return what computes filter banks like those of ``cut``."""
    from lhotse import Fbank, FbankConfig

    extractor = Fbank(FbankConfig(sampling_rate=cut.sampling_rate, num_mel_bins=cut.num_features or 80))
    return lambda samples: extractor.extract(samples, cut.sampling_rate)
