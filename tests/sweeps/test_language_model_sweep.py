"""A sweep of language models: the grid is expanded, run, measured and compared by perplexity."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pruning.bin import compare, sweep
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.measurement import PERPLEXITY, Measurement, path_of
from pruning.reports import comparison_tables
from pruning.reports.language_models import per
from pruning.sweeps import comparison, definition
from pruning.sweeps import sweep as sweeps
from tests.kinds.test_language_model import work

__all__ = ["work"]


def sweep_file(work: Path, path: Path, **changes: object) -> Path:
    values = {
        "teacher": str(work / "dense"), "lang_dir": str(work / "lang"), "prune": str(work / "prune.yaml"),
        "finetune": str(work / "finetune.yaml"), "settings": ["trainer.num_threads=1", "trainer.max_steps=12"],
        **{f"{part}_text": [str(work / f"{name}.txt")] for part, name in
           {"train": "train", "dev": "dev", "test": "dev"}.items()},
        "targets": {"half": ["constraint.size=0.5"]},
        "grids": [{"method": ["magnitude", "activation"], "technique": ["unstructured", "low_rank"],
                   "ramp": ["one_shot", "cubic"], "targets": ["half"],
                   "more_seeds": {"magnitude-low_rank-cubic": {"half": [1, 2]}}}],
        "reference": "magnitude-unstructured-cubic",
        "claims": {"low rank": {"better": "magnitude-low_rank-cubic", "than": ["magnitude-unstructured-cubic"]}},
        **changes,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_grid_is_its_lines(work: Path, tmp_path: Path) -> None:
    config = definition.load(sweep_file(work, tmp_path / "sweep.yaml"))
    assert list(config.methods) == [
        "magnitude-unstructured-one_shot", "magnitude-unstructured-cubic", "magnitude-low_rank-one_shot",
        "magnitude-low_rank-cubic", "activation-low_rank-one_shot", "activation-low_rank-cubic",
    ]  # fmt: skip
    assert [run.name for run in sweeps.expand(config) if run.seed == 2] == ["half/magnitude-low_rank-cubic/seed2"]
    lines = list(sweeps.commands(config, sweeps.expand(config)[3], tmp_path))
    assert [line[2].rpartition(".")[2] for line in lines] == ["prune", "extract", "finetune", "perplexity"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_cuts": ["x"]}, "give train_cuts, dev_cuts and test_cuts, or train_text, dev_text and test_text"),
        ({"test_text": ["nowhere.txt"]}, "text file nowhere.txt does not exist"),
        (
            {"grids": [{"method": ["best"]}], "reference": "best-structured-cubic", "claims": {}},
            "line 5: unknown method 'best'",
        ),
        ({"targets": {"half": ["constraint.size=0.9999"]}}, "beyond reach"),
        ({"grids": [{"method": ["taylor"], "more_seeds": {"x": {"half": [2]}}}]}, "names 'x', which is not a line"),
    ],
)
def test_what_cannot_be_run_is_refused(work: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        definition.load(sweep_file(work, tmp_path / "sweep.yaml", **changes))


@pytest.mark.slow
def test_perplexities_are_compared(work: Path, tmp_path: Path) -> None:
    """Run the sweep command and make the table; its numbers are those of the perplexity command."""
    grid = {"method": ["magnitude", "activation"], "technique": ["unstructured", "low_rank"], "ramp": ["cubic"]}
    path = sweep_file(work, tmp_path / "sweep.yaml", grids=[grid])
    done = subprocess.run([sys.executable, "-m", "pruning.bin.sweep", "--config", str(path), "--exp-dir",
                           str(tmp_path / "exp")], capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = comparison.read(tmp_path / "exp" / "results")
    assert found.measure.name == "perplexity / word" and found.line("magnitude-low_rank-cubic", "half") is not None
    line = found.line("activation-low_rank-cubic", "half")
    assert line is not None
    place = tmp_path / "exp" / "half" / "activation-low_rank-cubic" / "seed1" / "finetuned"
    measured = Measurement.read(path_of(place, PERPLEXITY, "dev"))
    assert found.measure.shown(float(line.rates[0])) == pytest.approx(per(measured, "word_nll", "words"), rel=1e-3)
    assert math.exp(line.nll_per_token or 0.0) == pytest.approx(per(measured, "nll", "tokens"), rel=1e-3)
    assert line.dev == pytest.approx(checkpoint.read_header(place / "best.safetensors")["dev"]["task"])
    table = comparison_tables.table(found, "half")
    assert f"| {line.dev:.4f} |" in re.sub(" +", " ", table)
    assert "perplexity / word pooled" in table and "of them zero" in table
    rows = comparison_tables.grid(found, "half").splitlines()
    assert len(rows) == 4 and [cell.strip() for cell in rows[3].split("|")][1:3] == ["activation", "-"]
    compare.main(["--results", str(tmp_path / "exp" / "results"), "--output", str(tmp_path / "table.md"), "--plot",
                  str(tmp_path / "plot.png"), "--plot-lines", "magnitude-low_rank-cubic"])  # fmt: skip
    text = (tmp_path / "table.md").read_text()
    assert "Perplexity per word" in text and "WER" not in text and (tmp_path / "plot.png").stat().st_size > 1000
    dry = sweep.main(["--config", str(path), "--exp-dir", str(tmp_path / "exp"), "--dry-run"])
    assert dry is None


def test_a_difference_of_nats_is_a_ratio_of_perplexities() -> None:
    measure = comparison.MEASURES["perplexity"]
    rates = np.array([100 * math.log(120.0), 100 * math.log(100.0)])
    assert measure.shown(rates[0]) == pytest.approx(120.0)
    assert measure.shown_difference(rates[0] - rates[1]) == pytest.approx(20.0)
