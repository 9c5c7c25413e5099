"""Sentences of the synthetic corpus: random fillers in templates, so that no language model can guess the words."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Protocol

import numpy as np

from pruning.errors import UserError
from pruning.speech.corpora.synthetic.vocabulary import CLASSES, DIGITS, TEENS, TEMPLATES, TENS

_IRREGULAR_PLURALS = {
    "goose": "geese", "knife": "knives", "mouse": "mice", "salmon": "salmon", "sheep": "sheep", "shelf": "shelves",
    "wolf": "wolves", "scarf": "scarves",
}  # fmt: skip
_MAXIMUM_DRAWS = 1000  # number of consecutive repeats after which the grammar is exhausted


def plural(noun: str) -> str:
    """Return the plural of a noun in the vocabulary."""
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


class Grammar:
    """Draws sentences from the templates, over a vocabulary reduced to ``vocabulary_size`` words.

    Args:
        vocabulary_size: approximate number of words in all filler classes; each class is reduced to the same fraction,
            evenly spread over its alphabetical list, so that smaller vocabularies are subsets of larger ones.

    Raises:
        UserError: ``vocabulary_size`` is less than two words per class.
    """

    remedy = "request fewer utterances or a larger --vocabulary-size"

    def __init__(self, vocabulary_size: int) -> None:
        available = sum(len(words) for words in CLASSES.values())
        if vocabulary_size < 2 * len(CLASSES):
            raise UserError(
                f"vocabulary size {vocabulary_size} is too small for {len(CLASSES)} word classes",
                f"give a size between {2 * len(CLASSES)} and {available}",
            )
        fraction = min(1.0, vocabulary_size / available)
        self.classes = {name: _spread(words, fraction) for name, words in CLASSES.items()}

    def sentence(self, generator: np.random.Generator) -> str:
        """Draw a sentence in lower case, with single spaces between words."""
        words: list[str] = []
        for symbol in _choose(generator, TEMPLATES).split():
            if symbol.islower():
                words.append(symbol)
            elif symbol == "NUMBER":
                words.extend(_number(generator))
            else:
                filler = _choose(generator, self.classes[symbol.rstrip("+")])
                words.append(plural(filler) if symbol.endswith("+") else filler)
        articles = [
            "an" if word == "a" and following[0] in "aeiou" and following != "useful" else word
            for word, following in zip(words, words[1:] + ["."])
        ]
        return " ".join(articles)


class Source(Protocol):
    """Where sentences come from.

    Attributes:
        remedy: what a user can do if it has too few sentences.
    """

    remedy: str

    def sentence(self, generator: np.random.Generator) -> str:
        """Draw a sentence in lower case, with single spaces between words."""


def unique_sentences(
    source: Source,
    generator: np.random.Generator,
    count: int = 0,
    words: int = 0,
    excluded: Collection[str] = (),
) -> list[str]:
    """Draw distinct sentences: at least ``count``, with at least ``words`` words in total, none in ``excluded``.

    Raises:
        UserError: the source has too few distinct sentences.
    """
    sentences: dict[str, None] = {}  # a dict keeps the order of drawing
    total = repeats = 0
    while len(sentences) < count or total < words:
        candidate = source.sentence(generator)
        if candidate in sentences or candidate in excluded:
            repeats += 1
            if repeats > _MAXIMUM_DRAWS:
                raise UserError(f"found only {len(sentences)} new sentences", source.remedy)
            continue
        repeats = 0
        sentences[candidate] = None
        total += len(candidate.split())
    return list(sentences)


def _spread(words: tuple[str, ...], fraction: float) -> tuple[str, ...]:
    """Return the share ``fraction`` of ``words`` (at least 2); smaller shares are subsets of larger ones.

    Words are ranked by the van der Corput sequence of their positions, which spreads every prefix evenly over the
    alphabet, so that a small vocabulary does not consist only of words from A to D.
    """

    def rank(position: int) -> float:
        value, weight = 0.0, 0.5
        while position:
            value += weight * (position & 1)
            position >>= 1
            weight /= 2
        return value

    keep = max(2, math.ceil(len(words) * fraction))
    chosen = sorted(range(len(words)), key=rank)[:keep]
    return tuple(words[index] for index in sorted(chosen))


def _choose(generator: np.random.Generator, items: tuple[str, ...]) -> str:
    return items[int(generator.integers(len(items)))]


def _number(generator: np.random.Generator) -> list[str]:
    """Draw a number between two and nine hundred and ninety nine, as words; all lengths are about equally likely."""
    digits, teens, tens = DIGITS.split(), TEENS.split(), TENS.split()
    kind = int(generator.integers(5))
    if kind == 0:
        return [_choose(generator, tuple(digits[1:]))]
    if kind == 1:
        return [_choose(generator, tuple(teens))]
    if kind == 2:
        return [_choose(generator, tuple(tens))]
    if kind == 3:
        return [_choose(generator, tuple(tens)), _choose(generator, tuple(digits))]
    return [_choose(generator, tuple(digits[1:])), "hundred"]
