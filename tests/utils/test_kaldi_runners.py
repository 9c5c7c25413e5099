"""Kaldi's own run.pl, and slurm.pl if Slurm is installed, instead of ours; KALDI_UTILS names Kaldi's utils/."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_recipe_template import make_kaldi_dirs
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["plain", "two words", "", "a{b,c}", "[ab]*", "$HOME", "it's", 'say "x"', "`id`", "a&b;c", "(d)", "x\\y", "é!#"]


@pytest.fixture
def run_pl() -> str:
    """Kaldi's run.pl."""
    path = Path(os.environ.get("KALDI_UTILS", ""), "run.pl")
    if "KALDI_UTILS" not in os.environ:
        pytest.skip("KALDI_UTILS is not set; set it to the utils/ of a Kaldi recipe")
    assert path.is_file(), f"{path} does not exist"
    return str(path)


def recipe(directory: Path, runner: str, body: str) -> subprocess.Popen[str]:
    script = f"set -euo pipefail\nstage=0 stop_stage=9\n. {ROOT}/utils/stage.sh\nin_stage 1\nrunner='{runner}'\n{body}"
    return subprocess.Popen(["bash", "-c", script], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)  # fmt: skip


def test_words_reach_the_command_as_they_are(run_pl: str, tmp_path: Path) -> None:
    program = "import json, sys; json.dump(sys.argv[2:], open(f'got.{sys.argv[1]}', 'w'))"
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "words").write_bytes(b"".join(word.encode() + b"\0" for word in WORDS))
    body = f'mapfile -d "" words < words\nrun_logged work log/a.JOB.log $runner --mem 2G --num-threads 2 JOB=1:2 -- ' \
           f'{sys.executable} program.py JOB "${{words[@]}}" "x JOB"'  # fmt: skip
    output, error = recipe(tmp_path, run_pl, body).communicate(timeout=60)
    assert not error, error
    for number in (1, 2):
        assert json.loads((tmp_path / f"got.{number}").read_text()) == [*WORDS, f"x {number}"]


def test_a_failure_is_told_by_its_log(run_pl: str, tmp_path: Path) -> None:
    work = 'echo "error: x.flac is broken; replace it" >&2; exit $(( JOB == 2 ))'
    process = recipe(tmp_path, run_pl, f"run_logged features f.JOB.log $runner JOB=1:3 -- bash -c '{work}'")
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert error.splitlines()[-1] == "error: stage 1, features: x.flac is broken; replace it (log: f.2.log)"


def test_the_jobs_end_with_the_recipe(run_pl: str, tmp_path: Path) -> None:
    program = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w'), os._exit(75)))\n"
        "open('ready', 'w'); time.sleep(100)\n"
    )
    (tmp_path / "program.py").write_text(program)
    process = recipe(tmp_path, run_pl, f"run_logged work w.log $runner -- {sys.executable} program.py")
    until((tmp_path / "ready").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    until((tmp_path / "saved").exists)


@pytest.mark.processes
def test_a_recipe_with_run_pl_in_its_cmd_sh(run_pl: str, tmp_path: Path) -> None:
    """Run the template's stages up to the teacher in a copy whose cmd.sh names Kaldi's runner."""
    site = copy_of_the_recipes(tmp_path / "site")
    (site / "egs/TEMPLATE/cmd.sh").write_text(f'train_cmd="{run_pl} --mem 4G"\ncuda_cmd="$train_cmd"\n'
                                              'decode_cmd="$train_cmd"\n')  # fmt: skip
    corpus = make_kaldi_dirs(tmp_path / "kaldi data (8 kHz)")
    settings = ("trainer.max_steps=1 trainer.num_threads=1 trainer.tensorboard=false data.max_duration=10 "
                "data.num_buckets=1 data.drop_last=false model.encoder.num_layers=1 model.encoder.num_heads=[2] "
                "model.encoder.macaron_dim=[32] model.encoder.ffn_dim=[32] model.encoder.conv_channels=[32] "
                "model.encoder.d_model=32 model.encoder.head_dim=16")  # fmt: skip
    environment = {**os.environ, "PRUNING_ENV": "current", "OMP_NUM_THREADS": "1",
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    command = [
        str(site / "egs/TEMPLATE/run.sh"),
        "--corpus-dir",
        str(corpus),
        "--nj",
        "2",
        "--unit",
        "char",
        "--vocab-size",
        "",
        "--speed-perturb",
        "false",
        "--stop-stage",
        "4",
        "--teacher-args",
        settings,
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (site / "egs/TEMPLATE/exp/teacher/.done").exists()
    (log,) = (site / "egs/TEMPLATE/exp/teacher/log").glob("train-*.log")
    assert log.read_text().splitlines()[-1].startswith("# Ended (code 0) at ")


def copy_of_the_recipes(directory: Path) -> Path:
    """Copy the template and the files that the recipes share."""
    template = ROOT / "egs/TEMPLATE"
    place = directory / "egs/TEMPLATE"
    place.mkdir(parents=True)
    for name in ("pruning", "utils", "local"):
        (directory / name).symlink_to(ROOT / name)
    for name in ("run.sh", "path.sh"):
        (place / name).write_bytes((template / name).read_bytes())
        (place / name).chmod(0o755)
    for name in ("conf", "local"):
        (place / name).symlink_to(template / name)
    return directory
