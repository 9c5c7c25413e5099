"""The comparison of a sweep, from result files written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.bin import compare
from pruning.errors import UserError
from pruning.experiments.measurement import SCHEMA, WORD_ERRORS, Measurement, Utterances
from pruning.files import read_json, write_json
from pruning.reports import comparison_tables, document
from pruning.speech.scoring.bootstrap import Estimate
from pruning.sweeps import comparison

DENSE = {"encoder_parameters": 4e6, "parameters": 5e6, "macs_10s": 1e9, "macs_30s": 4e9}
HALF = {"encoder_parameters": 2e6, "parameters": 3e6, "macs_10s": 6e8, "macs_30s": 2e9}
SETS = {"clean": 40, "other": 24}
RUNS = [["half", "random", 1], ["half", "l0", 1], ["half", "l0", 2], ["half", "taylor", 1], ["quarter", "l0", 1]]


def utterances(name: str) -> Utterances:
    return Utterances([f"{name}-{i:03d}" for i in range(SETS[name])], [f"s{i // 4}" for i in range(SETS[name])])


def write(directory: Path, method: str, rates: dict[str, float], target: str = "", seed: int = 1) -> None:
    """Write the result of a run with the given error rates, evenly over utterances of ten words."""
    sets = {}
    for name, count in SETS.items():
        errors = [int(np.floor((i + 1) * 10 * rates[name]) - np.floor(i * 10 * rates[name])) for i in range(count)]
        nll: list[Any] = [2.0 * error + 1 for error in errors]
        nll[0] = None
        columns = {"errors": errors, "nll": nll, "words": [10] * count, "tokens": [5] * count}
        made = {"command": "decode", "commit": "a" * 40, "date": "2026-01-01"}
        found = Measurement(WORD_ERRORS, name, utterances(name), columns, provenance=made)
        sets[name] = found.compact(comparison.SPOKEN if target else ())
    named = {"method": method} if not target else {"method": method, "target": target, "seed": seed}
    file = "teacher.json" if not target else f"{target}/{method}/seed{seed}.json"
    network = HALF if target else DENSE
    write_json(
        directory / file, {"schema": SCHEMA, **named, "network": network, "dense": DENSE, "made_by": "x", "sets": sets}
    )


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    sets = {name: utterances(name).to_dict() for name in SETS}
    write_json(tmp_path / comparison.UTTERANCES, {"schema": SCHEMA, "sets": sets})
    claims = {"gates beat chance": {"better": "l0", "than": ["random"]},
              "gates are best": {"better": "l0", "than": ["taylor", "random"]},
              "chance is best": {"better": "random", "than": ["taylor", "l0"]}}  # fmt: skip
    legend: dict[str, Any] = {
        "schema": SCHEMA,
        "measure": "wer",
        "reference": "l0",
        "claims": claims,
        "decoding": "greedy_search",
        "targets": {"half": [], "quarter": []},
        "methods": {"l0": "l0", "taylor": "taylor", "random": "random"},
        "runs": RUNS,
    }
    legend["results"] = dict.fromkeys(["teacher", *(f"{target}/{name}/seed{seed}" for target, name, seed in RUNS)], "x")
    write_json(tmp_path / comparison.LEGEND, legend)
    write(tmp_path, "teacher", {"clean": 0.05, "other": 0.15})
    write(tmp_path, "random", {"clean": 0.2, "other": 0.4}, "half")
    for seed in (1, 2):
        write(tmp_path, "l0", {"clean": 0.1 + 0.0025 * seed, "other": 0.2}, "half", seed)
    write(tmp_path, "taylor", {"clean": 0.1, "other": 0.2}, "half")
    return tmp_path


def test_rates_over_seeds_and_sets(results: Path) -> None:
    found = comparison.read(results)
    assert [(line.method, line.target) for line in found.lines] == [
        ("teacher", ""), ("l0", "half"), ("taylor", "half"), ("random", "half"),
    ]  # fmt: skip
    l0 = found.line("l0", "half")
    assert l0 is not None and l0.seeds == (1, 2)
    assert l0.rates == pytest.approx([100 * (41 + 48) / 640, 100 * (42 + 48) / 640], abs=0.4)
    assert l0.set_rate("other") == pytest.approx(20, abs=0.5)
    assert found.sample(l0).value == pytest.approx(l0.rates.mean())
    value, low, high = found.sample(l0).interval
    assert low < value < high
    teacher = found.line("teacher", "")
    assert teacher is not None
    errors = [sum(read_json(results / "teacher.json")["sets"][name]["columns"]["errors"][1:]) for name in SETS]
    assert teacher.nll_per_token == pytest.approx((2 * sum(errors) + 62) / (5 * 62)), (
        "utterances without a likelihood are left out"
    )


def test_differences_from_the_reference(results: Path) -> None:
    found = comparison.read(results).differences("half", "l0", ["l0", "taylor", "random"])
    assert found.keys() == {"taylor", "random"}
    difference, p = found["random"]
    assert difference.value == pytest.approx(27.5 - 14.0, abs=0.6) and difference.low > 0 and p < 0.02
    difference, p = found["taylor"]
    assert difference.value < 0 and p > 0.05
    assert comparison.read(results).differences("quarter", "l0", ["taylor"]) == {}


def test_the_table(results: Path) -> None:
    text = comparison_tables.table(comparison.read(results), "half")
    rows = cells(text)
    by_name = {row[0]: dict(zip(rows[0], row)) for row in rows[2:]}
    assert by_name["teacher"]["M parameters"] == "4.000" and by_name["random"]["M parameters"] == "2.000"
    assert by_name["l0"]["seeds"] == "2" and by_name["l0"]["sd over seeds"] != "-"
    assert by_name["random"]["sd over seeds"] == "-"
    assert by_name["l0"]["minus l0"] == "" and by_name["teacher"]["minus l0"] == ""
    assert by_name["random"]["minus l0"].startswith("+1") and by_name["random"]["p (Holm)"] < "0.02"


def test_a_line_may_be_shown_by_another_name(results: Path) -> None:
    """Keys, and so the draws of the bootstrap, stay those of the results."""
    before = comparison_tables.table(comparison.read(results), "half")
    legend = read_json(results / comparison.LEGEND)
    write_json(results / comparison.LEGEND, {**legend, "shown": {"random": "by chance", "l0": "gates"}})
    found = comparison.read(results)
    after = comparison_tables.table(found, "half")
    assert found.line("random", "half") is not None and "| random" not in after and "minus gates" in after
    rows, others = cells(before), cells(after)
    assert [row[0] for row in others[2:]] == ["teacher", "gates", "taylor", "by chance"]
    assert [row[1:] for row in rows[2:]] == [row[1:] for row in others[2:]]
    assert "by chance +1" in comparison_tables.claims_table(found) and "that of gates" in (
        comparison_tables.claims_table(found)
    )
    compare.main(["--results", str(results), "--output", str(results / "table.md")])
    assert "- **by chance** (line `random`): random\n" in (results / "table.md").read_text()


def test_what_lines_have_in_common_is_said_once(results: Path) -> None:
    legend = read_json(results / comparison.LEGEND)
    methods = {"plain": "l0", "l0": "l0, l0.gate_lr=1, l0.gates.kinds=[heads, ffn]", "taylor": "taylor, x={a: 1, b: 2}",
               "alone": "l0, l0.gate_lr=1, l0.gates.kinds=[heads, ffn], distillation.layers=[]",
               "other": "l0, l0.gate_lr=1, l0.gates.kinds=[heads]",
               "longer": "l0, 3 times the further steps, l0.gate_lr=1, l0.gates.kinds=[heads, ffn], "
               "distillation.layers=[]"}  # fmt: skip
    write_json(results / comparison.LEGEND, {**legend, "methods": methods, "shown": {"l0": "gates"}})
    assert comparison_tables.legend(comparison.read(results)).splitlines() == [
        "- **plain**: l0",
        "- **gates** (line `l0`): l0, l0.gate_lr=1, l0.gates.kinds=[heads, ffn]",
        "- **taylor**: taylor, x={a: 1, b: 2}",
        "- **alone**: as gates, distillation.layers=[]",
        "- **other**: l0, l0.gate_lr=1, l0.gates.kinds=[heads]",
        "- **longer**: as alone, 3 times the further steps",
    ]


def test_a_line_across_targets(results: Path) -> None:
    rows = cells(comparison_tables.across(comparison.read(results), "l0"))
    assert [row[:3] for row in rows[2:]] == [["teacher", "1.000", "1"], ["half", "0.500", "2"]]
    assert rows[2][-1] == "" and rows[3][-1].startswith("+")
    with pytest.raises(UserError, match="no results for method 'best'; choose from l0, taylor, random"):
        comparison_tables.across(comparison.read(results), "best")


def test_the_teacher_is_needed(results: Path) -> None:
    (results / "teacher.json").unlink()
    with pytest.raises(UserError, match="no result of the teacher; run the sweep again"):
        comparison.read(results)


def test_the_verdicts_on_claims(results: Path) -> None:
    found = comparison.read(results)
    rows = cells(comparison_tables.claims_table(found))
    assert {row[0]: row[-1] for row in rows[2:]} == {
        "gates beat chance": "holds", "gates are best": "not resolvable here", "chance is best": "does not hold",
    }  # fmt: skip
    assert rows[2][1:3] == ["half", "that of l0"] and rows[2][3].startswith("random +1")


def test_a_claim_waits_for_all_of_its_lines(results: Path) -> None:
    (results / "half/random/seed1.json").unlink()
    (results / "half/l0/seed2.json").unlink()
    found = comparison.read(results)
    assert found.missing("l0", "half") == [2] and found.missing("taylor", "half") == []
    verdicts = [row.rsplit("|", 2)[-2].strip() for row in comparison_tables.claims_table(found).splitlines()[2:]]
    assert verdicts[0] == "incomplete: l0 (seed 2), random (seed 1)" and all("incomplete" in one for one in verdicts)
    assert ["l0", "1 of 2"] in [row[:2] for row in cells(comparison_tables.table(found, "half"))]


def test_all_lines_have_the_spread_of_those_with_several_seeds(results: Path) -> None:
    found = comparison.read(results)
    l0, taylor = found.line("l0", "half"), found.line("taylor", "half")
    assert l0 is not None and taylor is not None
    assert found.seed_deviation == pytest.approx(l0.rates.std(ddof=1))
    assert found.seed_freedom == 1
    for line, deviation in ((taylor, found.seed_deviation), (l0, found.seed_deviation / np.sqrt(2))):
        noise = found.sample(line).drawn - found.design.rate(line.errors, line.words).drawn
        low, high = np.percentile(noise, (25, 75))  # of Student's t with one degree of freedom: at -1 and 1
        assert (high - low) / 2 == pytest.approx(deviation, rel=0.06)
    (results / "half/l0/seed2.json").unlink()
    assert comparison.read(results).seed_deviation is None


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ({"a": (2.0, 0.01), "b": (0.5, 0.2)}, "not resolvable here"),
        ({"a": (2.0, 0.01), "b": (0.5, 0.04)}, "holds"),
        ({"a": (2.0, 0.01), "b": (-0.5, 0.04)}, "does not hold"),
        ({"a": (-2.0, 0.06)}, "not resolvable here"),
    ],
)
def test_verdict(differences: dict[str, tuple[float, float]], expected: str) -> None:
    shown = {name: (Estimate(value, value - 1, value + 1), p) for name, (value, p) in differences.items()}
    assert comparison_tables.verdict(shown) == expected


@pytest.mark.parametrize(
    ("value", "low", "p", "expected"),
    [
        (-0.3, -0.9, 0.3, "holds"),  # no significant difference, and at most 0.9 worse
        (-0.5, -0.9, 0.01, "holds"),  # worse, but within the margin
        (0.2, -1.1, 0.8, "not resolvable here"),
        (-0.9, -1.3, 0.01, "not resolvable here"),  # worse, perhaps by more than the margin
        (-1.7, -2.3, 0.01, "does not hold"),
        (3.0, 2.0, 0.01, "holds"),
    ],
)
def test_a_claim_of_hardly_any_loss(value: float, low: float, p: float, expected: str) -> None:
    shown = {"dense": (Estimate(value, low, 2 * value - low), p)}
    assert comparison_tables.verdict(shown, margin=1.0) == expected


def test_the_teacher_in_a_claim(results: Path) -> None:
    legend = read_json(results / comparison.LEGEND)
    legend["claims"] = {"no loss": {"better": "l0", "than": ["teacher"], "margin": 50.0}}
    write_json(results / comparison.LEGEND, legend)
    found = comparison.read(results)
    (row,) = cells(comparison_tables.claims_table(found))[2:]
    teacher, l0 = found.line("teacher", "half"), found.line("l0", "half")
    assert teacher is not None and l0 is not None and teacher is found.lines[0]
    assert row[0] == "no loss (at most 50 more)" and row[-1] == "holds"
    assert row[3].startswith(f"teacher {teacher.rates.mean() - l0.rates.mean():+.2f} (")


def test_what_networks_take(results: Path, tmp_path: Path) -> None:
    setting = {"threads": 1, "batch": 1, "seconds": 10.0}
    rows = [{"system": name, "backend": backend, **setting, "median_seconds": seconds}
            for name, backend, seconds in (("teacher", "onnx", 0.02), ("half/l0", "onnx", 0.0125),
                                           ("half/l0", "pytorch", 0.5))]  # fmt: skip
    rows.append({**rows[1], "batch": 16, "median_seconds": 9.0})
    found, in_words = comparison_tables.times({"rows": rows}, "onnx")
    assert in_words == "threads 1, batch 1, seconds 10.0"
    assert found == pytest.approx({"teacher": 20.0, "half/l0": 12.5})
    head, _, *lines = cells(comparison_tables.table(comparison.read(results), "half", milliseconds=found))
    assert {line[0]: line[head.index("ms")] for line in lines} == {"teacher": "20.0", "l0": "12.5", "taylor": "-",
                                                                   "random": "-"}  # fmt: skip
    comparison_tables.plot(comparison.read(results), tmp_path / "plot.png", found)
    of_language_models = [{**rows[0], "work": "scoring", "tokens": 32}, {**rows[0], "work": "steps", "tokens": 16}]
    for row in of_language_models:
        del row["seconds"]
    found, in_words = comparison_tables.times({"rows": of_language_models}, "onnx")
    assert found == {"teacher": 20.0} and in_words == "threads 1, work scoring, batch 1, tokens 32"
    with pytest.raises(UserError, match="did not measure backend int8"):
        comparison_tables.times({"rows": rows}, "int8")


def test_the_plot_is_a_picture(results: Path, tmp_path: Path) -> None:
    comparison_tables.plot(comparison.read(results), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_runs_on_other_utterances_are_refused(results: Path) -> None:
    value = read_json(results / "half/taylor/seed1.json")
    value["sets"]["clean"]["utterances"] = "another"
    write_json(results / "half/taylor/seed1.json", value)
    with pytest.raises(UserError, match="half/taylor/seed1.json was measured on other utterances"):
        comparison.read(results)


def test_results_of_other_settings_are_left_out(results: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(results, "taylor", {"clean": 0.3, "other": 0.5}, "half", seed=9)  # from a line that was removed
    write_json(results / "half/random/seed1.json", {**read_json(results / "half/random/seed1.json"), "made_by": "y"})
    found = comparison.read(results)
    assert {line.method: len(line.seeds) for line in found.lines} == {"teacher": 1, "l0": 2, "taylor": 1}
    assert "other settings: half/random/seed1.json, quarter/l0/seed1.json; run the sweep again" in caplog.text


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="utterances.json does not exist; give the results directory"):
        comparison.read(tmp_path)


def test_runs_without_results_are_named_in_the_file(results: Path, tmp_path: Path) -> None:
    (results / "half/l0/seed2.json").unlink()
    compare.main(["--results", str(results), "--output", str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    assert "Not run yet, or made by other settings: l0 at half (seed 2), l0 at quarter (seed 1)." in text


def test_only_lines_of_the_sweep_are_plotted(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no line 'tailor' to plot; choose from l0, taylor, random"):
        comparison_tables.plot(comparison.read(results), tmp_path / "plot.png", names=["l0", "tailor"])
    assert not (tmp_path / "plot.png").exists()


def test_a_verdict_needs_a_difference() -> None:
    with pytest.raises(ValueError, match="a verdict needs a difference"):
        comparison_tables.verdict({})


def test_bars_in_cells_do_not_end_them() -> None:
    assert document.tabulated([{"a|b": "c|d"}]).splitlines()[::2] == ["| a\\|b   |", "| c\\|d   |"]
    assert "a|b" in document.tabulated([{"a|b": "c|d"}], document.TERMINAL)
