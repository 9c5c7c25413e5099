"""N-grams against other people's readers of ARPA files: KenLM (where it is installed) and the package arpa."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from pruning.speech.ngrams import arpa
from pruning.speech.ngrams.kneser_ney import estimate

WORDS = "ABCDE"
Reader = Callable[[Path], Callable[[list[str]], float]]


def by_kenlm(path: Path) -> Callable[[list[str]], float]:
    """The log10 probability of a sentence, its end included."""
    model = pytest.importorskip("kenlm").Model(str(path))
    return lambda words: float(model.score(" ".join(words), bos=True, eos=True))


def by_arpa(path: Path) -> Callable[[list[str]], float]:
    """The same, of pure Python."""
    (model,) = pytest.importorskip("arpa").loadf(str(path))

    def score(words: list[str]) -> float:
        known = ["<s>", *(word if word in model else "<unk>" for word in words), "</s>"]
        return sum(
            model.log_p(" ".join(known[max(0, end - model.order() + 1) : end + 1])) for end in range(1, len(known))
        )

    return score


@pytest.mark.parametrize("reader", [by_kenlm, by_arpa])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=strategies.lists(strategies.lists(strategies.sampled_from(WORDS), min_size=1, max_size=7), min_size=4,
                           max_size=30),
    order=strategies.integers(2, 4),
    spoken=strategies.lists(strategies.sampled_from(WORDS + "XY"), max_size=8),
)  # fmt: skip
def test_sentences_score_alike(
    tmp_path: Path, reader: Reader, texts: list[list[str]], order: int, spoken: list[str]
) -> None:
    """Of any text and order, with words that the model does not know."""
    if max(map(len, texts)) + 2 < order:
        order = 2
    model = estimate([" ".join(text) for text in texts], order)
    path = tmp_path / "model.arpa"
    path.unlink(missing_ok=True)
    arpa.write(model, path)
    score = reader(path)
    for words in (spoken, texts[0]):
        assert sum(arpa.read(path).score(words)) / math.log(10) == pytest.approx(score(words), abs=1e-4)
        assert sum(model.score(words)) / math.log(10) == pytest.approx(score(words), abs=1e-3)


FOREIGN = """
\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-99\t<s>\t-0.5
-1.0\t</s>
-0.5\tA\t-0.25
-0.75\tB\t-0.125
-2.0\t<unk>

\\2-grams:
-0.25\t<s> A
-0.5\tA B
-0.625\tA </s>

\\end\\
"""


@pytest.mark.parametrize("reader", [by_kenlm, by_arpa])
@pytest.mark.parametrize("sentence", ["", "A", "B", "A B", "B A", "X", "A X B", "A A A"])
def test_files_of_others_score_alike(tmp_path: Path, reader: Reader, sentence: str) -> None:
    """Words without a back-off weight, and unknown words among known ones."""
    path = tmp_path / "some.arpa"
    path.write_text(FOREIGN)
    found = sum(arpa.read(path).score(sentence.split())) / math.log(10)
    assert found == pytest.approx(reader(path)(sentence.split()), abs=1e-5)
