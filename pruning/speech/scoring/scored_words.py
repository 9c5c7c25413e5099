"""The words that are scored: of a text as it is, by characters, or after a normaliser that evaluations share."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import lru_cache
from typing import Optional

from pruning.optional import package
from pruning.speech.scoring.word_errors import SCORED

NORMALISERS = {"english": "whisper-normalizer"}
"""Normalisers by name, each with the package that has it.

``english`` is that of Whisper (arXiv 2212.04356, appendix C): case, punctuation, numbers, contractions, spelling and
hesitations. The package has its table of spellings in itself; transformers reads it from a file of a checkpoint,
which Moonshine's checkpoints lack.
"""


def scored_words(score_in: str, normaliser: Optional[str] = None) -> Callable[[str], list[str]]:
    """Return what splits a text into the units that are scored.

    Args:
        score_in: a name in `pruning.speech.scoring.word_errors.SCORED`.
        normaliser: a name in `NORMALISERS`; None: the text as it is.

    Raises:
        UserError: the package of the normaliser is not installed.
    """
    split = SCORED[score_in]
    if normaliser is None:
        return split
    normalise = _english()
    return lambda text: split(normalise(text))


def version_of(normaliser: str) -> str:
    """Return the package of a normaliser with its version.

    Raises:
        UserError: the package is not installed.
    """
    _english()
    name = NORMALISERS[normaliser]
    return f"{name} {importlib.metadata.version(name)}"


@lru_cache(maxsize=1)
def _english() -> Callable[[str], str]:
    found: Callable[[str], str] = package(
        "whisper_normalizer.english", "the English normaliser", "hf"
    ).EnglishTextNormalizer()
    return found
