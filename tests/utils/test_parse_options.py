"""The options of a script are exactly the variables at its top."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

UTILS = Path(__file__).resolve().parents[2] / "utils"
SCRIPT = f"""#!/usr/bin/env bash
# What the script is for.
#
# More about it.
set -euo pipefail

stage=0         # first stage
some_name=      # a name
flag=false      # whether
indented() {{
  local inner=1
  echo "$inner"
}}
. {UTILS}/parse_options.sh
below=3
printf '%s|' "$stage" "$some_name" "$flag" "$below" "$@"
"""


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.sh"
    script.write_text(SCRIPT)
    return subprocess.run(["bash", str(script), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "0||false|3||"),
        (["--stage", "4", "--some-name", "a b * $HOME", "--flag", "true"], "4|a b * $HOME|true|3||"),
        (["--some_name", "x"], "0|x|false|3||"),
        (["--some-name", ""], "0||false|3||"),
        (["--some-name", "--stage"], "0|--stage|false|3||"),
        (["--stage", "1", "word", "--flag"], "1||false|3|word|--flag|"),
        (["--", "--stage"], "0||false|3|--stage|"),
    ],
)
def test_options_set_variables(tmp_path: Path, arguments: list[str], expected: str) -> None:
    result = run(tmp_path, *arguments)
    # without arguments printf still prints its format once, so an empty "$@" gives one more bar
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.rstrip("|") == expected.rstrip("|")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--unknown", "1"], "unknown option --unknown"),
        (["--home", "/"], "unknown option --home"),
        (["--inner", "1"], "unknown option --inner"),
        (["--below", "1"], "unknown option --below"),
        (["--flag", "yes"], "must be true or false, got 'yes'"),
        (["--stage"], "--stage has no value"),
        (["--stage=3"], "write --stage 3"),
        (["-s", "3"], "unknown option -s"),
    ],
)
def test_what_is_no_option_is_an_error(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    result = run(tmp_path, *arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: script.sh: ") and complaint in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_prints_the_comment_and_the_variables(tmp_path: Path) -> None:
    result = run(tmp_path, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("What the script is for.\n\nMore about it.\n")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["--stage", "first", "stage", "[0]"] in lines and ["--flag", "whether", "[false]"] in lines
    assert "inner" not in result.stdout and "below" not in result.stdout


def test_scripts_share_options_through_a_file_that_declares_them(tmp_path: Path) -> None:
    shared = f"nj=4  # jobs\n. {UTILS}/parse_options.sh\nafter=1\n"
    (tmp_path / "shared.sh").write_text(shared)
    script = tmp_path / "script.sh"
    script.write_text(f"own=a  # its own\n. {tmp_path}/shared.sh\nbelow=3\nprintf '%s|' $own $nj \"$@\"\n")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", str(script), *arguments], capture_output=True, text=True, check=False)

    assert call("--nj", "8", "--own", "b", "word").stdout == "b|8|word|"
    printed = call("--help").stdout.splitlines()
    assert [line.split()[0] for line in printed if line.startswith("  --")] == ["--own", "--nj"]
    for name in ("--after", "--below"):
        assert "script.sh: unknown option" in call(name, "1").stderr


def test_a_script_may_have_its_own_text_for_a_shared_option(tmp_path: Path) -> None:
    (tmp_path / "shared.sh").write_text(f"target=  # share of the encoder\n. {UTILS}/parse_options.sh\n")
    script = tmp_path / "script.sh"
    script.write_text(f'target=  # share of the whole\n. {tmp_path}/shared.sh\necho "$target"\n')
    told = subprocess.run(["bash", str(script), "--help"], capture_output=True, text=True, check=True).stdout
    assert "share of the whole" in told and "share of the encoder" not in told
    done = subprocess.run(["bash", str(script), "--target", "0.5"], capture_output=True, text=True, check=True)
    assert done.stdout == "0.5\n"
