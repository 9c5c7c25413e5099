"""Configurations of the synthetic corpora. Does not import numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Optional

from pruning.limits import Count, NonNegative, Number, Range, Seed, check_ascending, check_fields
from pruning.speech.corpora.synthetic.voices import ACCENTS, TRAINING_VARIANTS

Accents = Annotated[int, Range(int, least=1, most=len(ACCENTS))]
Variants = Annotated[int, Range(int, least=1, most=len(TRAINING_VARIANTS))]


@dataclass(frozen=True)
class TextConfig:
    """A text that sentences are drawn from.

    Attributes:
        fingerprint: fingerprint of the file.
        words: least and greatest number of words in a sentence.
    """

    fingerprint: str
    words: tuple[Count, Count] = (3, 14)

    def __post_init__(self) -> None:
        check_fields(self)
        check_ascending("words", self.words)


@dataclass(frozen=True)
class CorpusConfig:
    """Configuration of the synthetic LibriSpeech.

    Difficulty depends on ``text``, ``vocabulary_size``, ``accents``, ``variants``, ``train_snr`` and ``other_*``.

    Attributes:
        seed: seed of all random numbers.
        train_utterances: number of utterances in train-clean-mini, about 3.2 s each.
        dev_utterances: number of utterances in dev-clean-mini.
        test_words: minimum number of words in each of test-clean and test-other.
        text: text with the sentences; None: sentences of a grammar.
        vocabulary_size: approximate number of words that fill the sentence templates of the grammar.
        accents: number of English accents, the most similar first.
        variants: number of voice variants in training, dev and test-clean.
        utterances_per_speaker: number of utterances after which the speaker (accent, variant, speed, pitch) changes.
        train_snr: signal-to-noise ratio of all parts except test-other, in dB.
        other_snr: signal-to-noise ratio of test-other, in dB.
        other_reverberation_time: T60 of the rooms of test-other, in seconds.
    """

    seed: Seed = 0
    train_utterances: Count = 2000
    dev_utterances: Count = 120
    test_words: Count = 4000
    text: Optional[TextConfig] = None
    vocabulary_size: Count = 220
    accents: Accents = 2
    variants: Variants = 16
    utterances_per_speaker: Count = 12
    train_snr: tuple[Number, Number] = (15.0, 40.0)
    other_snr: tuple[Number, Number] = (8.0, 25.0)
    other_reverberation_time: tuple[NonNegative, NonNegative] = (0.15, 0.4)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("train_snr", "other_snr", "other_reverberation_time"):
            check_ascending(name, getattr(self, name))


@dataclass(frozen=True)
class SlurpCorpusConfig:
    """Configuration of the synthetic SLURP.

    Attributes:
        seed: seed of all random numbers.
        annotations: fingerprint of the real annotations that provide the sentences; None: sentences from templates.
        train_sentences, devel_sentences, test_sentences: number of template sentences in each part.
        devel_share: with real annotations, share of ``devel.jsonl`` used as devel; the rest is train.
        recordings: number of recordings of each training sentence, with different voices.
        accents, variants: of training and devel, as in `CorpusConfig`; test has other variants.
        sentences_per_speaker: number of sentences after which the speaker changes.
        snr: signal-to-noise ratio in dB.
    """

    seed: Seed = 0
    annotations: Optional[str] = None
    train_sentences: Count = 1000
    devel_sentences: Count = 100
    test_sentences: Count = 300
    devel_share: Annotated[float, Range(above=0, below=1)] = 0.1
    recordings: Count = 1
    accents: Accents = 2
    variants: Variants = 40
    sentences_per_speaker: Count = 12
    snr: tuple[Number, Number] = (15.0, 40.0)

    def __post_init__(self) -> None:
        check_fields(self)
        check_ascending("snr", self.snr)
