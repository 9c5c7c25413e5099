"""The list of training runs with pre-trained networks is what the sweeps would run, and no more than was agreed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pruning import configuration
from pruning.kinds.encoder_head import RunConfig
from pruning.sweeps import sweep

RECIPE = Path(__file__).parents[1] / "egs" / "librispeech"


def test_every_run_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPE)
    listed = yaml.safe_load(Path("conf/pretrained_runs.yaml").read_text(encoding="utf-8"))["runs"]
    assert [one["number"] for one in listed] == list(range(1, len(listed) + 1)) and len(listed) <= 24
    assert all(one["hours"] <= 2 for one in listed)
    for file in {one["sweep"] for one in listed if "sweep" in one}:
        config = sweep.load(file, thorough=False)
        runs = {run.name: sweep.steps_of(config, run.config) for run in sweep.expand(config)}
        named = {one["run"]: one["steps"] for one in listed if one.get("sweep") == file and "CONTROL" not in one["run"]}
        assert named == {name: (steps.pruned or 0) + (steps.trained or 0) for name, steps in runs.items()}
    (alone,) = (one for one in listed if "config" in one)
    assert configuration.load(RunConfig, alone["config"]).trainer.max_steps == alone["steps"]


@pytest.mark.parametrize("name", ["moonshine_tiny", "whisper_base"])
def test_one_shot_trains_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPE)
    config = sweep.load(f"conf/one_shot/{name}.yaml", thorough=False)
    loaded = configuration.load(config.kind.pruning, config.prune)
    assert loaded.trainer.optimiser.lr == 0 and loaded.constraint.ramp == "one_shot"
    assert not any(line.finetune for line in config.methods.values())
    other = sweep.load(f"conf/one_shot/{name}.yaml", False, ["test_cuts=[other.jsonl.gz]"])
    assert other.test_cuts == ("other.jsonl.gz",) and other.train_cuts == config.train_cuts
