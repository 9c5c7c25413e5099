"""Recipes can be started in all usual ways."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("egs/*/run*.sh"))


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PRUNING_ENV": "current"}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("recipe", RECIPES)
def test_by_another_shell_and_through_a_link(tmp_path: Path, recipe: str) -> None:
    (tmp_path / "link.sh").symlink_to(ROOT / recipe)
    wanted = run("bash", str(ROOT / recipe), "--help", cwd=tmp_path)
    assert wanted.returncode == 0 and "--stage" in wanted.stdout and not wanted.stderr
    shells = [name for name in ("sh", "dash") if shutil.which(name)]
    for words in (*([shell, str(ROOT / recipe)] for shell in shells), ["bash", "link.sh"], ["./link.sh"]):
        found = run(*words, "--help", cwd=tmp_path)
        assert (found.returncode, found.stdout, found.stderr) == (0, wanted.stdout, ""), words


def test_a_link_works_in_the_recipes_folder(tmp_path: Path) -> None:
    """A link needs the recipe's own files in its folder: cmd.sh, path.sh, conf."""
    (tmp_path / "link.sh").symlink_to(ROOT / "egs/librispeech/run.sh")
    found = run("./link.sh", "--conf", "conf/nowhere", "--stage", "4", "--stop-stage", "4", cwd=tmp_path)
    assert found.stderr == "error: stage 4 needs conf/nowhere/teacher.yaml, which does not exist; see --conf\n"


@pytest.mark.parametrize("recipe", RECIPES)
def test_directories_named_as_the_runners_variable_are_refused(tmp_path: Path, recipe: str) -> None:
    found = run(str(ROOT / recipe), "--exp-dir", "/x/JOB/exp", "--stop-stage", "-1", cwd=tmp_path)
    assert found.returncode == 1 and "/x/JOB/exp contains JOB, which stands for the number of a job" in found.stderr


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if not recipe.startswith("egs/lm/")])
def test_lists_without_words_are_refused_before_any_stage(tmp_path: Path, recipe: str) -> None:
    start = ["--pretrained", "x"] if recipe.endswith("run_pretrained.sh") else []
    for option in ("--train-parts", "--dev-parts", "--test-parts", *["--lm-scales"] * recipe.endswith("run_lm.sh")):
        found = run(str(ROOT / recipe), *start, option, " ", "--stop-stage", "-1", cwd=tmp_path)
        assert (found.returncode, found.stderr) == (1, f"error: {option} is empty; name at least one\n")
