"""Intents: their table and their accuracy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pruning.errors import UserError
from pruning.speech.text.intents import TABLE, Intent, Intents, compared, intent_of, unseen, write_table

SET, REMOVE, PLAY = Intent("alarm", "set"), Intent("alarm", "remove"), Intent("play", "music")


def cut(custom: Any, supervisions: int = 1) -> Any:
    return SimpleNamespace(id="c", supervisions=[SimpleNamespace(custom=custom)] * supervisions)


def test_the_table_is_sorted_and_matched(tmp_path: Path) -> None:
    known = write_table([PLAY, SET, SET, REMOVE], tmp_path)
    assert known.table == [REMOVE, SET, PLAY] and len(known) == 3
    assert (tmp_path / TABLE).read_text() == "alarm remove 0\nalarm set 1\nplay music 2\n"
    assert known.number(PLAY) == 2 and known.number(Intent("play", "radio")) is None
    known.check_matches(known.describe())
    other = write_table([PLAY, SET], tmp_path / "other")
    with pytest.raises(UserError, match="is not the table that the checkpoint was trained with"):
        other.check_matches(known.describe())


@pytest.mark.parametrize("text", ["alarm set 1\n", "alarm set\n", "alarm set 0\nalarm set 1\n", "alarm set 0\n", ""])
def test_broken_tables_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / TABLE).write_text(text)
    with pytest.raises(UserError, match="create it with local/make_intents.py"):
        Intents(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        Intents(tmp_path / "nowhere")


@pytest.mark.parametrize("intents", [[], [Intent("alarm", "set")], [Intent("alarm", "set"), Intent("a b", "set")]])
def test_tables_that_could_not_be_read_are_not_written(tmp_path: Path, intents: list[Intent]) -> None:
    with pytest.raises(UserError, match="distinct intents|must be one word each"):
        write_table(intents, tmp_path)
    assert not (tmp_path / TABLE).exists()


def test_intents_of_cuts() -> None:
    assert intent_of(cut({"scenario": "alarm", "action": "set"})) == SET
    for broken in (cut(None), cut({"scenario": "alarm"}), cut({}, 0)):
        with pytest.raises(UserError, match="cut c has no intent"):
            intent_of(broken)


def test_what_training_lacks_is_wrong(tmp_path: Path) -> None:
    known = write_table([PLAY, SET, REMOVE], tmp_path)
    radio = Intent("play", "radio")
    wanted = [SET, SET, PLAY, radio]
    assert compared(wanted, [SET, REMOVE, SET, PLAY]) == {
        "correct": [1, 0, 0, 0], "scenario": [1, 1, 0, 1], "action": [1, 0, 0, 0],
    }  # fmt: skip
    assert unseen(wanted, known) == {"play_radio": 1} and unseen([SET], known) == {}
    with pytest.raises(ValueError):
        compared([SET], [SET, SET])
