"""Sentences of the synthetic corpus: random fillers in templates, so that no language model can guess the words."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from pruning.errors import UserError
from pruning.speech.corpora.synthetic.vocabulary import CLASSES, DIGITS, TEENS, TEMPLATES, TENS

_IRREGULAR_PLURALS = {
    "goose": "geese", "knife": "knives", "mouse": "mice", "salmon": "salmon", "sheep": "sheep", "shelf": "shelves",
    "wolf": "wolves", "scarf": "scarves",
}  # fmt: skip
_MAXIMUM_DRAWS = 1000  # consecutive repeats after which the grammar counts as exhausted


def plural(noun: str) -> str:
    """The plural of a noun of the vocabulary."""
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


class Grammar:
    """Draws sentences from the templates over a vocabulary cut to ``vocabulary_size`` words.

    Args:
        vocabulary_size: about how many words the filler classes hold together; each class is cut to the same
            fraction, evenly spread over its alphabetical list, so that a smaller vocabulary is a subset of a larger.

    Raises:
        UserError: ``vocabulary_size`` is less than two words in each class.
    """

    def __init__(self, vocabulary_size: int) -> None:
        available = sum(len(words) for words in CLASSES.values())
        if vocabulary_size < 2 * len(CLASSES):
            raise UserError(
                f"a vocabulary of {vocabulary_size} words is too small for {len(CLASSES)} word classes",
                f"give a size between {2 * len(CLASSES)} and {available}",
            )
        fraction = min(1.0, vocabulary_size / available)
        self.classes = {name: _spread(words, fraction) for name, words in CLASSES.items()}

    def sentence(self, generator: np.random.Generator) -> str:
        """One sentence in lower case, words separated by a space."""
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

    def unique_sentences(
        self,
        generator: np.random.Generator,
        count: int = 0,
        words: int = 0,
        excluded: Collection[str] = (),
    ) -> list[str]:
        """Different sentences: at least ``count`` of them, with at least ``words`` words together, none ``excluded``.

        Raises:
            UserError: the vocabulary is too small for that many different sentences.
        """
        sentences: dict[str, None] = {}  # a dict keeps the order of drawing
        total = repeats = 0
        while len(sentences) < count or total < words:
            candidate = self.sentence(generator)
            if candidate in sentences or candidate in excluded:
                repeats += 1
                if repeats > _MAXIMUM_DRAWS:
                    raise UserError(
                        f"the grammar has no more than {len(sentences)} new sentences",
                        "ask for fewer utterances or a larger --vocabulary-size",
                    )
                continue
            repeats = 0
            sentences[candidate] = None
            total += len(candidate.split())
        return list(sentences)


def _spread(words: tuple[str, ...], fraction: float) -> tuple[str, ...]:
    """The share ``fraction`` of ``words`` (2 at least); smaller shares are subsets of larger ones.

    The rank is the van der Corput sequence of the position, which spreads every prefix evenly over the alphabet, so
    that a small vocabulary is not the words in A to D alone.
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
    """A number between two and nine hundred and ninety nine, as words; every length about equally often."""
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
