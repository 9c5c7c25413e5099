"""Tables of language models: how much one is worse than another."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pruning.errors import UserError
from pruning.experiments.measurement import PERPLEXITY, Measurement, Utterances, path_of
from pruning.reports import language_models


def measured(place: Path, nll: np.ndarray, words: np.ndarray) -> Path:
    """Write what the perplexity command writes."""
    columns = {"word_nll": nll.tolist(), "words": words.tolist()}
    found = Measurement(PERPLEXITY, "test", Utterances.sentences(len(words)), columns, {"left_out": 0})
    found.write(path_of(place, PERPLEXITY, "test"))
    return place


def test_one_against_another(tmp_path: Path) -> None:
    """A model that is 3 % worse in every word is so in every draw; noise between sentences widens the interval."""
    generator = np.random.default_rng(0)
    words = generator.integers(3, 12, 200)
    nll = words * 5.0
    first = measured(tmp_path / "first", nll, words)
    worse = measured(tmp_path / "worse", nll + words * math.log(1.03), words)
    noisy = measured(tmp_path / "noisy", nll + words * math.log(1.03) + generator.normal(0, 3, 200), words)
    assert language_models.excess(worse, first, "test") == pytest.approx((3.0, 3.0, 3.0), abs=1e-2)
    value, low, high = language_models.excess(noisy, first, "test")
    assert low < value < high and high - low > 3
    lms = [("dense", first), ("half", worse)]
    table = language_models.perplexities(lms, ["test"], against={"half": "dense"})
    assert "+3.00 (3.00 to 3.00) dense" in table and f"{math.exp(5):.2f}" in table
    assert "% above" not in language_models.perplexities(lms, ["test"])
    with pytest.raises(UserError, match="--against names 'other', which is not in --lms"):
        language_models.perplexities(lms, ["test"], against={"half": "other"})


def test_other_words_are_refused(tmp_path: Path) -> None:
    words = np.array([3, 4])
    first, other = measured(tmp_path / "a", words * 2.0, words), measured(tmp_path / "b", words * 2.0, words + 1)
    with pytest.raises(UserError, match="different words of test"):
        language_models.excess(first, other, "test")
