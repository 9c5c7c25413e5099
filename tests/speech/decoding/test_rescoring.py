"""N-best lists of any recogniser: read, re-ranked by networks and n-grams, with the weight chosen on dev."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    with pytest.raises(UserError, match=r"nbest.txt line 2: .* has no score; write UTTERANCE SCORE TEXT"):
        read_nbest(tmp_path / "nbest.txt")


def test_scores_are_added_with_the_weight() -> None:
    lists = {"a": [Entry("a", -1.0, "X"), Entry("a", -2.0, "Y")], "b": [Entry("b", 0.0, "Y")]}
    known = {"X": -10.0, "Y": -1.0}
    found = rescore(lists, lambda texts: [known[text] for text in texts], 0.5)
    assert found == {"a": [Entry("a", -2.5, "Y"), Entry("a", -6.0, "X")], "b": [Entry("b", -0.5, "Y")]}
    assert rescore(lists, lambda texts: [known[text] for text in texts], 0.0)["a"][0].text == "X"


def test_the_command_chooses_its_weight_on_dev(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a sentence of the training text is, the recogniser heard a little less well than nonsense."""
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
        assert "dev, scale 0: WER" in printed and f"scale 0.5: {len(spoken)} of {len(spoken)} utterances" in printed
        assert printed.strip().endswith("-> 0.00 %")
        assert [entries[0].text for entries in read_nbest(tmp_path / "again.txt").values()] == list(spoken.values())
    command.main([*common, *network, "--lm-scale", "0"])
    assert "scale 0: 0 of" in capsys.readouterr().out


def test_what_does_not_fit_is_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "nbest.txt").write_text("a -1 ДВА\n")
    (tmp_path / "text").write_text("b ONE\n")
    common = ["--nbest", str(tmp_path / "nbest.txt"), "--output", str(tmp_path / "out.txt")]
    network = ["--lm-exp-dir", str(work / "dense"), "--lang-dir", str(work / "lang")]
    for options, message in [
        ([*network, "--lm-scale", "1"], "the hypothesis 'ДВА' holds what the word pieces do not cover"),
        (["--lm-scale", "1"], "give --lm-exp-dir or --arpa"),
        (network, "give --lm-scale, or --dev-nbest with --dev-references"),
        ([*network, "--lm-scale", "1", "--references", str(tmp_path / "text")], "has no reference for a"),
    ]:
        with pytest.raises(UserError, match=message):
            command.main([*common, *options])
    assert not (tmp_path / "out.txt").exists()
