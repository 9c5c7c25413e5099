"""The committed tables equal those made today from the committed JSON files.

A recipe's ``local/make_results.sh`` defines the commands; here they run in one process, one section at a time.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = sorted(path.parents[1] for path in REPOSITORY.glob("egs/*/local/make_results.sh"))
_ORIGIN = re.compile(r"\n\nCommit \S+, \d{4}-\d\d-\d\d:\n`(?P<command>.+)`\n*$")
_SAID_SINCE = """"At most X more": the 95 % interval of each difference lies below X (*holds*), or that of one above it
(*does not hold*)."""
"""A sentence that was added to the explanations under tables after some of the committed files were made."""
_RECORDER = """#!/usr/bin/env bash
# In the place of python: writes down what it is to do, and leaves the file that it is to make.
[ "$1" = -m ] || exit 0 # the environment asks, not the script
printf '%s\\n' "${*@Q}" >> "$RECORDED"
while [ $# -gt 0 ]; do
  case "$1" in
    --output) echo "made" > "$2" ;;
    --read) echo "made" > "${2%.json}.md" ;;
  esac
  shift
done
"""


class Section(NamedTuple):
    """A section of a results file: the whole text, the text before its origin, and the command in the origin."""

    whole: str
    text: str
    command: list[str]


def section_of(text: str) -> Section:
    origin = _ORIGIN.search(text)
    assert origin is not None, text[-200:]
    return Section(text.strip(), text[: origin.start()].strip(), shlex.split(origin["command"]))


def figures_of(text: str) -> str:
    """Return a section without the sentence that was added later."""
    return re.sub(r"\s+" + r"\s+".join(map(re.escape, _SAID_SINCE.split())), "", text)


def committed(recipe: Path) -> list[Section]:
    """Return the sections of ``results/RESULTS.md``."""
    text = (recipe / "results" / "RESULTS.md").read_text()
    _, *parts = re.split(r"\n(?=## )", text)
    return [section_of(part) for part in parts]


SECTIONS = [pytest.param(recipe, number, id=f"{recipe.name}-{number}-{section.text.splitlines()[0][3:]}")
            for recipe in RECIPES for number, section in enumerate(committed(recipe))]  # fmt: skip


def copied(recipe: Path, place: Path) -> Path:
    """Copy the recipe and all that its script needs, with its results but without the tables."""
    target = place / "egs" / recipe.name
    shutil.copytree(recipe / "results", target / "results", ignore=shutil.ignore_patterns("RESULTS.md", "*.png"))
    shutil.copytree(recipe / "local", target / "local", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(recipe / "path.sh", target)
    shutil.copytree(REPOSITORY / "utils", place / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    return target


def commands(recipe: Path, place: Path) -> list[list[str]]:
    """Return the python commands of ``make_results.sh``, one per section: ``-m MODULE ARGUMENT...``."""
    target, recorded = copied(recipe, place), place / "recorded"
    (place / "bin").mkdir()
    (place / "bin" / "python").write_text(_RECORDER)
    (place / "bin" / "python").chmod(0o755)
    environment = {**os.environ, "PRUNING_ENV": "current", "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
                   "RECORDED": str(recorded)}  # fmt: skip
    done = subprocess.run(["bash", str(target / "local" / "make_results.sh")], env=environment, capture_output=True,
                          text=True, check=False, stdin=subprocess.DEVNULL)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (target / "results" / "RESULTS.md").read_text().count("made\n") == len(recorded.read_text().splitlines())
    return [shlex.split(line) for line in recorded.read_text().splitlines()]


def test_there_are_recipes_with_results() -> None:
    assert {"librispeech", "lm", "slurp"} <= {recipe.name for recipe in RECIPES}
    tables = {path.parents[1] for path in REPOSITORY.glob("egs/*/results/RESULTS.md")}
    assert tables == set(RECIPES), "results without a script that makes them, or a script without results"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_tables_are_made_by_the_commands_they_name(recipe: Path, tmp_path: Path) -> None:
    """Sections are in the order of the script; those of measured times name the command that measured them."""
    wanted, found = committed(recipe), commands(recipe, tmp_path)
    assert len(wanted) == len(found)
    for section, (_, module, *arguments) in zip(wanted, found):
        if "--read" not in arguments:
            assert section.command == ["python", "-m", module, *arguments]
            continue
        assert section.command[:3] == ["python", "-m", module]
        assert section.text.startswith(f"## {arguments[arguments.index('--title') + 1]}\n")


@pytest.mark.parametrize(("recipe", "number"), SECTIONS)
def test_figures_are_found_again(recipe: Path, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare all text except commit, date and the sentence added later; the bootstrap has fixed seeds."""
    wanted, (_, module, *arguments) = committed(recipe)[number], commands(recipe, tmp_path)[number]
    if "--plot" in arguments:
        pytest.importorskip("matplotlib", reason="needed for the plot")
    monkeypatch.chdir(tmp_path / "egs" / recipe.name)
    importlib.import_module(module).main(arguments)
    if "--read" in arguments:  # the origin is that of the measurement, so it is the same, too
        assert Path(arguments[arguments.index("--read") + 1]).with_suffix(".md").read_text().strip() == wanted.whole
    else:
        found = section_of(Path(arguments[arguments.index("--output") + 1]).read_text())
        assert figures_of(found.text) == figures_of(wanted.text)
