"""How cuts become batches: the section ``data`` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from pruning.limits import Count, Natural, NonNegative, Number, Positive, Share, check_ascending, check_fields
from pruning.speech.data.augment import SampleAugmentConfig, SpecAugmentConfig


@dataclass(frozen=True)
class DataConfig:
    """How cuts become batches.

    Attributes:
        max_duration: seconds of audio in a batch, at most.
        num_buckets: cuts of like duration are batched together; fewer for small corpora.
        buffer_size: cuts held in memory to draw from; None: 5,000 a bucket, as icefall.
        num_workers: processes that load features; 0: the training process itself.
        shuffle: whether an epoch of training has a random order.
        drop_last: leave out of an epoch the batches at its end that did not fill up, as icefall does. They are as few
            as the buckets, but small: each step on a single utterance undoes a little. False for seconds of data.
        min_cut_duration: shorter cuts (s) are dropped from training.
        max_cut_duration: longer cuts (s) are dropped from training.
        musan_cuts: cuts with features of noise to mix in, e.g. ``data/fbank/musan_cuts.jsonl.gz``; None: no noise.
        musan_probability: of mixing noise into a training cut.
        musan_snr: signal-to-noise ratio in dB, drawn uniformly from this range.
        spec_augment: augmentation of training features, done by the training process (see ``speech.augment``).
        sample_augment: the same of training audio, for networks that hear samples.
    """

    max_duration: Positive = 200.0
    num_buckets: Count = 30
    buffer_size: Optional[Count] = None
    num_workers: Natural = 2
    shuffle: bool = True
    drop_last: bool = False
    min_cut_duration: NonNegative = 0.3
    max_cut_duration: Positive = 20.0
    musan_cuts: Optional[str] = None
    musan_probability: Share = 0.5
    musan_snr: tuple[Number, Number] = (10.0, 20.0)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    sample_augment: SampleAugmentConfig = field(default_factory=SampleAugmentConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        check_ascending("musan_snr", self.musan_snr)
        check_ascending("min_cut_duration to max_cut_duration", (self.min_cut_duration, self.max_cut_duration))
