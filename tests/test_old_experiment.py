"""Experiments made by an earlier commit still work: they load, count as done, resume, decode, extract and export alike.

The files that this commit left, its results, and the program that made them are in ``fixtures/old_experiment``.
Everything goes through the commands, except for the loader of checkpoints.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pruning import processor
from pruning.errors import UserError
from pruning.experiments.checkpoint import load_model
from pruning.experiments.measurement import Measurement
from tests.fixtures.old_experiment import make

MADE: dict[str, Any] = json.loads((make.HERE / "made.json").read_text())
REPOSITORY = Path(__file__).resolve().parents[1]
SAME_MACHINE = (torch.__version__ == MADE["torch"] and make.processor() == MADE["processor"]
                and processor.setting() is None)  # fmt: skip
"""Whether sums are computed in the same order. MKL chose its own code then: to test this, set MKL_DEBUG_CPU_TYPE=."""
OUTPUTS = 1e-4
"""Tolerance of outputs, relative to the largest: float32 sums in another order."""
TRAINED = 1e-3
"""Tolerance of weights after some steps on another processor or with another torch: a third or less of the learning
rate. On those of ``made.json`` they must be equal bit for bit."""
UNDETERMINED = ("convolution.depthwise.bias", "convolution.norm.running_mean", "head.attention.bias")
"""Tensors without effect on the loss: constants before a batch norm or a softmax, and the mean that follows one. Their
gradient is rounding error, which the optimiser turns into steps of about the learning rate."""
WANDERED = 5e-2
"""Tolerance of these tensors on other processors: a few steps."""
EXTRACTIONS = [name for name, line in MADE["finished"].items() if line.startswith("extract ")]
RUNS = [name for name in MADE["finished"] if name not in EXTRACTIONS]


def as_then(line: str) -> str:
    """Return the command of a run with the form of layerwise distillation that was the default then."""
    words = shlex.split(line)
    if words[0] not in ("prune", "finetune") or "layers" not in Path(words[2]).read_text():
        return line
    return f"{line} distillation.loss=dphubert"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory with ``data``, ``conf`` and ``exp`` as the earlier commit left them."""
    with tarfile.open(make.HERE / "experiments.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kept(exp_dir: str) -> dict[Path, bytes]:
    """Return the files that must not change if a run is done."""
    files = [path for path in Path(exp_dir).rglob("*") if path.suffix == ".safetensors" or path.name == ".done"]
    return {path: path.read_bytes() for path in files}


def check_outputs(exp_dir: Path, expected: Mapping[str, Any], **chosen: Any) -> None:
    """Check the outputs of a network for its probe."""
    found = make.probed(load_model(exp_dir, **chosen)[0])
    scale = max(map(abs, expected["values"]))
    assert found["size"] == expected["size"]
    assert found["values"] == pytest.approx(expected["values"], abs=OUTPUTS * scale)
    assert found["mean"] == pytest.approx(expected["mean"], abs=OUTPUTS * scale)


def check_ends(exp_dir: str) -> None:
    """Check that a run leaves the same checkpoints and the same structure as then."""
    expected, found = MADE["ends"][exp_dir], make.ends(Path(exp_dir))
    assert found.keys() == expected.keys()
    for name, was in expected.items():
        if name.endswith(".json"):
            assert {key: group["kept"] for key, group in found[name]["groups"].items()} == {
                key: group["kept"] for key, group in was["groups"].items()}  # fmt: skip
            continue
        assert (found[name]["tensors"], found[name]["names"]) == (was["tensors"], was["names"]), name
        tensors = sorted(load_file(Path(exp_dir, name)))
        for tensor, value, wanted in zip(tensors, found[name]["values"], was["values"]):
            limit = WANDERED if tensor.endswith(UNDETERMINED) else TRAINED
            assert value == pytest.approx(wanted, abs=limit), f"{name}: {tensor}"
        assert found[name]["sha256"] == was["sha256"] or not SAME_MACHINE, f"{name} is close, but not equal"


@pytest.mark.parametrize("exp_dir", MADE["probes"])
def test_networks_say_the_same(place: Path, exp_dir: str) -> None:
    check_outputs(Path(exp_dir), MADE["probes"][exp_dir])


def test_a_default_that_has_changed_is_named(place: Path) -> None:
    """A command that does not name the form of layerwise distillation asks for another run than then."""
    with pytest.raises(UserError, match="started with distillation.loss=dphubert, not distillation.loss=standardised"):
        make.command(MADE["finished"]["exp/transducer/pruned"])


def test_epochs_are_averaged(place: Path) -> None:
    of = MADE["averaged"]
    check_outputs(Path(of["exp_dir"]), of["probe"], epoch=of["epoch"], avg=of["avg"])
    make.command(f"average --exp-dir {of['exp_dir']} --epoch {of['epoch']} --avg {of['avg']} --output mean.safetensors")
    check_outputs(Path("mean.safetensors"), of["probe"])


@pytest.mark.parametrize("exp_dir", MADE["finished"])
def test_what_is_finished_is_done(
    place: Path, exp_dir: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run is done for the same command, also with the experiment's own configuration, but not for another."""
    line, before = as_then(MADE["finished"][exp_dir]), kept(exp_dir)
    assert before
    with caplog.at_level(logging.INFO):
        make.command(line)
    if exp_dir in EXTRACTIONS:
        assert f"{exp_dir} is already extracted" in capsys.readouterr().out
        with pytest.raises(UserError, match="contains an extraction with another --round-to"):
            make.command(f"{line} --round-to 2")
    else:
        assert f"{exp_dir} is already done" in caplog.text
        words = shlex.split(line)
        words[words.index("--config") + 1] = f"{exp_dir}/config.yaml"
        caplog.clear()
        with caplog.at_level(logging.INFO):
            make.command(shlex.join(words))
        assert f"{exp_dir} is already done" in caplog.text
        with pytest.raises(UserError, match="was started with trainer.seed=1, not trainer.seed=2"):
            make.command(f"{line} trainer.seed=2")
    assert kept(exp_dir) == before


AT_ONCE = """
import importlib, shlex, sys
name, *arguments = shlex.split(sys.argv[1])
importlib.import_module(f"pruning.bin.{name}").main(arguments)
print({"torch", "numpy", "lhotse"} & sys.modules.keys() or "nothing heavy")
"""


@pytest.mark.parametrize("command", ["prune", "extract", "decode"])
def test_what_is_known_to_be_done_needs_no_torch(place: Path, command: str) -> None:
    """The record is made when the command sees that it is done, and holds until a file changes."""
    lines = [*MADE["finished"].values(), *MADE["measured"].values()]
    line = as_then(next(line for line in lines if line.startswith(f"{command} ")))
    exp_dir = Path(re.findall(r"--exp-dir (\S+)", line)[0])
    make.command(line)
    before = kept(str(exp_dir))

    def again() -> str:
        ended = subprocess.run([sys.executable, "-c", AT_ONCE, line], capture_output=True, text=True, check=True,
                               env={**os.environ, "PYTHONPATH": str(REPOSITORY)})  # fmt: skip
        assert kept(str(exp_dir)) == before
        return ended.stdout.splitlines()[-1]

    assert again() == "nothing heavy"
    shutil.copy(exp_dir / "model.json", "copy.json")
    Path("copy.json").replace(exp_dir / "model.json")
    assert "torch" in again()


@pytest.mark.parametrize("exp_dir", MADE["interrupted"])
def test_what_was_interrupted_goes_on(place: Path, exp_dir: str, caplog: pytest.LogCaptureFixture) -> None:
    """An interrupted run resumes and ends like the uninterrupted one of the earlier commit."""
    with caplog.at_level(logging.INFO):
        make.command(as_then(MADE["interrupted"][exp_dir]))
    assert f"resuming {exp_dir}: " in caplog.text
    assert f", step {MADE['interrupted_after'][exp_dir]}\n" in caplog.text
    check_ends(exp_dir)


@pytest.mark.parametrize("exp_dir", EXTRACTIONS)
def test_extraction_gives_the_same(place: Path, exp_dir: str) -> None:
    before, facts = load_file(f"{exp_dir}/best.safetensors"), json.loads(Path(exp_dir, "model.json").read_text())
    structure = json.loads(Path(exp_dir, "structure.json").read_text())
    shutil.rmtree(exp_dir)
    make.command(MADE["finished"][exp_dir])
    after, found = load_file(f"{exp_dir}/best.safetensors"), json.loads(Path(exp_dir, "model.json").read_text())
    assert json.loads(Path(exp_dir, "structure.json").read_text()) == structure
    assert facts.items() <= found.items()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-5, rtol=1e-5)
    check_outputs(Path(exp_dir), MADE["probes"][exp_dir])


@pytest.mark.parametrize("exp_dir", MADE["tuned"])
def test_small_networks_are_tuned(place: Path, exp_dir: str) -> None:
    make.command(as_then(MADE["tuned"][exp_dir]))
    check_ends(exp_dir)


@pytest.mark.parametrize("results", MADE["measured"])
def test_what_was_measured_is_measured_alike(place: Path, results: str, caplog: pytest.LogCaptureFixture) -> None:
    """Results count as done; made again they are equal: hypotheses, intents, likelihoods."""
    line = MADE["measured"][results]
    with caplog.at_level(logging.INFO):
        make.command(line)
    assert " is done" in caplog.text
    before = contents(results)
    shutil.rmtree(results)
    make.command(line)
    after = contents(results)
    assert after.keys() == before.keys()
    for name, was in before.items():
        found = after[name]
        if not isinstance(was, Measurement) or not isinstance(found, Measurement):
            assert found == was, name
            continue
        assert (found.what, found.set, found.utterances.ids) == (was.what, was.set, was.utterances.ids)
        for column, values in was.columns.items():
            assert found.columns[column] == (pytest.approx(values, abs=2e-3) if "nll" in column else values), column
        for total in was.totals:
            assert found.total(total) == pytest.approx(was.total(total), rel=1e-4), total
        assert found.parameters.items() >= was.parameters.items(), "otherwise it would not count as done"
        assert found.facts.keys() == was.facts.keys()


def contents(results: str) -> dict[str, str | Measurement]:
    """Return the measurements and the text of the other files of a directory, by name."""
    return {path.name: Measurement.read(path) if path.suffix == ".json" else path.read_text()
            for path in Path(results).iterdir()}  # fmt: skip


def test_tables_are_made_of_old_results(place: Path) -> None:
    make.command("report --systems teacher=exp/transducer/teacher --sets dev --method greedy_search --output a.md")
    make.command("intent_report --systems dense=exp/intent/dense --sets dev --output b.md")
    make.command("lm_report --lms dense=exp/lm/dense --texts dev --output c.md")
    for name, row in (("a.md", "| teacher "), ("b.md", "| dense "), ("c.md", "| dense ")):
        assert row in Path(name).read_text()


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("exp_dir", ["exp/transducer/teacher", "exp/transducer/small", "exp/lm/small", "exp/ctc/small",
                                     "exp/intent/small"])  # fmt: skip
def test_networks_are_exported(place: Path, exp_dir: str) -> None:
    """The command compares the export with PyTorch and fails if they differ."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    make.command(f"export --exp-dir {exp_dir} --lang-dir data/lang --output export")
    assert list(Path("export").glob("*.onnx"))
