"""The language model recipe on a few hundred sentences: all stages, and several sizes from one run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pruning.reports import terminal
from pruning.speech.ngrams.arpa import write
from pruning.speech.ngrams.kneser_ney import estimate
from tests.speech.text.test_sentences import lines

RECIPE = Path(__file__).resolve().parents[1] / "egs" / "lm"
STEPS = (
    "trainer.max_steps=8 trainer.valid_interval=4 trainer.num_threads=1 trainer.tensorboard=false "
    "data.max_tokens=300 data.max_length=60"
)
DIMENSIONS = "model.num_layers=1 model.d_model=16 model.head_dim=8 model.num_heads=[2] model.ffn_dim=[64]"


def run(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PRUNING_ENV": "current", "OMP_NUM_THREADS": "1",
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    command = [str(RECIPE / program), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL)  # fmt: skip


@pytest.mark.processes
@pytest.mark.long
def test_from_text_to_tables(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines(4000)))
    place = ["--data-dir", str(tmp_path / "data"), "--exp-dir", str(tmp_path / "exp")]
    result = run("run.sh", "--text", str(text), *place, "--vocab-size", "28", "--stop-stage", "4", "--order", "3",
                 "--models", "small", "--train-args", f"{STEPS} {DIMENSIONS}")  # fmt: skip
    assert result.returncode == 0, result.stderr
    table = (tmp_path / "exp" / "RESULTS.md").read_text()
    assert "| 3-gram " in table and "| small " in table and terminal.shown(table).strip() in result.stdout
    result = run("local/sizes.sh", "--teacher", str(tmp_path / "exp/small"), "--data-dir", str(tmp_path / "data"),
                 "--exp-dir", str(tmp_path / "exp/sizes"), "--vocab-size", "28", "--removed", "0.3 0.5",
                 "--args", f"{STEPS} trainer.max_steps=20 criterion.interval=2 criterion.rest=2 "
                           "low_rank.calibration_batches=1")  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    table = (tmp_path / "exp" / "sizes" / "RESULTS.md").read_text()
    for kept in (70, 50):
        assert f"| {kept}%-incremental " in table and f"| {kept}%-own " in table and f") {kept}%-own" in table


def test_without_text_it_says_so(tmp_path: Path) -> None:
    place = ["--data-dir", str(tmp_path / "data"), "--exp-dir", str(tmp_path / "exp")]
    result = run("run.sh", *place, "--stop-stage", "0")
    assert result.returncode == 1 and result.stderr.strip() == "error: no text given; give --text FILE"
    result = run("run.sh", *place, "--text", "x")
    assert result.returncode == 1 and result.stderr.startswith(
        "error: the sweep files of stages 5 and 6 are for --data-dir data"
    )


@pytest.mark.processes
def test_what_later_stages_would_refuse_is_told_before_the_first(tmp_path: Path) -> None:
    place = ["--data-dir", str(tmp_path / "data"), "--exp-dir", str(tmp_path / "exp"), "--stop-stage", "4"]
    (tmp_path / "text.txt").write_text("ONE TWO\n" * 100)
    for options, message in (
        (["--train-args", "trainer.max_stps=8"], r"error: stage 3 \(train\): .*max_stps"),
        (["--models", "small large"], "error: stage 3 needs conf/large.yaml, which does not exist; see --conf"),
        (["--models", " "], "error: --models is empty; name at least one"),
    ):
        result = run("run.sh", *place, "--text", str(tmp_path / "text.txt"), *options)
        assert result.returncode == 1 and re.search(message, result.stderr), result.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.processes
@pytest.mark.long
def test_lists_are_rescored_and_compared(tmp_path: Path) -> None:
    """Without language model, with a word bonus, with an n-gram."""
    write(estimate(["TWO ONE"] * 9 + ["ONE"] * 4, 2), tmp_path / "2.arpa")
    for name in ("dev", "test"):
        (tmp_path / f"{name}.nbest").write_text("a -1 ONE TWO\na -1.5 TWO ONE\nb -1 ONE\nb -1.1 TWO\n")
        (tmp_path / f"{name}.text").write_text("a TWO ONE\nb ONE\n")
    options = ["--arpa", f"2-gram={tmp_path / '2.arpa'}", "--exp-dir", str(tmp_path / "exp"),
               "--dev-nbest", str(tmp_path / "dev.nbest"), "--dev-references", str(tmp_path / "dev.text"),
               "--test-nbest", str(tmp_path / "test.nbest"), "--test-references", str(tmp_path / "test.text"),
               "--arpa-args", "--form words"]  # fmt: skip
    result = run("run_rescore.sh", *options)
    assert result.returncode == 0, result.stderr
    table = (tmp_path / "exp" / "RESULTS.md").read_text()
    assert all(f"| {name} " in table for name in ("no-lm", "word-bonus", "2-gram"))
    assert terminal.shown(table).strip() in result.stdout and (tmp_path / "exp" / "RESULTS.html").is_file()


def test_what_rescoring_lacks_is_named(tmp_path: Path) -> None:
    options = ["--dev-nbest", "x", "--dev-references", "x", "--test-nbest", "x", "--exp-dir", str(tmp_path)]
    result = run("run_rescore.sh", *options)
    assert result.stderr.strip().endswith("--test-nbest has 1 files and --test-references 0; give one for each list")
    result = run("run_rescore.sh", *options, "--test-references", "x", "--lm", "x")
    assert result.stderr.strip() == "error: x has no name; write NAME=PATH"
    assert "no dev list given" in run("run_rescore.sh").stderr
