"""The front door for programs: what docs/python.md shows is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pruning
from pruning import registry
from pruning.experiments.checkpoint import save_model
from pruning.models.conformer import ConformerConfig
from pruning.models.transducer import Transducer, TransducerConfig

DOCS = Path(__file__).resolve().parents[1] / "docs" / "python.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(program: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parents[1])}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_ones_own_network(tmp_path: Path) -> None:
    output = run(EXAMPLES[0], tmp_path)
    found = re.match(
        r"\{'size': (\d\.\d+), 'macs': (\d\.\d+)\} Conv1d\(20, (\d+), .* Linear\(in_features=24, out_f", output
    )
    assert found is not None, output
    assert abs(float(found[1]) - 0.5) <= 0.01 and 0 < float(found[2]) < 1 and int(found[3]) < 32
    assert (tmp_path / "small.safetensors").stat().st_size > 0


def test_the_example_of_a_transducer(tmp_path: Path) -> None:
    encoder = ConformerConfig(16, 2, 8, (2,), (12,), (20,), (16,), 5, 80, (4, 4, 8))
    torch.manual_seed(0)
    (tmp_path / "exp" / "teacher").mkdir(parents=True)
    network = Transducer(TransducerConfig(encoder, 20))
    save_model(tmp_path / "exp" / "teacher" / "best.safetensors", network, {"model": registry.describe(network)})
    assert re.match(r"\{'size': 0\.\d+, 'macs': 0\.\d+\} torch.Size\(\[1, \d+, 16\]\)", run(EXAMPLES[1], tmp_path))


def test_every_public_name_is_there() -> None:
    assert set(pruning.__all__) <= set(dir(pruning))
    for name in pruning.__all__:
        assert getattr(pruning, name).__doc__
    with pytest.raises(AttributeError, match="module 'pruning' has no attribute 'nothing'"):
        _ = pruning.nothing  # type: ignore[attr-defined]


def test_importing_it_imports_no_torch(tmp_path: Path) -> None:
    assert run("import sys, pruning; print('torch' in sys.modules)", tmp_path) == "False\n"
