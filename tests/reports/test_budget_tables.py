"""Break-even multiples and plots of budgets, from result files written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.bin import compare
from pruning.files import read_json, write_json
from pruning.reports import budget_tables, comparison_tables
from pruning.sweeps import comparison
from tests.sweeps.test_comparison import SCHEMA, SETS, cells, utterances, write

RATES = {"taylor": (2000, 0.2, 600.0), "scratch": (2000, 0.6, 300.0), "scratch-3x": (6000, 0.3, 900.0),
         "scratch-total": (11000, 0.1, None), "better": (2000, 0.05, 700.0), "longer": (2000, 0.04, 700.0)}  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    sets = {name: utterances(name).to_dict() for name in SETS}
    write_json(tmp_path / comparison.UTTERANCES, {"schema": SCHEMA, "sets": sets})
    fresh = [name for name in RATES if name.startswith("scratch")]
    legend = {"schema": SCHEMA, "measure": "wer", "reference": "taylor", "claims": {}, "decoding": "greedy_search",
              "targets": {"quarter": []}, "methods": {name: name for name in RATES}, "fresh": fresh,
              "dense": ["longer"], "curves": dict.fromkeys(fresh, "scratch"),
              "runs": [["quarter", name, 1] for name in RATES],
              "results": dict.fromkeys(["teacher", *(f"quarter/{name}/seed1" for name in RATES)], "x")}  # fmt: skip
    write_json(tmp_path / comparison.LEGEND, legend)
    write(tmp_path, "teacher", {"clean": 0.05, "other": 0.05})
    for name, (steps, rate, seconds) in RATES.items():
        write(tmp_path, name, {"clean": rate, "other": rate}, "quarter")
        path = tmp_path / f"quarter/{name}/seed1.json"
        training = {"steps": float(steps), **({"seconds": seconds} if seconds is not None else {})}
        write_json(path, {**read_json(path), "training": training})
    return tmp_path


def test_break_even_is_between_the_budgets(results: Path) -> None:
    found = comparison.read(results)
    table = cells(budget_tables.break_even_table(found, "quarter"))
    assert table[0] == ["pruned", "further steps", "WER %", "break-even with scratch"]
    rows = {row[0]: row[1:] for row in table[2:]}
    assert rows.keys() == {"taylor", "better"}, "longer is the teacher trained on: nothing was pruned"
    # half of the way from 30 % after 6000 steps to 10 % after 11000, in the logarithm of the steps
    assert rows["taylor"] == ["2000", "20.00", f"{(6000 * 11000) ** 0.5 / 2000:.1f}"]
    assert rows["better"][2] == "> 5.5"
    assert budget_tables.has_budgets(found, "quarter")


def test_steps_and_minutes_are_columns_where_they_are_known(results: Path) -> None:
    table = cells(comparison_tables.table(comparison.read(results), "quarter"))
    columns = [table[0].index(name) for name in ("further steps", "minutes")]
    rows = {row[0]: [row[column] for column in columns] for row in table[2:]}
    assert (
        rows["teacher"] == ["-", "-"] and rows["scratch-total"] == ["11000", "-"] and rows["taylor"] == ["2000", "10"]
    )


def test_two_budgets_give_no_break_even(results: Path) -> None:
    legend = read_json(results / comparison.LEGEND)
    del legend["curves"]["scratch-total"]
    write_json(results / comparison.LEGEND, legend)
    found = comparison.read(results)
    assert budget_tables.break_even_table(found, "quarter") == "" and budget_tables.has_budgets(found, "quarter")


def test_the_report_has_the_table_and_the_plot(results: Path, tmp_path: Path) -> None:
    output, plot = tmp_path / "table.md", tmp_path / "plot.png"
    compare.main(["--results", str(results), "--output", str(output), "--plot", str(plot)])
    text = output.read_text()
    assert "break-even with scratch" in text and "(plot-quarter.png)" in text
    assert (tmp_path / "plot-quarter.png").read_bytes().startswith(b"\x89PNG")
