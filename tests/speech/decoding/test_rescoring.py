"""N-best lists of any recogniser: reading, rescoring with networks and n-grams, tuning of the weight on dev."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.bin import rescore as command
from pruning.errors import UserError
from pruning.speech.decoding.rescoring import Entry, read_nbest, rescore, write_nbest
from pruning.speech.ngrams.arpa import write
from pruning.speech.ngrams.kneser_ney import estimate
from tests.kinds.test_language_model import work

__all__ = ["work"]


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


def test_scores_are_added_with_the_weight() -> None:
    lists = {"a": [Entry("a", -1.0, "X"), Entry("a", -2.0, "Y")], "b": [Entry("b", 0.0, "Y")]}
    known = {"X": -10.0, "Y": -1.0}
    found = rescore(lists, lambda texts: [known[text] for text in texts], 0.5)
    assert found == {"a": [Entry("a", -2.5, "Y"), Entry("a", -6.0, "X")], "b": [Entry("b", -0.5, "Y")]}
    assert rescore(lists, lambda texts: [known[text] for text in texts], 0.0)["a"][0].text == "X"


def test_the_command_chooses_its_weight_on_dev(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recogniser gives sentences of the training text a slightly lower score than nonsense."""
    from tests.speech.text.test_sentences import lines

    spoken = {f"u{index}": line for index, line in enumerate(lines(340)[300:]) if len(line.split()) > 3}
    entries = []
    for name, line in spoken.items():
        wrong = " ".join(reversed(line.split()))
        entries += [Entry(name, -1.0, line), Entry(name, -0.5, wrong)]
    write_nbest(tmp_path / "nbest.txt", entries)
    (tmp_path / "text").write_text("".join(f"{name} {line}\n" for name, line in spoken.items()))
    common = ["--nbest", str(tmp_path / "nbest.txt"), "--references", str(tmp_path / "text"),
              "--output", str(tmp_path / "again.txt")]  # fmt: skip
    tuned = ["--dev-nbest", str(tmp_path / "nbest.txt"), "--dev-references", str(tmp_path / "text")]
    write(estimate(lines(300), 2), tmp_path / "lm.arpa")
    network = ["--lm-exp-dir", str(work / "dense"), "--lang-dir", str(work / "lang")]
    for model in (network, ["--arpa", str(tmp_path / "lm.arpa")]):
        command.main([*common, *model, *tuned, "--lm-scales", "0", "0.5"])
        printed = capsys.readouterr().out
        assert "dev, scale 0: WER" in printed and f"changed for {len(spoken)} of {len(spoken)} utterances" in printed
        assert printed.strip().endswith("-> 0.00 %")
        assert [entries[0].text for entries in read_nbest(tmp_path / "again.txt").values()] == list(spoken.values())
    command.main([*common, *network, "--lm-scale", "0"])
    assert "scale 0: the best hypothesis changed for 0 of" in capsys.readouterr().out


def test_what_does_not_fit_is_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "nbest.txt").write_text("a -1 ДВА\n")
    (tmp_path / "text").write_text("b ONE\n")
    common = ["--nbest", str(tmp_path / "nbest.txt"), "--output", str(tmp_path / "out.txt")]
    network = ["--lm-exp-dir", str(work / "dense"), "--lang-dir", str(work / "lang")]
    for options, message in [
        ([*network, "--lm-scale", "1"], "the hypothesis 'ДВА' contains characters that the word pieces do not cover"),
        (["--lm-scale", "1"], "give exactly one of --lm-exp-dir and --arpa"),
        (network, "give either --lm-scale, or both --dev-nbest and --dev-references"),
        ([*network, "--lm-scale", "1", "--references", str(tmp_path / "text")], "has no reference for a"),
    ]:
        with pytest.raises(UserError, match=message):
            command.main([*common, *options])
    assert not (tmp_path / "out.txt").exists()


SCORES = st.floats(-100, 0, allow_nan=False)
PROBABILITIES = st.one_of(st.just(-math.inf), SCORES)


@given(st.lists(st.tuples(SCORES, PROBABILITIES), min_size=1, max_size=6), st.sampled_from([0.0, 0.3, 1.0]))
def test_texts_without_probability_come_last_and_a_weight_of_nothing_changes_nothing(
    pairs: list[tuple[float, float]], scale: float
) -> None:
    """Compared with an independent order: possible texts by their sums, then the rest by the recogniser's scores."""
    entries = [Entry("u", score, f"T{index}") for index, (score, _) in enumerate(pairs)]
    known = {f"T{index}": probability for index, (_, probability) in enumerate(pairs)}
    found = rescore({"u": entries}, lambda texts: [known[text] for text in texts], scale)["u"]
    possible = [entry for entry in entries if scale == 0 or known[entry.text] > -math.inf]
    sums = {entry.text: entry.score + (scale * known[entry.text] if scale else 0) for entry in possible}
    wanted = sorted(possible, key=lambda entry: (-sums[entry.text], -entry.score))
    wanted += sorted((entry for entry in entries if entry not in possible), key=lambda entry: -entry.score)
    assert [entry.text for entry in found] == [entry.text for entry in wanted]
    assert not any(math.isnan(entry.score) for entry in found)


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


def run(place: Path, nbest: str, references: str, *options: str) -> None:
    (place / "nbest.txt").write_text(nbest)
    (place / "text").write_text(references)
    command.main(["--nbest", str(place / "nbest.txt"), "--references", str(place / "text"), "--arpa",
                  str(place / "lm.arpa"), "--output", str(place / "out.txt"), *options])  # fmt: skip


def test_every_reference_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Utterances without hypotheses count as deleted, in the printed WER and in tuning the weight."""
    write(estimate(["ONE TWO", "TWO ONE"], 2), tmp_path / "lm.arpa")
    run(tmp_path, "a -1 ONE TWO\n", "a ONE TWO\nb ONE TWO\n", "--lm-scale", "0")
    assert "WER 50.00 % -> 50.00 %" in capsys.readouterr().out
    assert "1 of 2 utterances of" in caplog.text and "(first: b)" in caplog.text
    tuned = ["--dev-nbest", str(tmp_path / "nbest.txt"), "--dev-references", str(tmp_path / "text")]
    run(tmp_path, "a -1 ONE TWO\n", "a ONE TWO\nb ONE TWO\n", *tuned)
    assert "dev, scale 0: WER 50.00 %" in capsys.readouterr().out
    for references, message in [("a\n", "contains no words"), ("a ONE\na TWO\n", "line 2 repeats a")]:
        with pytest.raises(UserError, match=message):
            run(tmp_path, "a -1 ONE\n", references, "--lm-scale", "0")
    for scale in ("-1", "nan", "inf"):
        with pytest.raises(SystemExit):
            run(tmp_path, "a -1 ONE\n", "a ONE\n", "--lm-scale", scale)
        assert f"argument --lm-scale: must be at least 0, got {float(scale)}" in capsys.readouterr().err


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_references_and_hypotheses_are_compared_in_one_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], forms: tuple[str, str]
) -> None:
    of_list, of_text = (unicodedata.normalize(form, "ÉTÉ 한국") for form in forms)
    write(estimate(["ÉTÉ 한국"], 2), tmp_path / "lm.arpa")
    run(tmp_path, f"a -1 {of_list}\na -2 AUTRE\n", f"a {of_text}\n", "--lm-scale", "0.1")
    assert "WER 0.00 % -> 0.00 %" in capsys.readouterr().out


def test_an_arpa_file_without_probability_of_unknown_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """<unk> has -inf: a weight of 0, which tuning always tries, changes nothing."""
    write(estimate(["ONE TWO", "TWO ONE"], 2), tmp_path / "lm.arpa")
    text = (tmp_path / "lm.arpa").read_text()
    (tmp_path / "lm.arpa").write_text(re.sub(r"^\S+\t<unk>", "-inf\t<unk>", text, flags=re.M))
    lists = "a -1 ONE TWO\na -2 ONE\nb -1 SIX TEN\nb -2 TEN SIX\n"
    for scale in ("0", "0.5"):
        run(tmp_path, lists, "a ONE TWO\nb SIX TEN\n", "--lm-scale", scale)
        assert f"scale {scale}: the best hypothesis changed for 0 of 2 utterances" in capsys.readouterr().out
        assert [entries[0].text for entries in read_nbest(tmp_path / "out.txt").values()] == ["ONE TWO", "SIX TEN"]


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
