"""Tables of sweeps, from their committed results."""

from __future__ import annotations

from pathlib import Path

from pruning.reports import comparison_tables
from pruning.sweeps import comparison

RESULTS = Path(__file__).parents[2] / "egs"


def test_three_words_are_not_a_cell_of_a_grid() -> None:
    """A line such as ``l0-alone-2`` stands in the table alone."""
    found = comparison.read(RESULTS / "librispeech" / "results" / "tuning")
    assert any(name.count("-") == 2 for name in found.legend)
    assert comparison_tables.grid(found, "quarter") == ""
