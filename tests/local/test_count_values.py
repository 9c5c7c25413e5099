"""The program that counts the values in the matrices of a language model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from pruning.experiments import checkpoint
from pruning.files import read_json
from pruning.registry import describe
from tests.models.test_transformer_lm import network

PROGRAM = Path(__file__).resolve().parents[2] / "egs/lm/local/count_values.py"


def test_zeros_and_values_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Matrices of 0, 1 and 2 in turn: a third of the weights is 0, and a row has three values."""
    spec = importlib.util.spec_from_file_location("count_values", PROGRAM)
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    model = network()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.copy_(torch.arange(weight.numel()).view_as(weight) % 3)
    checkpoint.save_model(checkpoint.best_path(tmp_path), model, {"model": describe(model)})
    program.main(["--exp-dir", str(tmp_path), "--output", str(tmp_path / "values.json")])
    found = read_json(tmp_path / "values.json")
    assert {one["name"] for one in found["matrices"]} == {
        name for name, weight in model.named_parameters() if weight.dim() == 2
    }
    assert all(one["different"] == one["in_a_row"] == 3 for one in found["matrices"])
    for kind in found["kinds"]:
        assert kind["share of zeros"] == pytest.approx(1 / 3, abs=0.01)
    assert sum(kind["weights"] for kind in found["kinds"]) == sum(one["weights"] for one in found["matrices"])
    assert found["provenance"]["command"].startswith("python local/count_values.py --exp-dir ")
    assert "layers.ffn.linear1.weight" in capsys.readouterr().out
