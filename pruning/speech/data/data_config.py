"""Configuration of how cuts become batches: section ``data``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from pruning.limits import Count, Natural, NonNegative, Number, Positive, Share, check_ascending, check_fields
from pruning.speech.data.augment import SampleAugmentConfig, SpecAugmentConfig


@dataclass(frozen=True)
class DataConfig:
    """How cuts become batches.

    Attributes:
        max_duration: maximum seconds in a batch of what the network computes: audio, and the silence that Whisper adds
            up to the end of its window or tail.
        num_buckets: number of buckets of cuts with similar durations; use fewer for small corpora.
        buffer_size: number of cuts held in memory to sample from; None: 5,000 per bucket, as in icefall.
        num_workers: number of processes that load features; 0: the training process loads them.
        shuffle: whether training epochs have a random order.
        drop_last: leave out the incomplete batches at the end of an epoch, as icefall does. There are at most as many
            as buckets, but they are small, and steps on single utterances harm training. Use False for tiny corpora.
        min_cut_duration: shorter cuts (s) are dropped from training.
        max_cut_duration: longer cuts (s) are dropped from training.
        max_evaluated_duration: longer cuts (s) of dev and test sets are refused, unless a batch may be as long. The
            memory of attention grows with the square of the duration.
        musan_cuts: noise cuts with features to mix in, e.g. ``data/fbank/musan_cuts.jsonl.gz``; None: no noise.
        musan_probability: probability of mixing noise into a training cut.
        musan_snr: range of the signal-to-noise ratio in dB, which is drawn uniformly.
        spec_augment: augmentation of training features, done by the training process (see ``speech.data.augment``).
        sample_augment: augmentation of training audio, for networks that take samples as input.
    """

    max_duration: Positive = 200.0
    num_buckets: Count = 30
    buffer_size: Optional[Count] = None
    num_workers: Natural = 2
    shuffle: bool = True
    drop_last: bool = False
    min_cut_duration: NonNegative = 0.3
    max_cut_duration: Positive = 20.0
    max_evaluated_duration: Positive = 300.0
    musan_cuts: Optional[str] = None
    musan_probability: Share = 0.5
    musan_snr: tuple[Number, Number] = (10.0, 20.0)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    sample_augment: SampleAugmentConfig = field(default_factory=SampleAugmentConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        check_ascending("musan_snr", self.musan_snr)
        check_ascending("min_cut_duration to max_cut_duration", (self.min_cut_duration, self.max_cut_duration))

    @property
    def longest_evaluated(self) -> float:
        """Seconds of the longest cut of a dev or test set."""
        return max(self.max_evaluated_duration, self.max_duration)
