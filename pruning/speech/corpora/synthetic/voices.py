"""Speakers of the synthetic corpora: accents and voice variants of eSpeak NG, with speed and pitch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-gb-x-gbcwmd", "en-029", "en-gb-x-gbclan")
"""English accents of eSpeak NG, the most similar first."""

# Robots, whispers and voices that clip are left out.
_TRAINING = """Alex Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Lee Mario Michael Mike Nguyen RicishayMax adam
announcer aunty belinda benjamin boris caleb david ed edward edward2 f1 f2 f3 f5 grandma ian john kaukovalta linda
m1 m2 m3 m4 m6 m7 marcelo max michel norbert pablo quincy rob shelby steph steph3 travis victor zac"""
_HELD_OUT = """Alicia Andrea Reed anika f4 grandpa gustave iven4 klatt2 klatt6 m5 m8 miguel robert sandro steph2"""
_FEMALE = """Alicia Andrea Annie anika aunty belinda f1 f2 f3 f4 f5 grandma linda shelby steph steph2 steph3"""

TRAINING_VARIANTS = tuple(_TRAINING.split())
"""Voice variants of training, dev and test-clean."""

HELD_OUT_VARIANTS = tuple(_HELD_OUT.split())
"""Voice variants used only in test-other."""

_WORDS_PER_MINUTE = (150, 200)
_PITCH = (30, 70)  # range 0 to 99; 50 is the variant's own pitch
_PITCH_RANGE = (35, 65)
_UTTERANCE_RATE_JITTER, _UTTERANCE_PITCH_JITTER = 0.06, 4


@dataclass(frozen=True)
class Voice:
    """A voice of eSpeak NG: accent and variant joined by ``+``, words per minute, pitch and its range in 0..99."""

    name: str
    words_per_minute: int
    pitch: int
    pitch_range: int

    def jittered(self, generator: np.random.Generator) -> Voice:
        """Return the voice with slightly different speed and pitch, for another utterance."""
        rate = 1 + generator.uniform(-_UTTERANCE_RATE_JITTER, _UTTERANCE_RATE_JITTER)
        pitch = self.pitch + int(generator.integers(-_UTTERANCE_PITCH_JITTER, _UTTERANCE_PITCH_JITTER + 1))
        return Voice(self.name, round(self.words_per_minute * rate), pitch, self.pitch_range)


@dataclass(frozen=True)
class Speaker:
    """A speaker: number and chapter as in LibriSpeech, sex, and voice."""

    number: int
    chapter: int
    sex: str
    voice: Voice


def draw_speaker(
    generator: np.random.Generator, number: int, variants: tuple[str, ...], accents: tuple[str, ...]
) -> Speaker:
    """Draw the voice of speaker ``number``: accent, variant, speed, pitch and its range, all independent."""
    variant = variants[int(generator.integers(len(variants)))]
    accent = accents[int(generator.integers(len(accents)))]
    voice = Voice(
        name=f"{accent}+{variant}",
        words_per_minute=int(generator.integers(*_WORDS_PER_MINUTE)),
        pitch=int(generator.integers(*_PITCH)),
        pitch_range=int(generator.integers(*_PITCH_RANGE)),
    )
    return Speaker(number=number, chapter=100000 + number, sex="F" if variant in _FEMALE.split() else "M", voice=voice)
