"""N-best lists: reading, writing, merging."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from pruning.errors import UserError
from pruning.speech.decoding.n_best import Candidate, Entry, merged, read_nbest, write_nbest


def test_lists_come_back(tmp_path: Path) -> None:
    entries = [Entry("a", -1.5, "ONE TWO"), Entry("a", -2.0, ""), Entry("b", 3.25, "TEN")]
    write_nbest(tmp_path / "nbest.txt", entries)
    assert read_nbest(tmp_path / "nbest.txt") == {"a": entries[:2], "b": entries[2:]}
    (tmp_path / "spaces.txt").write_text("a  -1 ONE   TWO\n\n")
    assert read_nbest(tmp_path / "spaces.txt") == {"a": [Entry("a", -1.0, "ONE TWO")]}


@pytest.mark.parametrize("line", ["a", "a ONE TWO", "a nan ONE", "a inf ONE"])
def test_a_line_without_a_score_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "nbest.txt").write_text(f"a -1 ONE\n{line}\n")
    with pytest.raises(
        UserError, match=r"nbest.txt line 2: .* has no valid score; write lines of the form UTTERANCE SCORE TEXT"
    ):
        read_nbest(tmp_path / "nbest.txt")


def test_a_list_with_impossible_texts_is_read_again(tmp_path: Path) -> None:
    entries = [Entry("u", -1.0, "A"), Entry("u", -math.inf, "B")]
    write_nbest(tmp_path / "nbest.txt", entries)
    assert read_nbest(tmp_path / "nbest.txt") == {"u": entries}


def test_names_of_kaldis_lists_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "nbest.txt"
    path.write_text("u1-1 -1 ONE\nu1-2 -2 TWO\nu2-1 -1 TEN\n")
    with pytest.raises(
        UserError, match="one hypothesis each for u1-1, u1-2, .*: names of Kaldi's n-best lists; remove"
    ):
        read_nbest(path)
    path.write_text("19-198-0001 -1 ONE\n19-198-0002 -2 TWO\n19-198-0000 -2 TWO\n")
    assert len(read_nbest(path)) == 3, "LibriSpeech's names are not numbered from 1"
    path.write_text("u1-1 -1 ONE\nu1-1 -2 TWO\nu1-2 -1 TEN\n")
    assert len(read_nbest(path)) == 2


def test_pipes_are_read(tmp_path: Path) -> None:
    """As with `--references <(zcat text.gz)`."""
    reading, writing = os.pipe()
    os.write(writing, b"a -1 ONE\na -2 TWO\n")
    os.close(writing)
    assert len(read_nbest(f"/dev/fd/{reading}")["a"]) == 2
    os.close(reading)
    for path, message in ((tmp_path / "gone", "does not exist"), (tmp_path, "is a directory")):
        with pytest.raises(UserError, match=message):
            read_nbest(path)


def test_hypotheses_with_the_same_words_are_merged() -> None:
    """Their probabilities are added; the best spelling stands for them, and the candidates beyond the limit go."""
    chances = {"Ten.": 0.2, "six": 0.3, "ten": 0.25, "two": 0.1}
    lists = {"a": [Entry("a", math.log(chance), text) for text, chance in chances.items()],
             "b": [Entry("b", -1.0, ""), Entry("b", -math.inf, "one")]}  # fmt: skip
    found = merged(lists, lambda text: text.lower().rstrip(".").split(), most=2)
    assert [one.text for one in found.candidates["a"]] == ["ten", "six"]
    assert found.candidates["a"][0].score == pytest.approx(math.log(0.45))
    assert found.candidates["b"] == [Candidate(-1.0, "", ()), Candidate(-math.inf, "one", ("one",))]
    assert found.counts() == {"hypotheses": 6, "unique": 5, "left_out": 1, "empty": 1}
    assert found.first == {"a": ("six",), "b": ()}
    assert len(merged(lists).candidates["a"]) == 4
