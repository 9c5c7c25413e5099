"""Sweeps of encoders with a head: intents and CTC, joint pruning and random structures."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pruning.bin import compare
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.measurement import INTENTS, Measurement, path_of, sample
from pruning.reports import comparison_tables
from pruning.sweeps import comparison, definition
from tests.kinds.test_encoder_head import dense, settings, work

__all__ = ["work"]


def sweep_file(work: Path, place: Path, task: str, **changes: object) -> Path:
    """Write a sweep file with two lines at 40 % fewer MACs, from a model trained for six steps."""
    teacher = dense(work, place, "speech_encoder", task)
    prune = settings(work, place / "prune.yaml", task, method="hj-mac", trainer={"max_steps": 8},
                     constraint={"macs": 0.4, "size": 0.0, "ramp_share": 0.5, "seconds": 1.0},
                     l0={"gate_lr": 0.5, "multiplier_lr": 5.0})  # fmt: skip
    data = {f"{part}_cuts": [str(work / f"slurp_cuts_{name}.jsonl.gz")] for part, name in
            (("train", "train"), ("dev", "dev"), ("test", "dev"))}  # fmt: skip
    values = {
        "teacher": str(teacher), "lang_dir": str(work / "lang"), "prune": str(prune),
        "finetune": str(settings(work, place / "finetune.yaml", task)), **data, "decoding": "ctc_greedy_search",
        "targets": {"40": ["constraint.macs=0.4"]},
        "methods": {"hj-mac": {"method": "hj-mac"},
                    "random": {"method": "random", "more_seeds": {"40": [2]}},
                    "hj-size": {"method": "hj-size", "settings": ["constraint.size=0.2", "constraint.match.macs=0.4"]},
                    "longer": {"dense": True, "finetune_settings": ["trainer.max_steps=7"]}},
        "reference": "random", "claims": {"joint": {"better": "hj-mac", "than": ["random"]},
                                          "no loss": {"better": "hj-mac", "than": ["teacher", "longer"], "margin": 99}},
        **changes,
    }  # fmt: skip
    path = place / "sweep.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.long
@pytest.mark.parametrize("task", ["intent", "ctc"])
def test_from_the_sweep_to_the_table(work: Path, tmp_path: Path, task: str) -> None:
    if task == "intent":
        path = sweep_file(work, tmp_path, task)
    else:
        path = sweep_file(work, tmp_path, task, methods={"hj-mac": {"method": "hj-mac"}}, reference="hj-mac", claims={})
    done = subprocess.run([sys.executable, "-m", "pruning.bin.sweep", "--config", str(path), "--exp-dir",
                           str(tmp_path / "exp")], capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = comparison.read(tmp_path / "exp" / "results")
    seeds = {line.method: line.seeds for line in found.lines[1:]}
    more = {"random": (1, 2), "hj-size": (1,), "longer": (1,)}
    assert seeds == {"hj-mac": (1,), **(more if task == "intent" else {})}
    joint = found.lines[1]
    for line in found.lines[1:]:
        share = 1.0 if line.method == "longer" else 0.6
        assert line.network["macs_10s"] == pytest.approx(share * line.dense["macs_10s"], rel=0.06)
        assert line.nll_per_token is None
    table = comparison_tables.table(found, "40")
    assert "NLL" not in table and "GMACs 10 s" in table
    if task == "intent":
        assert found.measure.name == "intent accuracy %" and "minus random" in table
        place = tmp_path / "exp" / "40" / "hj-mac" / "seed1" / "finetuned"
        errors = sample([Measurement.read(path_of(place, INTENTS, "dev"))]).value
        assert found.measure.shown(float(joint.rates[0])) == pytest.approx(100 - errors)
        place = tmp_path / "exp" / "40" / "longer" / "seed1" / "finetuned"
        longer = checkpoint.read_header(checkpoint.best_path(place))
        assert longer["step"] <= 7 and found.legend["longer"] == "dense, trained on, trainer.max_steps=7"
        assert "no loss (at most 99 more)" in comparison_tables.claims_table(found)
    else:
        assert found.measure.name == "WER %"
    compare.main(["--results", str(tmp_path / "exp" / "results"), "--output", str(tmp_path / "table.md"), "--plot",
                  str(tmp_path / "plot.png"), "--across", "hj-mac", "--note", "Of noise."])  # fmt: skip
    text = (tmp_path / "table.md").read_text()
    assert ("intent accuracy" in text) == ("### Claims" in text) == (task == "intent")
    assert "\n\nOf noise.\n\n" in text and "transducer" not in text, "a transducer has a likelihood"


def test_accuracy_is_shown_the_right_way_round() -> None:
    """More errors mean less accuracy, and the interval goes from low to high."""
    measure = comparison.MEASURES["intents"]
    assert measure.shown(12.5) == 87.5 and measure.shown_difference(3.0) == -3.0
    cell = comparison_tables._shown(comparison_tables.Estimate(10.0, 8.0, 13.0), measure.shown)
    assert cell == "90.00 (87.00 to 92.00)"
    assert math.isclose(measure.shown(0.0), 100.0)


def test_what_cannot_be_run_is_refused(work: Path, tmp_path: Path) -> None:
    path = sweep_file(work, tmp_path, "ctc", decoding="greedy_search", claims={})
    message = r"line 2: decoding method 'greedy_search' does not support an encoder with a head; choose from ctc"
    with pytest.raises(UserError, match=message):
        definition.load(path)
    path = sweep_file(work, tmp_path, "ctc")
    settings(work, tmp_path / "prune.yaml", "intent", method="hj-mac", constraint={"macs": 0.4, "size": 0.0})
    with pytest.raises(UserError, match="intents.txt is not the table that the checkpoint was trained with"):
        definition.load(path)
