"""Measurements: their file, its columns, and the rates that are computed from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.errors import UserError
from pruning.experiments import measurement
from pruning.experiments.decoding_results import measured
from pruning.experiments.measurement import Measurement, Utterances
from pruning.files import write_json
from pruning.speech.scoring.bootstrap import Design
from pruning.speech.scoring.word_errors import Transcript, count_errors, score

FOUND = Measurement("word_errors", "dev", Utterances(["a", "b"], ["s", ""]), {"errors": [1, 2], "words": [4, 6]},
                     {"ins": 1}, {"weights": "w"}, {"method": "m"},
                     {"command": "x", "commit": "c", "date": "2026-11-29T12:00:00+00:00", "threads": 1})  # fmt: skip
WORDS = st.lists(st.sampled_from("ABC"), max_size=5)


def test_a_measurement_is_written_and_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FOUND.write(tmp_path / "found.json")
    assert Measurement.read(tmp_path / "found.json") == FOUND
    assert measurement.is_done(tmp_path / "found.json", {"weights": "w"})
    assert not measurement.is_done(tmp_path / "found.json", {"weights": "v"})
    assert not measurement.is_done(tmp_path / "none.json", {})
    (tmp_path / "found.json").write_text("{}")
    assert not measurement.is_done(tmp_path / "found.json", {"weights": "w"})
    assert "found.json is not a measurement: it has no 'schema'; it is measured again" in caplog.text
    assert measurement.path_of("exp", "perplexity", "dev") == Path("exp/perplexity/perplexity-dev.json")


def test_a_text_is_written_by_the_number_of_its_sentences(tmp_path: Path) -> None:
    text = Utterances.sentences(45)
    assert (text.ids[0], text.ids[-1], text.speakers[19], text.speakers[20]) == ("1", "45", "0", "1")
    assert text.to_dict() == {"sentences": 45, "block": 20} and Utterances.from_dict(text.to_dict()) == text
    assert text.blocks() == Utterances(["0", "1", "2"], ["0", "1", "2"])
    assert Utterances.from_dict({"sentences": 3, "block": 2}).to_dict()["ids"] == ["1", "2", "3"]


def test_values_are_tied_to_the_utterances_that_another_file_lists() -> None:
    small = FOUND.compact(leave_out=["words"])
    assert small == {"what": "word_errors", "utterances": FOUND.utterances.stamp, "columns": {"errors": [1, 2]},
                     "totals": {"ins": 1}, "provenance": {"command": "x", "commit": "c",
                                                          "date": "2026-11-29T12:00:00+00:00"}}  # fmt: skip
    found = Measurement.expanded(small, "dev", FOUND.utterances, FOUND.only(["words"]))
    assert (found.columns, found.totals) == (FOUND.columns, FOUND.totals)
    assert Utterances(["a", "c"], ["s", ""]).stamp != FOUND.utterances.stamp


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "has form 2, and this version reads form 1; use the version that wrote it, or measure it"),
        ({"columns": {"errors": [1]}}, "1 values of 'errors' for 2 utterances"),
        ({"columns": [1]}, "is not a measurement"),
        ({"utterances": {"ids": ["a", "a"], "speakers": ["", ""]}}, "an utterance occurs twice"),
        ({"utterances": {"ids": ["a"], "speakers": []}}, "0 speakers of 1 utterances"),
        ({"utterances": {"speakers": []}}, "it has no 'ids'"),
    ],
)
def test_broken_measurements_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    FOUND.write(tmp_path / "found.json")
    write_json(tmp_path / "found.json", {**json.loads((tmp_path / "found.json").read_text()), **change})
    with pytest.raises(UserError, match=message):
        Measurement.read(tmp_path / "found.json")


@pytest.mark.parametrize("content", ["[1]", "5", "{}", '"text"'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(UserError, match="other.json is not a measurement"):
        Measurement.read(tmp_path / "other.json", "decode again")


def test_unknown_values() -> None:
    found = Measurement("likelihood", "dev", FOUND.utterances, {"nll": [1.5, None], "tokens": [3, 5]}, {"left_out": 2})
    assert (found.total("nll"), found.total("tokens"), found.total("left_out")) == (None, 8, 2)
    assert found.known_totals("nll", "tokens") == (1.5, 3.0)
    mixed = Measurement("perplexity", "dev", FOUND.utterances, {"nll": [1.5, 2.0]}, {"tokens": 7})
    assert mixed.known_totals("nll", "tokens") == (3.5, 7)
    assert found.has("left_out") and not found.has("errors")
    with pytest.raises(
        UserError, match="the measurement of likelihood on dev has no column 'errors'; measure it again"
    ):
        found.total("errors")


def test_rates_of_every_measure() -> None:
    utterances = Utterances(["a", "b", "c"], ["s", "s", "t"])
    columns = {"errors": [1, 0, 2], "words": [4, 4, 4], "correct": [1, 1, 0], "word_nll": [2.0, 4.0, 6.0],
               "nll": [1.0, 2.0, 3.0], "tokens": [4, 4, 4]}  # fmt: skip

    def rate(what: str) -> float:
        return measurement.sample([Measurement(what, "dev", utterances, columns)]).value

    expected = {"word_errors": 25, "intents": 100 / 3, "perplexity": 100, "likelihood": 50, "of another kind": 25}
    assert {what: rate(what) for what in expected} == pytest.approx(expected)
    with pytest.raises(UserError, match="the references contain no words"):
        measurement.sample([Measurement("word_errors", "dev", utterances, {"errors": [0] * 3, "words": [0] * 3})])


def test_sentences_are_drawn_in_blocks() -> None:
    """The interval is that of the sums over blocks, each drawn whole."""
    generator = np.random.default_rng(0)
    words, nats = generator.integers(3, 12, 90), generator.normal(40, 9, 90)
    columns = {"word_nll": nats.tolist(), "words": words.tolist()}
    found = Measurement("perplexity", "dev", Utterances.sentences(90), columns)
    sums = [np.add.reduceat(values, range(0, 90, 20)) for values in (nats, words)]
    design = Design.of([("dev", str(block)) for block in range(5)])
    assert measurement.sample([found]).interval == pytest.approx(design.rate(*sums).interval, rel=1e-4)
    assert found.in_blocks().columns["words"] == sums[1].tolist()
    assert found.in_blocks().in_blocks().columns == found.in_blocks().columns


def systems(rows: list[tuple[list[str], ...]], second: str) -> list[list[Measurement]]:
    """Two systems on two sets; the ids of the second set begin with ``second``."""
    return [
        [measured(name, [Transcript(f"{begin}{index}", row[0], row[column + more]) for index, row in enumerate(rows)],
                  {}, {}, {}) for name, begin, more in (("clean", "u", 0), ("noisy", second, 2))]
        for column in (1, 2)
    ]  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(WORDS.filter(bool), WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=5))
def test_sets_that_share_ids_are_paired_set_by_set(rows: list[tuple[list[str], ...]]) -> None:
    """The result is as if the ids of the second set were different."""
    shared, apart = (measurement.difference(*systems(rows, second)) for second in ("u", "v"))
    assert shared.interval == pytest.approx(apart.interval)
    errors = [[count_errors(Transcript("u", row[0], row[column]))["total"] for column in (1, 2, 3, 4)] for row in rows]
    excess = sum(first - second + third - fourth for first, second, third, fourth in errors)
    assert shared.value == pytest.approx(100 * excess / (2 * sum(len(row[0]) for row in rows)))


def test_a_paired_difference_is_narrower_than_the_systems_intervals() -> None:
    reference = ["A", "B", "C", "D"]
    first = [Transcript(f"u{i:03}", reference, ["X"] * (i % 5) + reference[i % 5 :]) for i in range(200)]
    second = [t._replace(hypothesis=t.hypothesis if i % 10 else reference) for i, t in enumerate(first)]
    second[3] = second[3]._replace(hypothesis=reference)  # three errors fewer
    one, other = ([measured("dev", system, {}, {}, {})] for system in (first, second))
    value, low, high = measurement.difference(one, other).interval
    assert value == pytest.approx(score(first).wer - score(second).wer) == pytest.approx(300 / 800)
    assert 0 <= low <= value <= high < score(first).interval[1] - score(first).interval[0]
    assert measurement.difference(other, one).value == pytest.approx(-value)
    assert measurement.difference(one, one).interval == (0.0, 0.0, 0.0)


def test_systems_on_other_data_are_not_compared() -> None:
    other = Measurement("word_errors", "dev", Utterances(["a"], ["s"]), {"errors": [1], "words": [4]})
    with pytest.raises(UserError, match="two systems were measured on different utterances"):
        measurement.difference([FOUND], [other])
    other = Measurement("word_errors", "dev", FOUND.utterances, {"errors": [1, 2], "words": [4, 5]})
    with pytest.raises(UserError, match="two systems were measured on different words of dev; measure both again"):
        measurement.difference([FOUND], [other])


def test_what_was_asked_for_last() -> None:
    assert FOUND.asked < FOUND.asked_now().asked and FOUND.asked_now().columns == FOUND.columns
