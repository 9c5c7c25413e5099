"""The benchmark measures every system, backend and setting equally often, in turn, and makes a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruning import registry
from pruning.bin import benchmark as command
from pruning.bin import benchmark_lm
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import read_json
from pruning.measure import benchmark
from tests.kinds.test_encoder_head_export import irregular
from tests.methods.test_l0 import network
from tests.models.speech_encoders import SHAPES

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")


def row(system: str, seconds: float, macs: float, **change: Any) -> dict[str, Any]:
    return {"system": system, "backend": "onnx", "threads": 1, "batch": 1, "seconds": 10.0, "median_seconds": seconds,
            "p95_seconds": 2 * seconds, "real_time_factor": seconds / 10, "bytes": 2**21, "peak_memory_mib": None,
            "macs_10s": macs, **change}  # fmt: skip


def test_speed_ups_are_against_the_first_system_in_the_same_setting() -> None:
    rows = [row("dense", 0.4, 8e9), row("dense", 0.2, 8e9, threads=2), row("half", 0.25, 4e9),
            row("half", 0.1, 4e9, threads=2)]  # fmt: skip
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in benchmark.table(rows).splitlines()]
    cells = [dict(zip(lines[0], line)) for line in lines[2:]]
    assert [cell["speed-up"] for cell in cells] == ["1.00", "1.00", "1.60", "2.00"]
    assert [cell["MAC ratio"] for cell in cells] == ["1.00", "1.00", "2.00", "2.00"]
    assert [cell["of it"] for cell in cells] == ["1.00", "1.00", "0.80", "1.00"]
    assert cells[0]["median ms"] == "400.0" and cells[0]["p95 ms"] == "800.0" and cells[0]["peak MiB"] == "-"


def test_median_and_percentile() -> None:
    timing = benchmark.Timing("a", "pytorch", benchmark.Setting(1, 1, 1.0), [float(i) for i in range(1, 102)])
    assert timing.median == 51 and timing.percentile_95 == 96


@pytest.mark.processes
@pytest.mark.long
def test_all_of_it(tmp_path: Path) -> None:
    for name in ("dense", "other"):
        model = network()
        header = {"model": registry.describe(model), "tokenizer": {}}
        checkpoint.save_model(checkpoint.best_path(tmp_path / name), model, header)
    threads = torch.get_num_threads()
    systems = [f"{name}={tmp_path / name}" for name in ("dense", "other")]
    backends = ["pytorch", "torchscript", "onnx", "int8"]
    command.main(["--systems", *systems, "--backends", *backends, "--threads", "1", "--batch", "1", "2", "--seconds",
                  "2", "--repeats", "3", "--output", str(tmp_path / "speed.json")])  # fmt: skip
    torch.set_num_threads(threads)
    facts = read_json(tmp_path / "speed.json")
    assert len(facts["rows"]) == 2 * 4 * 2
    assert all(one["repeats"] == 3 and one["median_seconds"] > 0 for one in facts["rows"])
    assert all(one["bytes"] > 10_000 for one in facts["rows"])
    memory = [one["peak_memory_mib"] for one in facts["rows"]]  # in the first setting
    assert all((value > 50) if one["batch"] == 1 else value is None for value, one in zip(memory, facts["rows"]))
    assert facts["command"].startswith("python -m pruning.bin.benchmark")
    text = (tmp_path / "speed.md").read_text()
    assert "| other " in text
    (tmp_path / "speed.md").unlink()
    command.main(["--read", str(tmp_path / "speed.json")])
    assert (tmp_path / "speed.md").read_text() == text, "made from the file alone, with its origin"


def saved(model: nn.Module, place: Path) -> str:
    checkpoint.save_model(checkpoint.best_path(place), model, {"model": registry.describe(model), "tokenizer": {}})
    return f"{place.name}={place}"


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("task", ["ctc", pytest.param("intent", marks=pytest.mark.long)])
def test_encoders_with_heads(tmp_path: Path, task: str) -> None:
    systems = [saved(irregular(SHAPES[0], task), tmp_path / name) for name in ("dense", "other")]
    threads = torch.get_num_threads()
    command.main(["--systems", *systems, "--backends", "pytorch", "onnx", "--threads", "1", "--batch", "1", "--seconds",
                  "0.5", "--repeats", "2", "--export-dir", str(tmp_path / "exports"), "--output",
                  str(tmp_path / "speed.json")])  # fmt: skip
    torch.set_num_threads(threads)
    rows = read_json(tmp_path / "speed.json")["rows"]
    assert {(one["system"], one["backend"]) for one in rows} == {
        (system, backend) for system in ("dense", "other") for backend in ("pytorch", "onnx")
    }
    assert all(one["median_seconds"] > 0 and one["peak_memory_mib"] > 50 and one["macs_10s"] > 0 for one in rows)
    export = tmp_path / "exports" / "other" / "model.onnx"
    assert export.stat().st_size in [one["bytes"] for one in rows]


def test_what_cannot_be_timed_together(tmp_path: Path) -> None:
    output = ["--threads", "1", "--seconds", "0.5", "--no-memory", "--output", str(tmp_path / "speed.json")]
    ours, theirs = saved(irregular(SHAPES[0]), tmp_path / "samples"), saved(network(), tmp_path / "features")
    with pytest.raises(UserError, match="the systems take samples and features of 80 bins"):
        command.main(["--systems", ours, theirs, "--backends", "pytorch", *output])
    with pytest.raises(
        UserError, match="backend torchscript does not support an encoder with a head; leave this backend out"
    ):
        command.main(["--systems", ours, "--backends", "torchscript", *output])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--systems", "a=b"], "--systems needs --output"),
        (["--systems", "a=b", "--output", "speed.md"], "--output speed.md does not end in .json; name it speed.json"),
        (["--read", "speed.json", "--output", "other.json"], "--output has no effect with --read"),
        (["--read", "speed.md"], "--read speed.md does not end in .json"),
    ],
)
def test_a_file_that_would_be_lost_or_ignored_is_refused(options: list[str], message: str) -> None:
    """Nothing is measured before that, by either command."""
    for main in (command.main, benchmark_lm.main):
        with pytest.raises(UserError, match=message):
            main(options)
