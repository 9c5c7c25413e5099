"""Word error rates by hand and by enumeration, and result files that are read back."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.bin import score as score_command
from pruning.errors import UserError
from pruning.speech.scoring.word_errors import (
    SCORED,
    Transcript,
    characters,
    error_report,
    read_transcripts,
    recogs_path,
    score,
    write_results,
)

TRANSCRIPTS = [
    Transcript("u2", ["THE", "CAT", "SAT"], ["THE", "CAP", "SAT", "ON", "IT"]),  # 1 substitution, 2 insertions
    Transcript("u1", ["IT'S", "A", '"DAY"'], ["A", '"DAY"']),  # 1 deletion
    Transcript("u3", [], []),
]
WORDS = st.lists(st.sampled_from(["A", "B", "IT'S", "*", '"', "É", r"A:\tref=['X']"]), max_size=6)


def edit_distance(a: list[str], b: list[str]) -> int:
    """Return the Levenshtein distance, computed row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_errors_are_counted() -> None:
    result = score(TRANSCRIPTS)
    assert (result.insertions, result.deletions, result.substitutions, result.words) == (2, 1, 1, 6)
    assert result.errors == 4 and result.utterances == 3
    assert result.wer == pytest.approx(400 / 6)
    low, high = result.interval
    assert 0 <= low < result.wer < high


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_errors_are_the_edit_distance_and_files_are_read_back(pairs: list[tuple[list[str], list[str]]]) -> None:
    import tempfile

    transcripts = [Transcript(f"spk-{i}", ref, hyp) for i, (ref, hyp) in enumerate(pairs)]
    if not any(t.reference for t in transcripts):
        transcripts.append(Transcript("spk-x", ["A"], []))
    with tempfile.TemporaryDirectory() as directory:
        result = write_results(directory, "test", "greedy_search", transcripts)
        assert read_transcripts(recogs_path(directory, "test", "greedy_search")) == sorted(transcripts)
    assert result.errors == sum(edit_distance(t.reference, t.hypothesis) for t in transcripts)


def test_result_files_have_icefalls_form(tmp_path: Path) -> None:
    write_results(tmp_path, "test-clean", "epoch-3-greedy_search", TRANSCRIPTS)
    recogs = (tmp_path / "recogs-test-clean-epoch-3-greedy_search.txt").read_text()
    assert recogs.splitlines()[:2] == ["u1:\tref=[\"IT'S\", 'A', '\"DAY\"']", "u1:\thyp=['A', '\"DAY\"']"]
    summary = (tmp_path / "wer-summary-test-clean-epoch-3-greedy_search.txt").read_text()
    assert summary == "settings\tWER\nepoch-3-greedy_search\t66.67\n"
    lines = (tmp_path / "errs-test-clean-epoch-3-greedy_search.txt").read_text().splitlines()
    assert lines[0] == "%WER = 66.67"
    assert lines[1] == "Errors: 2 insertions, 1 deletions, 1 substitutions, over 6 reference words (4 correct)"
    assert "u2:\tTHE (CAT->CAP) SAT (*->ON IT)" in lines
    assert 'u1:\t(IT\'S->*) A "DAY"' in lines
    assert lines[lines.index("SUBSTITUTIONS: count ref -> hyp") + 1] == "1   CAT -> CAP"
    assert lines[lines.index("DELETIONS: count ref") + 1] == "1   IT'S"
    insertions = lines.index("INSERTIONS: count hyp")
    assert lines[insertions + 1 : insertions + 3] == ["1   IT", "1   ON"]
    statistics = lines.index("PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp")
    assert lines[statistics + 1] == "CAP   0 1 0 1" and "SAT   1 0 1 1" in lines[statistics:]
    assert not list(tmp_path.glob(".tmp-*"))


def test_neighbouring_errors_are_shown_as_one() -> None:
    transcripts = [Transcript("u", ["A", "B", "C", "D"], ["A", "X", "D", "E"])]
    assert "u:\tA (B C->X) D (*->E)" in error_report(transcripts, score(transcripts))


def test_no_reference_words_is_an_error() -> None:
    with pytest.raises(UserError, match="no words"):
        score([Transcript("u", [], ["A"])])


def test_a_repeated_utterance_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="u1 occurs 2 times in test set dev"):
        write_results(tmp_path, "dev", "x", [*TRANSCRIPTS, TRANSCRIPTS[1]])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("u1:\tref=['A']\n", "lacks the reference or the hypothesis of u1"),
        ("u1:\tref=['A']\nu1:\tref=['A']\n", "line 2 repeats the ref of u1"),
        ("u1 A B\n", "line 1 is neither"),
        ("u1:\tref=[A]\nu1:\thyp=['A']\n", "line 1 does not contain a list of words"),
        ("u1:\tref=[1, 2]\nu1:\thyp=['A']\n", "line 1 does not contain a list of words"),
    ],
)
def test_broken_recogs_are_told_by_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "recogs-dev-x.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_transcripts(path)


def test_missing_recogs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recogs-dev-x.txt cannot be read"):
        read_transcripts(tmp_path / "recogs-dev-x.txt")


def test_characters_of_scripts_without_spaces_are_words() -> None:
    assert characters("语音识别 AI 很GOOD") == ["语", "音", "识", "别", "AI", "很", "GOOD"]
    assert characters("カードだ") == list("カードだ") and characters("한국 말") == list("한국말")
    assert characters("IT'S  CAFÉ 3") == ["IT'S", "CAFÉ", "3"]


SCRIPTS = {"hanzi": "语音識別", "kana": "カードだ", "hangul": "한국말", "bopomofo": "ㄅㄆㄇㄓ", "yi": "ꀀꀁꀂ",
           "half-width hangul": "ﾡﾢﾣ", "half-width kana": "ｱｲｳ", "extension B": "𠀀𠀁"}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_characters_of_every_script_without_spaces(script: str) -> None:
    assert characters(SCRIPTS[script]) == list(SCRIPTS[script])
    assert characters(f"ab{SCRIPTS[script]}cd") == ["ab", *SCRIPTS[script], "cd"]


@given(st.text(st.characters(blacklist_categories=("Cs",)), max_size=20), st.sampled_from(["NFC", "NFD"]))
def test_equal_texts_have_equal_words(text: str, form: str) -> None:
    """Whatever their Unicode form."""
    other = unicodedata.normalize(form, text)
    for words_in in SCORED.values():
        assert words_in(other) == words_in(text)


def test_times_in_icefalls_files_are_no_words(tmp_path: Path) -> None:
    """As written by `store_transcripts_and_timestamps`."""
    path = tmp_path / "recogs-test.txt"
    path.write_text("u1:\tref=['A', 'B']\nu1:\thyp=['A']\nu1:\ttimestamp_ref=[(0.1, 0.2), (0.3, 0.4)]\n"
                    "u1:\ttimestamp_hyp=[0.08]\n")  # fmt: skip
    assert read_transcripts(path) == [Transcript("u1", ["A", "B"], ["A"])]


def test_transcripts_of_other_forms_have_no_errors(tmp_path: Path) -> None:
    path = tmp_path / "recogs-test.txt"
    reference, hypothesis = (unicodedata.normalize(form, "ÉTÉ 한국").split() for form in ("NFC", "NFD"))
    path.write_text(f"u1:\tref={reference}\nu1:\thyp={hypothesis}\n")
    assert score(read_transcripts(path)).errors == 0
    path.write_text("u1:\tref=['A\u2028B']\nu1:\thyp=['A\u2028B']\n", encoding="utf-8")
    assert score(read_transcripts(path)).errors == 0, "a Unicode separator does not end a line"
    path.write_text("u1:\tref=['می\u200cخواهم']\nu1:\thyp=['می', 'خواهم\u200f']\n", encoding="utf-8")
    assert score(read_transcripts(path)).errors == 0, "icefall's references keep what word pieces take for a space"


def test_the_command_scores_in_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path, "a", "x", [Transcript("u", ["语音识别"], ["语音试别"])])
    rates = []
    for unit in ("words", "characters"):
        score_command.main([str(recogs_path(tmp_path, "a", "x")), "--score-in", unit])
        rates.append(capsys.readouterr().out.splitlines()[2].split()[1])
    assert rates == ["100.00", "25.00"]


def test_the_command_scores_and_pools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path, "a", "x", TRANSCRIPTS)
    write_results(tmp_path, "b", "x", TRANSCRIPTS[:1])
    paths = [str(recogs_path(tmp_path, name, "x")) for name in ("a", "b")]
    score_command.main([*paths, "--output-dir", str(tmp_path / "again")])
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[2:]}
    assert rows["recogs-a-x.txt"][1] == "66.67" and rows["recogs-b-x.txt"][1] == "100.00"
    assert rows["pooled"][1] == f"{700 / 9:.2f}"
    again = (tmp_path / "again" / "errs-a-x.txt").read_text()
    assert again == (tmp_path / "errs-a-x.txt").read_text()
