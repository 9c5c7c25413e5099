"""What the synthetic corpora hold. Needs no numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from pruning.errors import UserError
from pruning.speech.corpora.synthetic.voices import ACCENTS, TRAINING_VARIANTS


@dataclass(frozen=True)
class CorpusConfig:
    """What the corpus holds. Difficulty: ``vocabulary_size``, ``accents``, ``variants``, ``train_snr``, ``other_*``.

    Attributes:
        seed: of everything random.
        train_utterances: in train-clean-mini, about 3.2 s each.
        dev_utterances: in dev-clean-mini.
        test_words: at least so many in each of test-clean and test-other.
        vocabulary_size: about how many words fill the sentence templates.
        accents: how many English accents are spoken, the nearest to each other first.
        variants: how many voice variants speak in training, dev and test-clean.
        utterances_per_speaker: every so many utterances the speaker (accent, variant, speed, pitch) changes.
        train_snr: signal-to-noise ratio of all parts but test-other, in dB.
        other_snr: signal-to-noise ratio of test-other, in dB.
        other_reverberation_time: T60 of test-other's rooms, in seconds.
    """

    seed: int = 0
    train_utterances: int = 2000
    dev_utterances: int = 120
    test_words: int = 4000
    vocabulary_size: int = 220
    accents: int = 2
    variants: int = 16
    utterances_per_speaker: int = 12
    train_snr: tuple[float, float] = (15.0, 40.0)
    other_snr: tuple[float, float] = (8.0, 25.0)
    other_reverberation_time: tuple[float, float] = (0.15, 0.4)

    def __post_init__(self) -> None:
        for name, limit in (("accents", len(ACCENTS)), ("variants", len(TRAINING_VARIANTS))):
            if not 1 <= getattr(self, name) <= limit:
                raise UserError(f"{name} is {getattr(self, name)}", f"choose 1 to {limit}")
        for name in ("train_utterances", "dev_utterances", "test_words", "utterances_per_speaker"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", "choose at least 1")


@dataclass(frozen=True)
class SlurpCorpusConfig:
    """What the corpus holds.

    Attributes:
        seed: of everything random.
        annotations: fingerprint of the real annotations, which then are the sentences; None: templates.
        train_sentences, devel_sentences, test_sentences: of the templates.
        devel_share: of real annotations: share of ``devel.jsonl`` that is devel; the rest is train.
        recordings: of each training sentence, by different voices.
        accents, variants: of training and devel, as in `CorpusConfig`; test is spoken by other variants.
        sentences_per_speaker: after so many the speaker changes.
        snr: signal-to-noise ratio in dB.
    """

    seed: int = 0
    annotations: Optional[str] = None
    train_sentences: int = 1000
    devel_sentences: int = 100
    test_sentences: int = 300
    devel_share: float = 0.1
    recordings: int = 1
    accents: int = 2
    variants: int = 40
    sentences_per_speaker: int = 12
    snr: tuple[float, float] = (15.0, 40.0)

    def __post_init__(self) -> None:
        numbers = (self.train_sentences, self.devel_sentences, self.test_sentences, self.recordings,
                   self.sentences_per_speaker)  # fmt: skip
        if min(numbers) < 1 or not 0 < self.devel_share < 1:
            raise UserError("a number of sentences or recordings is below 1, or a share is not one", "correct it")
        for name, limit in (("accents", len(ACCENTS)), ("variants", len(TRAINING_VARIANTS))):
            if not 1 <= getattr(self, name) <= limit:
                raise UserError(f"{name} is {getattr(self, name)}", f"choose 1 to {limit}")
