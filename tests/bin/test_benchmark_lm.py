"""The benchmark of language models measures every system, backend, work and setting, and mentions zero weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruning import registry
from pruning.bin import benchmark as encoders
from pruning.bin import benchmark_lm as command
from pruning.core.cost import CostModel
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import read_json, write_json
from pruning.measure import lm_benchmark
from tests.kinds.test_language_model_export import NETWORKS
from tests.methods.test_l0 import network as transducer
from tests.models.test_transformer_lm import network

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")


def row(system: str, seconds: float, macs: float, **change: Any) -> dict[str, Any]:
    return {"system": system, "backend": "onnx", "threads": 1, "work": "scoring", "batch": 2, "tokens": 32,
            "median_seconds": seconds, "p95_seconds": seconds, "tokens_per_second": 64 / seconds, "bytes": 2**21,
            "peak_memory_mib": None, "macs_per_token": macs, "parameters": 1000, "nonzero_parameters": 990,
            **change}  # fmt: skip


def cells(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in lm_benchmark.table(rows).splitlines()]
    return [dict(zip(lines[0], line)) for line in lines[2:]]


def test_speed_ups_are_against_the_first_system_at_the_same_work() -> None:
    rows = [row("dense", 0.4, 8e6), row("dense", 0.2, 7e6, work="steps"), row("half", 0.25, 4e6),
            row("half", 0.1, 3.5e6, work="steps")]  # fmt: skip
    found = cells(rows)
    assert [one["speed-up"] for one in found] == ["1.00", "1.00", "1.60", "2.00"]
    assert [one["MAC ratio"] for one in found] == ["1.00", "1.00", "2.00", "2.00"]
    assert [one["of it"] for one in found] == ["1.00", "1.00", "0.80", "1.00"]
    assert found[0]["tokens/s"] == "160" and found[0]["batch x tokens"] == "2 x 32"
    assert "note" not in found[0]


def test_networks_of_many_zeros_have_a_note() -> None:
    found = cells([row("dense", 0.4, 8e6), row("sparse", 0.4, 8e6, nonzero_parameters=450)])
    assert [one["note"] for one in found] == ["", "55% zeros: no gain in dense kernels"]


def test_what_one_call_reads_and_costs() -> None:
    """The MACs of a step are those of a sentence of the same length, per token."""
    model = network()
    d, h = model.config.d_model, model.config.head_dim
    for setting, read, places in ((lm_benchmark.Setting(1, "scoring", 3, 32), 96, 32),
                                  (lm_benchmark.Setting(1, "steps", 3, 16), 24, 17)):  # fmt: skip
        assert setting.read == read and setting.attended == places
        macs = sum(heads * (4 * d * h + 2 * places * h) + 2 * d * hidden
                   for heads, hidden in zip(model.config.num_heads, model.config.ffn_dim))  # fmt: skip
        assert lm_benchmark.macs_per_token(model, places) == macs + d * model.config.vocab_size
    assert CostModel(model.unit_groups(), model.cost_terms(1)).dense["macs"] > 0


def save(model: nn.Module, directory: Path, **more: object) -> Path:
    header = {"model": registry.describe(model), "tokenizer": {}, **more}
    checkpoint.save_model(checkpoint.best_path(directory), model, header)
    return directory


def test_all_of_it(tmp_path: Path) -> None:
    names = {name: name.replace(" ", "-") for name in ("dense", "structured", "factored", "unstructured")}
    systems = [f"{label}={save(NETWORKS[name](), tmp_path / label)}" for name, label in names.items()]
    threads = torch.get_num_threads()
    command.main(["--systems", *systems, "--threads", "1", "--batch", "1", "2", "--histories", "3", "--tokens", "8",
                  "--history-tokens", "4", "--repeats", "3", "--no-memory", "--export-dir", str(tmp_path / "exports"),
                  "--output", str(tmp_path / "speed.json")])  # fmt: skip
    torch.set_num_threads(threads)
    facts = read_json(tmp_path / "speed.json")
    rows = facts["rows"]
    assert len(rows) == 4 * 3 * 3
    assert all(one["repeats"] == 3 and one["median_seconds"] > 0 and one["peak_memory_mib"] is None for one in rows)
    for one in rows:
        read = one["batch"] * 8 if one["work"] == "scoring" else 3 * 8
        assert one["tokens_per_second"] == pytest.approx(read / one["median_seconds"])
        if one["backend"] != "pytorch":
            file = {"scoring": "lm", "steps": "lm_step"}[one["work"]] + {"onnx": ".onnx", "int8": ".int8.onnx"}[
                one["backend"]
            ]
            assert one["bytes"] == (tmp_path / "exports" / one["system"] / file).stat().st_size
    pytorch = {one["system"]: one for one in rows if one["backend"] == "pytorch" and one["work"] == "steps"}
    assert pytorch["dense"]["bytes"] == 4 * pytorch["dense"]["parameters"], "tied weights count once"
    assert pytorch["structured"]["macs_per_token"] < pytorch["dense"]["macs_per_token"]
    assert pytorch["unstructured"]["macs_per_token"] == pytorch["dense"]["macs_per_token"]
    assert facts["command"].startswith("python -m pruning.bin.benchmark_lm")
    text = (tmp_path / "speed.md").read_text()
    assert "zeros: no gain in dense kernels" in text
    (tmp_path / "speed.md").unlink()
    command.main(["--read", str(tmp_path / "speed.json")])
    assert (tmp_path / "speed.md").read_text() == text, "made from the file alone, with its origin"
    with pytest.raises(UserError, match="was not written by this command"):
        encoders.main(["--read", str(tmp_path / "speed.json")])


@pytest.mark.processes
@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own(tmp_path: Path) -> None:
    place = save(network(), tmp_path / "dense")
    lm_benchmark.export(network(), tmp_path / "export", ["int8"])
    for backend, work in (("pytorch", "scoring"), ("int8", "steps")):
        setting = lm_benchmark.Setting(1, work, 2, 5)
        assert lm_benchmark.peak_memory(place, tmp_path / "export", backend, setting) > 50


def test_an_export_is_kept_for_the_same_weights(tmp_path: Path) -> None:
    model = network()
    lm_benchmark.export(model, tmp_path, ["pytorch"])
    assert not list(tmp_path.iterdir())
    lm_benchmark.export(model, tmp_path, ["pytorch", "onnx"])
    made = (tmp_path / "lm.onnx").stat().st_mtime_ns
    assert not (tmp_path / "lm.int8.onnx").exists()
    lm_benchmark.export(model, tmp_path, ["onnx"])
    assert (tmp_path / "lm.onnx").stat().st_mtime_ns == made
    lm_benchmark.export(model, tmp_path, ["int8"])
    assert (tmp_path / "lm_step.int8.onnx").is_file()
    made = (tmp_path / "lm.onnx").stat().st_mtime_ns
    with torch.no_grad():
        model.norm.weight.mul_(2)
    lm_benchmark.export(model, tmp_path, ["onnx"])
    assert (tmp_path / "lm.onnx").stat().st_mtime_ns != made


def test_what_is_refused(tmp_path: Path) -> None:
    output = ["--output", str(tmp_path / "x.json"), "--backends", "pytorch"]
    with pytest.raises(UserError, match="--systems needs --output"):
        command.main(["--systems", "a=b"])
    pruned = save(network(), tmp_path / "pruned", found_structure={})
    with pytest.raises(UserError, match="is of a pruning run; extract it first"):
        command.main(["--systems", f"a={pruned}", *output])
    asr = save(transducer(), tmp_path / "asr")
    with pytest.raises(
        UserError, match="asr contains a network of kind transducer; give a language model's checkpoint"
    ):
        command.main(["--systems", f"a={asr}", *output])
    lm = save(network(), tmp_path / "lm")
    with pytest.raises(UserError, match="lm contains a transformer_lm; give .* language models have benchmark_lm"):
        encoders.main(["--systems", f"a={lm}", *output])
    other = save(network(vocab_size=12), tmp_path / "other")
    with pytest.raises(UserError, match="vocabularies of 11 and 12 tokens"):
        command.main(["--systems", f"a={lm}", f"b={other}", *output])
    write_json(tmp_path / "empty.json", {"rows": []})
    with pytest.raises(UserError, match="was not written by this command"):
        command.main(["--read", str(tmp_path / "empty.json")])
