"""n-gram models: Kneser-Ney formulas in plain Python, sums to one, valid and broken ARPA files."""

from __future__ import annotations

import gzip
import itertools
import logging
import math
import random
import re
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pruning.errors import UserError
from pruning.speech.ngrams import arpa
from pruning.speech.ngrams.kneser_ney import FALLBACK_DISCOUNTS, estimate
from pruning.speech.ngrams.ngram import NgramModel, State
from tests import forked

ROOT = Path(__file__).resolve().parents[3]
TEXTS = ["A B C", "A B D", "B C A", "C C", "A B C D", "D"]

words = st.sampled_from("ABCDE")
corpora = st.lists(st.lists(words, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=12)
histories = st.tuples(st.booleans(), st.lists(st.sampled_from([*"ABCDE", "X"]), max_size=4))


class Oracle:
    """The same model, computed directly from the formulas with sets and dictionaries, for any history."""

    def __init__(self, texts: Sequence[str], order: int, vocabulary: Sequence[str]) -> None:
        self.order, self.vocabulary = order, vocabulary
        sentences = [["<s>", *(self.known(word) for word in text.split()), "</s>"] for text in texts]
        self.occurrences = [
            Counter(tuple(s[i : i + n]) for s in sentences for i in range(len(s) - n + 1)) for n in range(order + 2)
        ]
        self.befores: dict[tuple[str, ...], set[str]] = {}
        for counts in self.occurrences[2:]:
            for sequence in counts:
                self.befores.setdefault(sequence[1:], set()).add(sequence[0])
        self.discounts = [self.estimate_discounts(n) for n in range(order + 1)]
        self.outcomes = [*vocabulary, "<unk>", "</s>"]

    def known(self, word: str) -> str:
        return word if word in self.vocabulary else "<unk>"

    def count(self, sequence: tuple[str, ...]) -> int:
        if sequence == ("<s>",):
            return 0
        if len(sequence) == self.order or sequence[0] == "<s>":
            return self.occurrences[len(sequence)][sequence]
        return len(self.befores.get(sequence, set()))

    def estimate_discounts(self, n: int) -> Sequence[float]:
        seen = Counter(self.count(sequence) for sequence in self.occurrences[n]) if n else Counter()
        if not (seen[1] and seen[2] and seen[3]):
            return FALLBACK_DISCOUNTS
        y = seen[1] / (seen[1] + 2 * seen[2])
        discounts = [k - (k + 1) * y * seen[k + 1] / seen[k] for k in (1, 2, 3)]
        return discounts if min(discounts) > 0 else FALLBACK_DISCOUNTS

    def probability(self, word: str, history: tuple[str, ...]) -> float:
        history = history[max(0, len(history) - self.order + 1) :]
        shorter = self.probability(word, history[1:]) if history else 1 / len(self.outcomes)
        counts = {outcome: self.count((*history, outcome)) for outcome in self.outcomes}
        if not any(counts.values()):
            return shorter
        discounts = (0.0, *self.discounts[len(history) + 1])
        taken = {outcome: discounts[min(count, 3)] for outcome, count in counts.items()}
        return (counts[word] - taken[word] + sum(taken.values()) * shorter) / sum(counts.values())


def reach(model: NgramModel, started: bool, history: Sequence[str]) -> State:
    """Return the state after ``history``, at the start of a sentence or within one."""
    state = model.start() if started else ()
    for word in history:
        _, state = model.advance(state, word)
    return state


def model_of(texts: Sequence[str], order: int, vocabulary: Sequence[str] = "ABCDE") -> NgramModel:
    assume(max(len(text.split()) for text in texts) + 2 >= order)
    return estimate(texts, order, vocabulary)


@settings(max_examples=150, deadline=None)
@given(texts=corpora, order=st.integers(1, 4), history=histories, vocabulary=st.sets(words, min_size=1))
def test_every_history_sums_to_one(
    texts: list[str], order: int, history: tuple[bool, list[str]], vocabulary: set[str]
) -> None:
    model = model_of(texts, order, sorted(vocabulary))
    outcomes = [*model.vocabulary, "<unk>", "</s>"]
    seen = {(True, tuple(text.split()[:end])) for text in texts for end in range(7)}
    for started, said in [*seen, (history[0], tuple(history[1])), (history[0], (*history[1], "</s>"))]:
        state = reach(model, started, said)
        assert sum(math.exp(model.advance(state, word)[0]) for word in outcomes) == pytest.approx(1, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(texts=corpora, order=st.integers(1, 5), history=histories, vocabulary=st.sets(words, min_size=1))
def test_probabilities_are_those_of_the_formulas(
    texts: list[str], order: int, history: tuple[bool, list[str]], vocabulary: set[str]
) -> None:
    model, oracle = model_of(texts, order, sorted(vocabulary)), Oracle(texts, order, sorted(vocabulary))
    state = reach(model, *history)
    said = (*["<s>"] * history[0], *map(oracle.known, history[1]))
    for word in oracle.outcomes:
        assert math.exp(model.advance(state, word)[0]) == pytest.approx(oracle.probability(word, said), rel=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_text_large_enough_for_discounts(order: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    draw = random.Random(order)  # not numpy's, whose draws change with its version

    def some(alpha: float, limit: int, count: int) -> list[int]:
        return [int(draw.paretovariate(alpha)) % limit for _ in range(count)]

    phrases = [" ".join(f"W{word}" for word in some(0.3, 200, 3)) for _ in range(500)]
    texts = [" ".join(phrases[number] for number in some(0.2, 500, 4)) for _ in range(150)]
    known = [f"W{number}" for number in range(150)]
    model, oracle = estimate(texts, order, known), Oracle(texts, order, known)
    assert not caplog.messages
    assert all(tuple(discounts) != FALLBACK_DISCOUNTS for discounts in oracle.discounts[1:])
    for text in texts[:20]:
        said = ["<s>", *map(oracle.known, text.split()), "</s>"]
        expected = [math.log(oracle.probability(said[i], tuple(said[:i]))) for i in range(1, len(said))]
        assert model.score(text.split()) == pytest.approx(expected, rel=1e-9)


def test_small_text_takes_fallback_discounts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = estimate(["A B"], 2)
    assert [message.split(":")[0] for message in caplog.messages] == ["1-grams", "2-grams"]
    assert all(str(FALLBACK_DISCOUNTS) in message for message in caplog.messages)
    # each of A, B, </s> follows one word, D1 = 0.5: (1 - 0.5) / 3 + 0.5 / 4; after A, (1 - 0.5) / 1 + 0.5 P(B)
    unigram = 0.5 / 3 + 0.5 / 4
    assert math.exp(model.advance((), "B")[0]) == pytest.approx(unigram)
    assert math.exp(model.score(["A", "B"])[1]) == pytest.approx(0.5 + 0.5 * unigram)


def test_state_is_as_long_as_it_matters() -> None:
    model = estimate(TEXTS, 3)
    _, state = model.advance(model.start(), "A")
    assert len(state) == 2
    assert reach(model, True, ["X", "X"]) == reach(model, True, ["D", "X", "X"])
    assert len(reach(model, True, ["A", "X"])) == 1
    assert estimate(TEXTS, 1).start() == reach(estimate(TEXTS, 1), True, ["A", "B"]) == ()


@settings(max_examples=50, deadline=None)
@given(sentence=st.lists(st.sampled_from([*"ABCD", "X", "<unk>", "<s>", "</s>"]), max_size=5))
def test_sentence_is_scored_word_by_word(sentence: list[str]) -> None:
    model = estimate(TEXTS, 3)
    state, expected = model.start(), []
    for word in ["<unk>" if word == "</s>" else word for word in sentence] + ["</s>"]:
        log_probability, state = model.advance(state, word)
        expected.append(log_probability)
    assert model.score(sentence) == expected
    assert model.out_of_vocabulary(sentence) == [word not in list("ABCD") for word in sentence]


def test_vocabulary() -> None:
    assert estimate(["B A", "", "A <unk> <UNK>"], 2).vocabulary == ("A", "B")
    rare = estimate(["B A", "A C"], 2, minimum_count=2)
    assert (rare.order, rare.vocabulary) == (2, ("A",))
    assert rare.score(["B"]) == rare.score(["C"]) == rare.score(["<unk>"])
    unseen = estimate(["A", "A A"], 2, ["A", "Z", "</s>"])
    assert unseen.vocabulary == ("A", "Z")
    assert unseen.score(["Z"])[0] == pytest.approx(unseen.score(["X"])[0])
    assert unseen.out_of_vocabulary(["A", "Z", "X"]) == [False, False, True]


@pytest.mark.parametrize(
    ("texts", "order", "vocabulary", "message"),
    [
        (["A"], 0, None, "must be at least 1, got 0"),
        (["A B", "B </s>"], 2, None, "line 2 of the text contains <s> or </s>"),
        (["A B", "C"], 5, None, "long enough for n-grams of order 5; give an order of at most 4"),
        ([" ", ""], 2, ["A"], "the text contains no words"),
        ([""], 2, None, "the vocabulary is empty"),
        (["A"], 2, ["A", "B C"], "'B C' in the vocabulary is not one word"),
    ],
)
def test_unusable_text(texts: list[str], order: int, vocabulary: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        estimate(texts, order, vocabulary)


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_arpa_holds_the_model(tmp_path: Path, order: int, name: str) -> None:
    model = estimate([*TEXTS, "É"], order)
    arpa.write(model, tmp_path / name)
    found = arpa.read(tmp_path / name)
    assert (found.order, found.vocabulary) == (order, model.vocabulary)
    for sentence in itertools.product(["A", "B", "C", "É", "X"], repeat=3):
        assert found.score(sentence) == pytest.approx(model.score(sentence), abs=1e-4)
    written = (tmp_path / name).read_bytes()  # compressed without a date
    assert written.startswith(b"\x1f\x8b\x08\0\0\0\0\0" if name.endswith(".gz") else b"\\data\\")


ARPA = """made by hand

\\data\\
ngram 1=5
ngram 2=3
ngram 3=2

\\1-grams:
-99\t<s>\t-0.5
-1.0\t</s>
-2.0\t<UNK>
-0.5\tA\t-0.25
-0.75\tB\t-0.125

\\2-grams:
-0.25 <s> A -0.0625
-0.5 A B
-1.5 A </s>

\\3-grams:
-0.125 <s> A B
-2.25 A B </s>

\\end\\
"""


def read_text(directory: Path, text: str) -> NgramModel:
    path = directory / "some.arpa"
    path.write_text(text, encoding="utf-8")
    return arpa.read(path)


def test_arpa_of_others(tmp_path: Path) -> None:
    """Tabs and spaces alike, ``<UNK>``, words in any order, and an n-gram whose end is pruned (B </s>)."""
    for text in (ARPA, ARPA.replace("\n", "\r\n")):
        model = read_text(tmp_path, text)
        assert (model.order, model.vocabulary) == (3, ("A", "B"))
        expected = {
            "A B": [-0.25, -0.125, -2.25],
            "B": [-0.5 - 0.75, -0.125 - 1.0],  # backs off from <s>, then from B
            "A A": [-0.25, -0.0625 - 0.25 - 0.5, -1.5],
            "X": [-2.5, -1.0],
        }
        for sentence, scores in expected.items():
            assert model.score(sentence.split()) == pytest.approx([math.log(10) * score for score in scores])


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_words_of_an_arpa_file_come_as_texts_do(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    """Else each word with an accent of its own would be unknown, and the perplexity another number."""
    text = re.sub(r"\bB\b", unicodedata.normalize(form, "É"), ARPA)
    model = read_text(tmp_path, text)
    assert model.vocabulary == ("A", "É")
    assert model.score(["A", "É"]) == read_text(tmp_path, ARPA).score(["A", "B"])
    assert not caplog.records


@pytest.mark.parametrize("other", ["E\u0301", "A\u200cB", "A\u00a0B", "A\u200f"])
def test_words_that_no_text_has_are_told(tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture) -> None:
    """One word in two forms, and what is two words as texts are read."""
    text = re.sub(r"\bA\b", "É", ARPA) if other == "E\u0301" else ARPA
    model = read_text(tmp_path, re.sub(r"\bB\b", other, text))
    assert other in model.vocabulary
    (record,) = caplog.records
    assert record.message == f"1 words of {tmp_path / 'some.arpa'} occur in no text as texts are read here: " + (
        f"{other!a}, for one"
    )


@pytest.mark.parametrize("section", ["\\3-grams:\n", ""])
def test_arpa_of_none_of_a_length(tmp_path: Path, section: str) -> None:
    """SRILM announces them where all were pruned, with their section or without; a byte order mark is no line."""
    head, _, _ = ARPA.partition("\\3-grams:")
    model = read_text(tmp_path, "\ufeff" + head.replace("3=2", "3=0") + section + "\\end\\\n")
    assert model.order == 3
    assert model.score(["A", "B"])[1] == pytest.approx(math.log(10) * (-0.0625 - 0.5))


@pytest.mark.parametrize(("first", "second"), [("<unk>", "<UNK>"), ("<UNK>", "<unk>")])
def test_arpa_with_unknown_in_both_cases(tmp_path: Path, first: str, second: str) -> None:
    """KenLM treats both as the same word, and the later line counts."""
    both = ARPA.replace("-2.0\t<UNK>", f"-2.0\t{first}\n-3.0\t{second}").replace("1=5", "1=6")
    assert read_text(tmp_path, both).score(["X"])[0] == pytest.approx(math.log(10) * -3.5)
    with pytest.raises(UserError, match="repeats the 1-gram <unk>"):
        read_text(tmp_path, both.replace(second, first))


def test_arpa_without_unknown(tmp_path: Path) -> None:
    model = read_text(tmp_path, ARPA.replace("-2.0\t<UNK>\n", "").replace("1=5", "1=4"))
    assert model.score(["X"])[0] == pytest.approx(math.log(10) * -100.5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", "ends after line 24 without \\data\\"),
        ("ngram 1=5", "unigrams: 5", "line 4 does not give the number of 1-grams"),
        ("ngram 2=3", "ngram 3=3", "line 5 does not give the number of 2-grams"),
        ("\\1-grams:", "\\2-grams:", "line 8 is not \\1-grams:"),
        ("1=5", "1=6", "line 15 is not 1-gram 6 of the 6 that \\data\\ announces"),
        ("1=5", "1=4", "line 13 is not \\2-grams:"),
        ("3=2", "3=1", "line 22 is not \\end\\"),
        ("-0.75\tB", "-0.75\tA", "line 13 repeats the 1-gram A"),
        ("-0.75\tB", "x\tB", "line 13 is not 1-gram 5"),
        ("-0.75\tB", "nan\tB", "line 13 has an invalid log10 probability"),
        ("-0.75\tB", "0.75\tB", "line 13 has an invalid log10 probability"),
        ("-0.125\n", "inf\n", "line 13 has an invalid log10 probability"),
        ("-0.75\tB\t-0.125\n", "-0.75\n", "line 13 is not 1-gram 5"),
        ("</s>\n-2.0", "<S>\n-2.0", "line 15 ends the 1-grams, but </s> is not one of them"),
        ("-0.5 A B", "-0.5 A C", "line 17 contains C, which is not a 1-gram"),
        ("-0.5 A B", "-0.5 A </s>", "line 18 repeats a 2-gram"),
        ("-2.25 A B", "-2.25 B B", "line 22 has a 3-gram whose first 2 words are not a 2-gram"),
        ("-2.25 A B </s>", "-2.25 A B </s> -1", "line 22 is not 3-gram 2 of the 2"),
        ("\n\\end\\\n", "", "is truncated: it ends after line 22 without \\end\\"),
    ],
)
def test_broken_arpa_names_the_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert ARPA.count(old) >= 1
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'some.arpa'}") + ".*" + re.escape(message)):
        read_text(tmp_path, ARPA.replace(old, new, 1))


def test_damaged_arpa(tmp_path: Path) -> None:
    path = tmp_path / "some.arpa.gz"
    with pytest.raises(UserError, match="does not exist"):
        arpa.read(path)
    path.write_text(ARPA, encoding="utf-8")
    with pytest.raises(UserError, match="damaged after line 0"):
        arpa.read(path)
    packed = gzip.compress(ARPA.encode())
    path.write_bytes(packed[:-20])
    with pytest.raises(UserError, match="damaged after line"):
        arpa.read(path)
    with pytest.raises(UserError, match="line 13 is not text in UTF-8"):
        (tmp_path / "latin.arpa").write_bytes(ARPA.replace("-0.75\tB", "-0.75\tÉ").encode("latin-1"))
        arpa.read(tmp_path / "latin.arpa")


def program(*options: str) -> subprocess.CompletedProcess[str]:
    return forked.python([str(forked.ROOT / "local" / "make_ngram.py"), *options])


def test_program(tmp_path: Path) -> None:
    text, more, known, output = (tmp_path / name for name in ("text", "more", "words.txt", "lm/3-gram.arpa.gz"))
    text.write_text("\n".join(TEXTS) + "\n")
    more.write_text("E A\n")
    known.write_text("<eps> 0\n<UNK> 1\nA 2\nB 3\nC 4\n#0 5\n<s> 6\n</s> 7\n")
    done = program("--text", str(text), str(more), "--vocabulary", str(known), "--order", "3", "--output", str(output))
    assert done.returncode == 0, done.stderr
    model = arpa.read(output)
    assert (model.order, model.vocabulary) == (3, ("A", "B", "C"))
    assert model.score(["A", "B"]) == pytest.approx(estimate([*TEXTS, "E A"], 3, "ABC").score(["A", "B"]), abs=1e-4)
    failed = program("--text", str(text), "--order", "9", "--output", str(output))
    assert failed.returncode == 1 and failed.stderr.splitlines()[-1].startswith("error: no sentence of the text")
