"""The whole LibriSpeech recipe on seconds of synthetic speech, with a network of thousands of parameters."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pruning.experiments.measurement import Measurement
from pruning.reports import terminal

RECIPE = Path(__file__).resolve().parents[1] / "egs" / "librispeech"
SYSTEMS = ("teacher", "finetuned", "uniform", "uniform_further")
STEPS = (
    "trainer.max_steps=2 trainer.valid_interval=0 trainer.num_threads=1 trainer.tensorboard=false "
    "data.max_duration=30 data.num_buckets=2"
)
DIMENSIONS = (
    "model.encoder.num_layers=2 model.encoder.d_model=32 model.encoder.head_dim=16 model.encoder.num_heads=[2] "
    "model.encoder.macaron_dim=[32] model.encoder.ffn_dim=[32] model.encoder.conv_channels=[32] "
    "model.encoder.subsampling_channels=[4,4] model.decoder_dim=32 model.joiner_dim=32"
)
LAYERS = "distillation.layers=[0,2]"


GRAPHS = all(importlib.util.find_spec(name) is not None for name in ("k2", "kaldilm"))


class Recipe:
    """Run run.sh --mini true with its files in a separate directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.exp = directory / "exp"
        self.options = ["--mini", "true", "--corpus-dir", str(directory / "corpus" / "LibriSpeech")]
        self.options += ["--data-dir", str(self.data), "--exp-dir", str(self.exp), "--nj", "2"]
        self.options += ["--corpus-args", "--train-utterances 40 --dev-utterances 8 --test-words 40"]
        self.options += ["--teacher-args", f"{STEPS} {DIMENSIONS}", "--uniform-args", STEPS, "--target", "0.1"]
        self.options += ["--prune-args", f"{STEPS} {LAYERS}", "--finetune-args", f"{STEPS} {LAYERS}"]
        self.options += ["--systems", " ".join(SYSTEMS)]
        self.environment = {
            **os.environ,
            "PRUNING_ENV": "current",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(RECIPE / "run.sh"), *self.options, *options],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def run_lm(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run run_lm.sh on the same files."""
        steps = "trainer.max_steps=4 trainer.valid_interval=2 trainer.num_threads=1 trainer.tensorboard=false"
        small = "model.num_layers=1 model.d_model=16 model.head_dim=8 model.num_heads=[2] model.ffn_dim=[96]"
        methods = "greedy_search modified_beam_search_lm_rescore" + (" fast_beam_search_LG" if GRAPHS else "")
        given = ["--mini", "true", "--data-dir", str(self.data), "--exp-dir", str(self.exp), "--lm-args",
                 f"{steps} {small}", "--lm-prune-args", f"{steps} criterion.interval=1", "--lm-finetune-args", steps,
                 "--lm-scales", "0 0.3", "--graph-scales", "0.1", "--methods", methods]  # fmt: skip
        command = [str(RECIPE / "run_lm.sh"), *given, *options]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL)  # fmt: skip

    def weights(self) -> dict[Path, int]:
        """Return the modification time of each checkpoint in ns."""
        return {path: path.stat().st_mtime_ns for path in self.exp.rglob("*.safetensors")}


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0, result.stdout
    return result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    pytest.importorskip("espeakng_loader", reason="the synthetic corpus needs espeakng-loader (the extra 'mini')")
    finished = Recipe(tmp_path_factory.mktemp("recipe"))
    result = finished.run()
    assert result.returncode == 0, result.stderr
    finished.output = result.stdout
    return finished


@pytest.mark.processes
def test_every_stage_leaves_what_it_promises(recipe: Recipe) -> None:
    for part in ("train-clean-mini", "dev-clean-mini", "test-clean", "test-other"):
        assert (recipe.data / f"fbank/librispeech_cuts_{part}.jsonl.gz").is_file()
    assert (recipe.data / "lang_bpe_60/bpe.model").is_file() and (recipe.data / "lang_bpe_60/tokens.txt").is_file()
    assert (recipe.exp / "pruned/structure.json").is_file()
    for name in SYSTEMS:
        assert (recipe.exp / name / ".done").is_file() and (recipe.exp / name / "best.safetensors").is_file()
        for set_name in ("test-clean", "test-other"):
            for kind in ("recogs", "errs", "wer-summary"):
                assert len(list((recipe.exp / name / "greedy_search").glob(f"{kind}-{set_name}-*.txt"))) == 1


@pytest.mark.processes
def test_the_table_has_a_row_for_each_system(recipe: Recipe) -> None:
    table = (recipe.exp / "RESULTS.md").read_text()
    assert terminal.shown(table) in recipe.output
    for name in ("teacher", "pruned", "uniform", "uniform-further"):
        assert f"\n| {name} " in table
    assert "test-clean" in table and "test-other" in table


@pytest.mark.processes
def test_the_uniform_model_is_not_larger_than_the_pruned_one(recipe: Recipe) -> None:
    facts = {name: json.loads((recipe.exp / name / "model.json").read_text()) for name in SYSTEMS}
    assert facts["uniform"]["encoder_parameters"] <= facts["finetuned"]["encoder_parameters"]
    assert facts["finetuned"]["encoder_parameters"] < facts["teacher"]["encoder_parameters"]
    assert facts["uniform_further"]["encoder_parameters"] == facts["uniform"]["encoder_parameters"]
    steps = {name: json.loads((recipe.exp / name / ".done").read_text())["step"] for name in (*SYSTEMS, "pruned")}
    assert steps["uniform_further"] == steps["pruned"] + steps["finetuned"] == 4 and steps["uniform"] == 2


@pytest.mark.processes
def test_what_is_done_is_not_redone(recipe: Recipe) -> None:
    before = recipe.weights()
    features = {path: path.stat().st_mtime_ns for path in (recipe.data / "fbank").rglob("*") if path.is_file()}
    result = recipe.run()
    assert result.returncode == 0, result.stderr
    assert recipe.weights() == before
    assert {path: path.stat().st_mtime_ns for path in features} == features


@pytest.mark.processes
def test_another_configuration_in_the_same_place_is_refused(recipe: Recipe) -> None:
    line = last_line(recipe.run("--stage", "4", "--stop-stage", "4", "--seed", "7"))
    assert line.startswith("error: stage 4, the teacher: ") and "seed" in line


@pytest.mark.processes
@pytest.mark.long
def test_language_models_of_the_recogniser(recipe: Recipe) -> None:
    """Run all stages; finished stages are skipped; the weight on the test sets is the one chosen on dev."""
    result = recipe.run_lm()
    assert result.returncode == 0, result.stderr
    table = (recipe.exp / "RESULTS_LM.md").read_text()
    for row in ("4-gram", "dense", "pruned"):
        assert f"\n| {row} " in table
    method = "modified_beam_search_lm_rescore"
    assert "| teacher " in table and table.count(f"| {method} ") == 2
    facts = json.loads((recipe.exp / "lm/finetuned/model.json").read_text())
    assert facts["blocks_parameters"] < 0.6 * facts["dense"]["blocks_parameters"]
    assert not GRAPHS or "| fast_beam_search_LG " in table
    chosen = json.loads((recipe.exp / f"teacher/{method}/lm-scales-dense.json").read_text())
    assert [one["lm_scale"] for one in chosen["tried"]] == [0.0, 0.3]
    decoded = [Measurement.read(path).facts for path in (recipe.exp / f"teacher/{method}").glob("decode-test-clean-*")]
    assert {one["lm"] for one in decoded} == {"dense", "pruned"}
    (of_dense,) = (one for one in decoded if one["lm"] == "dense")
    assert of_dense["lm_scale"] == chosen["best"]["lm_scale"]
    before = recipe.weights()
    assert recipe.run_lm("--stop-stage", "6").returncode == 0
    assert recipe.weights() == before


@pytest.mark.processes
def test_a_stage_goes_through_a_cluster_as_well(recipe: Recipe, tmp_path: Path) -> None:
    """Make the manifests again with a scheduler that starts each task of the array immediately."""
    for name, text in {
        "sbatch": 'echo "$@" >> "$SUBMITTED"; SLURM_ARRAY_TASK_ID=1 bash "${@: -1}" > /dev/null 2>&1 & echo 17',
        "squeue": "echo 17",
        "scancel": "exit 0",
    }.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{recipe.environment['PATH']}", "SUBMITTED": str(tmp_path / "submitted")}
    options = ["--stage", "1", "--stop-stage", "1", "--cmd-backend", "slurm", "--data-dir", str(tmp_path / "data")]
    result = recipe.run(*options, **environment)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "data/manifests/librispeech_supervisions_test-clean.jsonl.gz").is_file()
    assert "--mem 4G" in (tmp_path / "submitted").read_text()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--stage", "1"], "run stage 0 first"),
        (["--stage", "2"], "run stage 1 first"),
        (["--stage", "3"], "run stage 2 first"),
        (["--stage", "4"], "run stage 2 first"),
        (["--stage", "9"], "run stage 2 first"),
        (["--stage", "10"], "run stage 9 first"),
        (["--colour", "red"], "unknown option --colour"),
        (["--mini", "maybe"], "must be true or false"),
        (["--speed-perturb", "maybe"], "must be true or false"),
        (["--cmd-backend", "pbs"], "unknown backend 'pbs'"),
        (["--systems", "teacher student"], "unknown system 'student'"),
        (["--conf", "conf/none"], "conf/none/teacher.yaml"),
        (["--teacher-icefall", "none"], "none does not exist"),
        (["--icefall-args", "--epoch 3"], "--icefall-args has no effect without --teacher-icefall"),
        (["--teacher-icefall", ".", "--stage", "5"], "/bpe.model, which does not exist; run stage 3 first"),
        (["--teacher-icefall", ".", "--icefall-args", "--epoch x"], "stage 4 (import_icefall): argument --epoch: "),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path: Path, options: list[str], complaint: str) -> None:
    recipe = Recipe(tmp_path)
    result = recipe.run(*options)
    assert complaint in last_line(result) and result.stderr.count("\n") == 1
    assert not recipe.data.exists() and not recipe.exp.exists()


@pytest.mark.parametrize("place", ["LibriSpeech", "."])
def test_text_of_librispeech_is_found(tmp_path: Path, place: str) -> None:
    corpus = tmp_path / "LibriSpeech"
    corpus.mkdir()
    text = tmp_path / place / "librispeech-lm-norm.txt.gz"
    command = [str(RECIPE / "run_lm.sh"), "--corpus-dir", str(corpus), "--stop-stage", "-1"]
    environment = Recipe(tmp_path).environment

    def said(*options: str) -> str:
        done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=True,
                              stdin=subprocess.DEVNULL)  # fmt: skip
        return done.stderr

    assert said() == ""
    text.touch()
    assert Path(said().strip().split(": ")[1]).resolve() == text.resolve()
    assert said("--lm-text", "other.txt") == "text in addition to the transcripts: other.txt\n"
    assert said("--mini", "true") == ""


PYTHON = """#!/usr/bin/env bash
# Note the commands of the package and do nothing; run all else.
case "$1 ${2:-}" in
  "-m pruning.bin.check") ;;
  "-m pruning.bin.import_icefall") echo "$@" >> "$COMMANDS"; mkdir -p "$IMPORTED"; touch "$IMPORTED/.done" ;;
  "-m pruning.bin."*) echo "$@" >> "$COMMANDS" ;;
  *) exec "$REAL" "$@" ;;
esac
"""


@pytest.mark.processes
@pytest.mark.parametrize("stage", ["4", "5"])
def test_a_network_of_icefall_is_imported_before_it_is_pruned(tmp_path: Path, stage: str) -> None:
    """Whichever of the two stages is the first."""
    recipe = Recipe(tmp_path)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    for name in ("fbank/librispeech_cuts_train-clean-mini.jsonl.gz", "fbank/librispeech_cuts_dev-clean-mini.jsonl.gz",
                 "lang_bpe_60/bpe.model"):  # fmt: skip
        (recipe.data / name).parent.mkdir(parents=True, exist_ok=True)
        (recipe.data / name).touch()
    (tmp_path / "theirs").mkdir()
    environment = {"PATH": f"{tmp_path}:{recipe.environment['PATH']}", "REAL": sys.executable,
                   "COMMANDS": str(tmp_path / "commands"), "IMPORTED": str(recipe.exp / "imported")}  # fmt: skip
    result = recipe.run("--stage", stage, "--stop-stage", "5", "--teacher-icefall", str(tmp_path / "theirs"),
                        "--icefall-args", "--epoch 3 --avg 2", **environment)  # fmt: skip
    assert result.returncode == 0, result.stderr
    first, second = (tmp_path / "commands").read_text().splitlines()
    assert first == (f"-m pruning.bin.import_icefall --source {tmp_path}/theirs --exp-dir {recipe.exp}/imported "
                     f"--lang-dir {recipe.data}/lang_bpe_60 --epoch 3 --avg 2")  # fmt: skip
    assert "pruning.bin.prune" in second and f"--teacher {recipe.exp}/imported " in second
    refused = recipe.run("--teacher-icefall", str(tmp_path / "theirs"), "--teacher", str(recipe.exp / "imported"))
    assert "--teacher and --teacher-icefall exclude each other" in last_line(refused)
