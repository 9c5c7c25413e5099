"""What older versions wrote is read in today's form, at the door."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import convert_results
from pruning import configuration, old_forms
from pruning.errors import UserError
from pruning.kinds import language_model, transducer

OLD = "gating: {gate_lr: 0.3, gates: {kinds: [ffn]}}\ncalibration_batches: 7\nlow_rank: {}\n"


def test_an_old_configuration_is_that_of_today(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD)
    found = configuration.load(language_model.PruneConfig, tmp_path / "old.yaml", ["gating.multiplier_lr=0.5"])
    assert (found.l0.gate_lr, found.l0.multiplier_lr, found.l0.gates.kinds) == (0.3, 0.5, ("ffn",))
    assert found.low_rank.calibration_batches == 7
    configuration.save(found, tmp_path / "new.yaml")
    assert "gating" not in (tmp_path / "new.yaml").read_text()
    assert configuration.load(language_model.PruneConfig, tmp_path / "new.yaml") == found


def test_keys_are_added_to_parts_that_are_there() -> None:
    """A network's dimensions are optional; those of other encoders do not get the key."""
    old = {"model": {"encoder": {"d_model": 8}}}
    assert old_forms.configuration(old) == {"model": {"encoder": {"d_model": 8, "dense_dim": 0}}}
    assert old == {"model": {"encoder": {"d_model": 8}}}
    for same in ({"model": None}, {"model": {"encoder": {"type": "conformer", "config": {"d_model": 8}}}}, {},
                 {"model": {"encoder": {"d_model": 8, "dense_dim": 9}}}):  # fmt: skip
        assert old_forms.configuration(same) == same


def test_mistakes_in_an_old_configuration_are_told_by_the_key_of_today(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("gating: {gate_lr: -1}\n")
    with pytest.raises(UserError, match="key 'l0.gate_lr' in .*old.yaml must be at least 0, got -1"):
        configuration.load(transducer.PruneConfig, tmp_path / "old.yaml")
    (tmp_path / "both.yaml").write_text("gating: {gate_lr: 1}\nl0: {gate_lr: 1}\n")
    with pytest.raises(UserError, match="both.yaml: 'gating' is the old name of 'l0', and both are given"):
        configuration.load(transducer.PruneConfig, tmp_path / "both.yaml")


@pytest.mark.parametrize(
    ("old", "new"),
    [("gating.gate_lr=0.3", "l0.gate_lr=0.3"), ("gating={}", "l0={}"), ("calibration_batches=3", "low_rank.calibration_"
      "batches=3"), ("gatings.x=1", "gatings.x=1"), ("trainer.seed=2", "trainer.seed=2"), ("l0", "l0")],
)  # fmt: skip
def test_settings(old: str, new: str) -> None:
    assert old_forms.setting(old) == new


def test_results_are_converted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    legend = {"methods": {"a": "l0, not fine-tuned, gating.gates.kinds=[heads, ffn], gating.gate_lr=1.0"},
              "targets": {"half": ["constraint.size=0.5"]}, "results": {"gating.x": "m"}}  # fmt: skip
    path = tmp_path / "results" / "a" / "sweep.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(legend))
    convert_results.main([str(tmp_path)])
    assert capsys.readouterr().out == f"{path}\n"
    expected = "l0, not fine-tuned, l0.gates.kinds=[heads, ffn], l0.gate_lr=1.0"
    assert json.loads(path.read_text()) == {**legend, "methods": {"a": expected}}
    convert_results.main([str(tmp_path)])
    assert capsys.readouterr().out == ""


def test_nothing_committed_has_an_old_form() -> None:
    root = Path(__file__).resolve().parents[1]
    found = [path for pattern in ("egs/*/conf/**/*.yaml", "egs/*/results/**/sweep.json") for path in root.glob(pattern)
             if any(f"{old}{mark}" in path.read_text() for old in old_forms.MOVED for mark in (".", ":", "="))
             and "low_rank: {calibration_batches" not in path.read_text()]  # fmt: skip
    assert found == []
