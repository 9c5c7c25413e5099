"""Choice of the newest decoding of a set."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.experiments import decoding_results
from pruning.speech.scoring.word_errors import Transcript


@pytest.mark.parametrize(
    ("first", "second", "newest"),
    [
        ("2026-03-29T01:30:00+01:00", "2026-03-29T03:10:00+02:00", 1),  # the clock was put forward in between
        ("2026-10-25T02:50:00+02:00", "2026-10-25T02:10:00+01:00", 1),  # and back
        ("2026-05-01T20:00:00+09:00", "2026-05-01T12:30:00+00:00", 1),
        ("2026-05-01T20:00:00-05:00", "2026-05-01T23:00:00+00:00", 0),
    ],
)
def test_the_newest_is_that_of_the_latest_instant(tmp_path: Path, first: str, second: str, newest: int) -> None:
    for index, date in enumerate((first, second)):
        path = decoding_results.path_of(tmp_path, "greedy_search", "dev", f"best-greedy_search-{index}")
        said = [Transcript("u", ["A"], ["A"])]
        decoding_results.measured("dev", said, {}, {"index": index}, {"date": date}).write(path)
    found = decoding_results.read_results(tmp_path, "greedy_search", "dev")
    assert found is not None and found.facts["index"] == newest
