"""What an encoder gets of a recording, and how: samples, filter banks that cuts have, or Whisper's features."""

from __future__ import annotations

from functools import partial
from typing import Union

import torch

from pruning.models import facts
from pruning.models.encoder import Encoder, Window
from pruning.speech.data import sources
from pruning.speech.data.augment import SampleAugment, SpecAugment
from pruning.speech.data.data_config import DataConfig
from pruning.speech.data.sources import Source
from pruning.speech.data.whisper_features import WhisperFeatureConfig


def source_of(encoder: Encoder) -> Source:
    """Return the input of an encoder: how it is made of cuts."""
    count = partial(_frames, encoder)
    if encoder.window is not None:
        return sources.whisper(_features(encoder.window, encoder.bins), count)
    return sources.features(count) if encoder.bins else sources.audio(facts.SAMPLES_PER_SECOND, count)


_CLOSING = 30


def silence_of(encoder: Encoder) -> int:
    """Return the frames of silence behind an utterance that is decoded, as in icefall's ``zipformer/decode.py``."""
    return _CLOSING if encoder.causal else 0


def input_length(encoder: Encoder, seconds: float) -> int:
    """Return the number of frames or samples that an encoder gets for ``seconds`` of audio.

    Silence after the audio counts, but longer audio than the window is cut at its end.
    """
    if encoder.window is not None:
        config = _features(encoder.window, encoder.bins)
        return config.frames(facts.samples_of(min(seconds, config.seconds)))
    return facts.frames_of(seconds) if encoder.bins else facts.samples_of(seconds)


_WHISPER_MASK = 0.0
"""Value of masked features of Whisper, as in transformers; their mean would depend on the silence in the window."""


def augmentation(encoder: Encoder, config: DataConfig) -> Union[SpecAugment, SampleAugment]:
    """Return the augmentation of an encoder's input in training."""
    if encoder.window is not None:
        return SpecAugment(config.spec_augment, _WHISPER_MASK)
    if encoder.bins:
        return SpecAugment(config.spec_augment)
    return SampleAugment(config.sample_augment, facts.SAMPLES_PER_SECOND)


def _features(window: Window, bins: int) -> WhisperFeatureConfig:
    return WhisperFeatureConfig(bins, window.tail, window.frames)


def _frames(encoder: Encoder, inputs: int) -> int:
    return int(encoder.frame_lengths(torch.tensor([inputs])))
