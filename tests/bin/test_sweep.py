"""A sweep on seconds of speech: dependent runs, no repeated work, reported failures, and the table."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pruning.bin import compare, sweep
from pruning.errors import UserError
from pruning.experiments import checkpoint, directory
from pruning.files import read_json, write_json
from pruning.sweeps import comparison, definition
from pruning.sweeps import sweep as sweeps
from tests.kinds.test_transducer import inputs, work  # noqa: F401
from tests.waiting import until

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(work: Path, data_dir: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A sweep file of a criterion, random units with its counts, and a uniform network from scratch."""
    data = inputs(data_dir)
    fast = ["trainer.max_steps=4"]
    value = {
        "teacher": str(work / "teacher"),
        "lang_dir": str(data.lang_dir),
        "train_cuts": [str(path) for path in data.train],
        "dev_cuts": [str(path) for path in data.dev],
        "test_cuts": [str(path) for path in data.dev],
        "prune": str(work / "prune.yaml"),
        "finetune": str(work / "finetune.yaml"),
        "scratch": str(work / "train.yaml"),
        "targets": {"half": ["constraint.size=0.5", "constraint.ramp=one_shot", *fast]},
        "methods": {
            "drawn": {"method": "random", "counts_from": "magnitude", "finetune_settings": fast},
            "magnitude": {"method": "magnitude", "finetune_settings": fast},
            "uniform": {"uniform": "units", "finetune_settings": fast},
            "cut": {"structure_from": "magnitude", "repair": 20, "finetune": False},
        },
        "reference": "magnitude",
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def changed(path: Path, *keys: str, to: object) -> Path:
    value = yaml.safe_load(path.read_text())
    inner = value
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def made(results: Path) -> list[str]:
    return sorted(str(path.relative_to(results)) for path in results.glob("*/*/*.json"))


@pytest.mark.processes
@pytest.mark.long
def test_a_sweep_from_start_to_table(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exp_dir, results = tmp_path / "exp", tmp_path / "results"
    arguments = ["--config", str(config), "--exp-dir", str(exp_dir), "--results", str(results)]
    runner = f"{REPOSITORY / 'utils/run.sh'} --max-jobs-run 2"
    sweep.main([*arguments, "--runner", runner])
    assert made(results) == [
        "half/cut/seed1.json", "half/drawn/seed1.json", "half/magnitude/seed1.json", "half/uniform/seed1.json",
    ]  # fmt: skip
    structures = [read_json(exp_dir / f"half/{name}/seed1/pruned/structure.json") for name in ("drawn", "magnitude")]
    counts = [{name: len(group["kept"]) for name, group in one["groups"].items()} for one in structures]
    assert counts[0] == counts[1] and structures[0] != structures[1]
    sizes = [read_json(path)["network"]["encoder_parameters"] for path in sorted(results.glob("half/*/*"))]
    dense = read_json(results / "teacher.json")["network"]["encoder_parameters"]
    assert all(size / dense == pytest.approx(0.5, abs=0.02) for size in sizes)

    before = {path: path.stat().st_mtime_ns for path in results.glob("half/*/*")}
    (results / "half/uniform/seed1.json").unlink()  # as if it had been killed
    capfd.readouterr()
    sweep.main([*arguments, "--dry-run"])
    assert "half/uniform/seed1\n" in capfd.readouterr().out
    sweep.main(arguments)
    after = {path: path.stat().st_mtime_ns for path in results.glob("half/*/*")}
    changes = [str(path.relative_to(results)) for path in after if after[path] != before.get(path)]
    assert changes == ["half/uniform/seed1.json"]

    compare.main(["--results", str(results), "--output", str(tmp_path / "table.md"), "--plot", str(tmp_path / "p.png")])
    text = (tmp_path / "table.md").read_text()
    assert all(f"| {name} " in text for name in ("teacher", "drawn", "magnitude", "uniform"))
    assert "structure of magnitude, repair on 20, not fine-tuned" in text
    assert not (exp_dir / "half/cut/seed1/finetuned").exists()
    assert "counts of magnitude" in text and "p.png" in text and "pruning.bin.compare --results" in text


def test_a_run_is_known_by_the_values_of_its_configurations(config: Path, tmp_path: Path) -> None:
    """Comments and the order of keys change no run; a value does."""
    found = definition.load(config)
    prune, runs = Path(found.prune), sweeps.expand(found)
    values, text = yaml.safe_load(prune.read_text()), prune.read_text()

    def fingerprints() -> list[str]:
        return [sweeps.fingerprint(found, run) for run in runs]

    try:
        before = fingerprints()
        prune.write_text("# a comment\n" + yaml.safe_dump(dict(reversed(values.items())), sort_keys=False))
        assert fingerprints() == before
        prune.write_text(yaml.safe_dump({**values, "trainer": {**values["trainer"], "seed": 77}}))
        assert all(one != other for one, other in zip(fingerprints(), before))
    finally:
        prune.write_text(text)


def test_a_run_is_known_wherever_its_files_are(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same teacher, data, configurations and experiments under other paths."""
    value = yaml.safe_load(config.read_text())
    moved = {}
    for key in ("teacher", "lang_dir", "prune", "finetune", "scratch"):
        moved[key] = str(tmp_path / "moved" / key)
        (shutil.copytree if Path(value[key]).is_dir() else shutil.copy2)(value[key], _parent_made(moved[key]))
    for part in ("train", "dev", "test"):
        files = [_parent_made(str(tmp_path / "moved" / part / Path(name).name)) for name in value[f"{part}_cuts"]]
        for name, file in zip(value[f"{part}_cuts"], files):
            text = gzip.decompress(Path(name).read_bytes()).decode()
            places = {found.rpartition("/")[0] for found in re.findall(r'"(?:storage_path|source)": "([^"]+)"', text)}
            for place in places:
                text = text.replace(place, "/scratch/features")
            assert places
            Path(file).write_bytes(gzip.compress(text.encode()))
        moved[f"{part}_cuts"] = files
    found, other = definition.load(config), tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**value, **moved}, sort_keys=False))
    elsewhere = definition.load(other)
    for run in (None, *sweeps.expand(found)):
        assert sweeps.fingerprint(elsewhere, run) == sweeps.fingerprint(found, run)
        write_json(comparison.result_path(tmp_path / "r", run), {"made_by": sweeps.fingerprint(found, run)})
    arguments = [
        "--config",
        str(other),
        "--exp-dir",
        str(tmp_path / "x"),
        "--results",
        str(tmp_path / "r"),
        "--dry-run",
    ]
    sweep.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(line.endswith(" (done)") for line in lines)


def _parent_made(path: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_run_is_known_by_what_it_reads(config: Path, tmp_path: Path) -> None:
    """Not by when a file was compressed, and networks of random weights not by those of the teacher."""
    value = yaml.safe_load(config.read_text())
    cuts, teacher = tmp_path / "cuts.jsonl.gz", tmp_path / "teacher"
    content = gzip.decompress(Path(value["train_cuts"][0]).read_bytes())
    cuts.write_bytes(gzip.compress(content, mtime=1))
    shutil.copytree(value["teacher"], teacher)
    changed(config, "train_cuts", to=[str(cuts)])
    found = definition.load(changed(config, "teacher", to=str(teacher)), thorough=False)

    def fingerprints() -> dict[str, str]:
        return {run.method: sweeps.fingerprint(found, run) for run in sweeps.expand(found)}

    before = fingerprints()
    cuts.write_bytes(gzip.compress(content, mtime=2))
    assert fingerprints() == before
    model, header = checkpoint.load_model(teacher)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    checkpoint.save_model(checkpoint.best_path(teacher), model, header)
    assert {name for name, mark in fingerprints().items() if mark != before[name]} == {"drawn", "magnitude", "cut"}
    cuts.write_bytes(gzip.compress(content + b"\n"))
    assert all(mark != before[name] for name, mark in fingerprints().items())
    cuts.write_bytes(cuts.read_bytes()[:-20])
    with pytest.raises(UserError, match="cuts.jsonl.gz is not a complete gzip file"):
        fingerprints()


def test_what_others_need_is_made_again_on_another_machine(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """The results are there, the experiments are not; of two runs one is to be made, which needs a third."""
    exp_dir, results = tmp_path / "exp", tmp_path / "results"
    found = definition.load(config)
    for run in (None, *sweeps.expand(found)):
        if run is None or run.method != "cut":
            made_by = sweeps.fingerprint(found, run)
            write_json(comparison.result_path(results, run), {"made_by": made_by})
    sweep.main(["--config", str(config), "--exp-dir", str(exp_dir), "--results", str(results), "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    undone = [line.partition(": ")[2] for line in lines if not line.endswith("(done)")]
    assert undone == ["half/magnitude/seed1", "half/cut/seed1"]
    write_json(exp_dir / "half/magnitude/seed1/pruned" / directory.DONE, {})
    sweep.main(["--config", str(config), "--exp-dir", str(exp_dir), "--results", str(results), "--dry-run"])
    assert "half/magnitude/seed1 (done)" in capsys.readouterr().out


@pytest.mark.processes
@pytest.mark.long
def test_one_failure_does_not_stop_the_others(config: Path, tmp_path: Path) -> None:
    bad = {"method": "magnitude", "settings": ["trainer.optimiser.lr=1e30", "trainer.max_skipped_steps=1"]}
    good = {"uniform": "width", "finetune_settings": ["trainer.max_steps=3"]}
    changed(config, "methods", to={"bad": bad, "good": good})
    changed(config, "reference", to="good")
    command = [sys.executable, "-m", "pruning.bin.sweep", "--config", str(config), "--exp-dir", str(tmp_path / "exp")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 1
    assert "1 of 3 runs failed or depend on a failed run: half/bad/seed1; see" in done.stderr.splitlines()[-1]
    assert (tmp_path / "exp/results/half/good/seed1.json").is_file()


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("methods", "drawn", "method"), "magic", r"sweep.yaml line 20: unknown method 'magic'; choose from l0"),
        (("methods", "drawn", "counts_from"), "gone", r"line \d+: drawn depends on 'gone', which is not a line"),
        (("targets", "half"), ["constraint.size=0.99"], r"line \d+, drawn at half: a sparsity of 0.99 in size"),
        (("methods", "drawn", "settings"), ["constraint.sise=1"], r"line \d+, drawn at half: unknown key.*did you"),
        (("methods", "uniform", "method"), "l0", "give exactly one of method, structure_from, uniform and dense"),
        (("methods", "uniform", "dense"), True, "give exactly one of method, structure_from, uniform and dense"),
        (("methods", "longer"), {"dense": True, "repair": 10}, "repair has no effect on this line"),
        (
            ("methods", "longer"),
            {"dense": True, "finetune": False},
            "finetune must be true on a line that extracts no network",
        ),
        (("claims",), {"best": {"better": "cut", "than": ["drawn"], "margin": -1}}, "margin must be at least 0"),
        (("methods", "drawn", "seeds"), [7], "half/drawn/seed7 needs half/magnitude/seed7, which is not in the sweep"),
        (("methods", "drawn", "counts_from"), "uniform", r"depends on 'uniform', which does not prune"),
        (("reference",), "best", r"line \d+: the reference 'best' is not one of methods"),
        (("methdos",), {}, "unknown key 'methdos'"),
        (("methods", "uniform", "uniform"), "height", "uniform must be units, width, depth, got 'height'"),
        (("settings",), ["trainer.steps=3"], r"drawn at half: unknown key"),
        (("claims",), {"best": {"better": "cut", "than": ["gone"]}}, r"line \d+: claim 'best' names 'gone'"),
        (("claims",), {"best": {"better": "cut", "than": ["cut"]}}, "claim 'best' compares cut with cut"),
        (("claims",), {"best": {"better": "cut", "than": []}}, "claim 'best' compares cut with nothing"),
        (("targets", "a|b"), ["constraint.size=0.5"], "invalid name 'a|b' of a line or target"),
        (("targets", ".."), ["constraint.size=0.5"], r"invalid name '\.\.' of a line or target"),
        (("targets", "results"), ["constraint.size=0.5"], "invalid name 'results' of a line or target"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_starts(
    config: Path, tmp_path: Path, keys: tuple[str, ...], value: object, message: str
) -> None:
    changed(config, *keys, to=value)
    with pytest.raises(UserError, match=message):
        sweep.main(["--config", str(config), "--exp-dir", str(tmp_path / "exp")])
    assert not (tmp_path / "exp").exists()


def test_weights_are_not_taken_out_of_a_chain(config: Path) -> None:
    changed(config, "budget", to={"steps": 8})
    changed(config, "methods", "magnitude", "chain", to=["constraint.size=0.3"])
    with pytest.raises(UserError, match=r"cut takes the weights of magnitude, which has a chain of cuts; name a line"):
        sweeps.load(config)


@pytest.mark.processes
@pytest.mark.long
def test_a_killed_sweep_goes_on(config: Path, tmp_path: Path) -> None:
    """After SIGKILL of all processes in the second run, the first run is not repeated."""
    lines = {name: {"uniform": "width", "finetune_settings": [f"trainer.max_steps={steps}"]}
             for name, steps in (("first", 3), ("second", 80))}  # fmt: skip
    changed(config, "methods", to=lines)
    changed(config, "reference", to="first")
    results = tmp_path / "exp/results"
    command = [sys.executable, "-m", "pruning.bin.sweep", "--config", str(config), "--exp-dir", str(tmp_path / "exp")]
    started = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "exp/half/second/seed1/finetuned/metrics.jsonl"
    until(lambda: metrics.is_file() or started.poll() is not None, seconds=240)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert made(results) == ["half/first/seed1.json"]
    before = (results / "half/first/seed1.json").stat().st_mtime_ns
    subprocess.run(command, cwd=REPOSITORY, check=True, stderr=subprocess.DEVNULL)
    assert made(results) == ["half/first/seed1.json", "half/second/seed1.json"]
    assert (results / "half/first/seed1.json").stat().st_mtime_ns == before


def test_errors_may_be_counted_in_characters(config: Path) -> None:
    before = sweeps.load(config)
    counted = sweeps.load(changed(config, "score_in", to="characters"))
    (run, *_) = sweeps.expand(counted)
    (*_, decode, _) = sweeps.commands(counted, run, "exp")
    assert decode[-2:] == ["--score-in", "characters"]
    assert (counted.measuring.name, counted.measuring.measure.name) == ("cer", "CER %")
    assert before.measuring.measure.name == "WER %" and "counts as a word" in counted.measuring.measure.explanation
    assert sweeps.fingerprint(counted, run) != sweeps.fingerprint(before, run)


def test_more_seeds_at_one_target(config: Path) -> None:
    changed(config, "targets", "third", to=["constraint.size=0.3"])
    changed(config, "methods", "magnitude", "more_seeds", to={"third": [2, 3]})
    runs = sweeps.expand(sweeps.load(config))
    found = {(run.target, run.seed) for run in runs if run.method == "magnitude"}
    assert found == {("half", 1), ("third", 1), ("third", 2), ("third", 3)}
    changed(config, "methods", "magnitude", "more_seeds", to={"quarter": [2]})
    with pytest.raises(UserError, match="magnitude names the unknown target 'quarter'"):
        sweeps.load(config)


def test_some_runs_only(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs whose names match come with those that they depend on; a pattern without a run is refused."""
    arguments = ["--config", str(config), "--exp-dir", str(tmp_path / "exp"), "--dry-run"]
    sweep.main([*arguments, "--only", "*/drawn/*", "--only", "half/uniform/seed1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["wave 1: teacher", "wave 1: half/magnitude/seed1", "wave 1: half/uniform/seed1",
                     "wave 2: half/drawn/seed1"]  # fmt: skip
    with pytest.raises(UserError, match=r"no run matches quarter/\*; see --dry-run"):
        sweep.main([*arguments, "--only", "half/*", "--only", "quarter/*"])


def test_runs_come_in_waves(config: Path) -> None:
    waves = sweeps.levels(sweeps.expand(sweeps.load(config)))
    assert [[run.method for run in wave] for wave in waves] == [["magnitude", "uniform"], ["drawn", "cut"]]
    changed(config, "seeds", to=[1, 2])
    waves = sweeps.levels(sweeps.expand(sweeps.load(config)))
    assert [{run.seed for run in wave} for wave in waves] == [{1}, {1}, {2}, {2}]
