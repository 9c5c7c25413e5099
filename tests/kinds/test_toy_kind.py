"""A kind of network from another package works everywhere with one module and one registration."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pruning import registry
from pruning.bin import compare, extract, finetune, prune, sweep, train
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import read_json
from pruning.models.facts import read_facts

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINER = {"max_steps": 40, "valid_interval": 20, "tensorboard": False, "num_threads": 1, "optimiser": {"lr": 0.02}}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with the kind as in an installed package, its data and configurations."""
    site = tmp_path / "site"
    info = site / "toy_kind-0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("toy_kind.py"), site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-kind\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[pruning.kinds]\ntoy_classifier = toy_kind\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{REPOSITORY}")
    registry._modules.cache_clear()
    draw = random.Random(0)
    for part, count in (("train", 320), ("dev", 64)):
        lines = []
        for _ in range(count):
            values = [draw.uniform(-1, 1) for _ in range(4)]
            lines.append(f"{'yes' if values[0] * values[1] > 0 else 'no'} " + " ".join(f"{v:.3f}" for v in values))
        (tmp_path / f"{part}.txt").write_text("\n".join(lines))
    (tmp_path / "lang").mkdir()
    (tmp_path / "lang" / "classes.txt").write_text("yes\nno\n")
    kind = {"kind": "toy_classifier", "trainer": TRAINER}
    pruned = {**kind, "constraint": {"size": 0.5, "ramp_share": 0.4}, "criterion": {"interval": 2},
              "l0": {"gate_lr": 0.3, "multiplier_lr": 0.3}}  # fmt: skip
    for name, values in {"train": {**kind, "model": {"hidden": 100}}, "prune": pruned, "finetune": kind}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    yield tmp_path
    registry._modules.cache_clear()
    sys.modules.pop("toy_kind", None)


def options(place: Path, config: str, name: str) -> list[str]:
    return [
        "--config", str(place / f"{config}.yaml"), "--exp-dir", str(place / name), "--lang-dir", str(place / "lang"),
        "--train-text", str(place / "train.txt"), "--dev-text", str(place / "dev.txt"),
    ]  # fmt: skip


@pytest.mark.processes
def test_one_module_and_one_registration(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = ["--teacher", str(place / "dense")]
    train.main(options(place, "train", "dense"))
    assert checkpoint.read_header(checkpoint.best_path(place / "dense"))["model"]["type"] == "toy_classifier"
    for method in ("l0", "taylor"):
        prune.main([*options(place, "prune", method), "--method", method, *teacher])
        extract.main(["--pruned", str(place / method), "--exp-dir", str(place / f"{method}-small")])
        assert checkpoint.read_header(checkpoint.best_path(place / f"{method}-small"))["exactness"] < 1e-4
        facts = read_facts(place / f"{method}-small")
        assert facts["hidden_parameters"] / facts["dense"]["hidden_parameters"] == pytest.approx(0.5, abs=0.02)
        finetune.main([*options(place, "finetune", f"{method}-tuned"), "--init", str(place / f"{method}-small")])
        assert (place / f"{method}-tuned" / ".done").is_file()
    with pytest.raises(UserError, match="a toy, does not support technique low_rank; choose one of structured"):
        prune.main([*options(place, "prune", "refused"), "--method", "taylor", "--technique", "low_rank", *teacher])
    assert not (place / "refused").exists()
    _sweep_and_report(place)
    assert "mistakes %" in capsys.readouterr().out


def _sweep_and_report(place: Path) -> None:
    """Run a sweep with two lines, and report its results."""
    values = {
        "teacher": str(place / "dense"), "lang_dir": str(place / "lang"), "prune": str(place / "prune.yaml"),
        "finetune": str(place / "finetune.yaml"), "train_text": [str(place / "train.txt")],
        "dev_text": [str(place / "dev.txt")], "test_text": [str(place / "dev.txt")],
        "targets": {"half": ["constraint.size=0.5"]}, "reference": "taylor",
        "methods": {"taylor": {"method": "taylor"}, "magnitude": {"method": "magnitude"}},
    }  # fmt: skip
    (place / "sweep.yaml").write_text(yaml.safe_dump(values))
    sweep.main(["--config", str(place / "sweep.yaml"), "--exp-dir", str(place / "sweep")])
    results = place / "sweep" / "results"
    assert read_json(results / "sweep.json")["kind"] == "toy_classifier"
    assert len(read_json(results / "half/taylor/seed1.json")["sets"]["dev"]["columns"]["errors"]) == 64
    compare.main(["--results", str(results), "--output", str(place / "comparison.md")])
    text = (place / "comparison.md").read_text()
    assert "magnitude" in text and "Mistakes over all lines." in text
