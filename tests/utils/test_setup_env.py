"""The environment script does nothing when done, and prints one clear line on failure."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import check_env

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "utils" / "setup_env.sh"


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of a failure, the only error line."""
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and result.stderr.splitlines()[-1] == errors[0]
    return errors[0]


def test_text_is_utf_8_in_any_locale() -> None:
    result = subprocess.run(
        ["bash", "-c", ". utils/path.sh && python3 -c 'import sys; print(sys.flags.utf8_mode)'"],
        env={**os.environ, "PRUNING_ENV": "current", "PYTHONUTF8": "0", "LC_ALL": "en_US.ISO-8859-1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "1\n"


@pytest.mark.parametrize("given", [".venv-gpu", "", "/elsewhere/env", "current"])
def test_the_environment_that_is_made_is_the_one_that_is_used(tmp_path: Path, given: str) -> None:
    """A relative name counts from the repository, whatever the working directory; jobs get the same environment."""
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    (checkout / "utils").mkdir(parents=True)
    elsewhere.mkdir()
    (checkout / "pruning").symlink_to(REPOSITORY / "pruning")
    shutil.copy(REPOSITORY / "utils" / "path.sh", checkout / "utils")
    (checkout / "utils" / "setup_env.sh").write_text('#!/bin/sh\necho "made $2"\n')
    (checkout / "utils" / "setup_env.sh").chmod(0o755)
    script = '. ../checkout/utils/path.sh; echo "path $PATH"; echo "jobs $(printenv PRUNING_ENV)"'
    result = subprocess.run(
        ["bash", "-c", script], cwd=elsewhere, capture_output=True, text=True, check=True,
        env={**os.environ, "PRUNING_ENV": given},
    )  # fmt: skip
    told = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    if given == "current":
        assert "made" not in told and told["jobs"] == "current"
        return
    place = str(checkout / (given or ".venv"))
    assert told["made"] == place and f"{place}/bin" in told["path"].split(":")
    assert told["jobs"] == (place if given else "")


@pytest.fixture
def old_python(tmp_path: Path) -> str:
    """Return a PATH on which every Python is 3.9."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("python3.11", "python3", "python"):
        (programs / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit\nexit 1\n')
        (programs / name).chmod(0o755)
    return f"{programs}:{os.environ['PATH']}"


def test_the_wrong_python_is_told(tmp_path: Path, old_python: str) -> None:
    line = one_line(setup("--dir", str(tmp_path / "env"), PATH=old_python, PYTHON=""))
    assert "Python 3.11 is required, found Python 3.9.2" in line and "PYTHON=/path" in line
    assert not (tmp_path / "env").exists()


def test_too_little_space_is_told_before_anything_is_made(tmp_path: Path) -> None:
    line = one_line(setup("--dir", str(tmp_path / "env"), "--min-free-gb", "1000000"))
    assert "of the 1000000 GB" in line and str(tmp_path) in line
    assert not (tmp_path / "env").exists()


def test_no_network_is_told_and_leaves_nothing_that_counts_as_done(tmp_path: Path) -> None:
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_CACHE_DIR": "1", "PIP_CONFIG_FILE": os.devnull}
    closed.update(PIP_FIND_LINKS="", PIP_EXTRA_INDEX_URL="")
    line = one_line(setup("--dir", str(tmp_path / "env"), **closed))
    assert "could not be reached" in line and "network" in line
    assert not (tmp_path / "env" / ".setup-stamp").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--extras", "gpu"], "unknown extra 'gpu'"),
        (["--python", "x"], "unknown option --python"),
        (["x"], "unexpected argument"),
    ],
)
def test_bad_options_are_told(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    assert complaint in one_line(setup("--dir", str(tmp_path / "env"), *arguments))


def test_a_finished_environment_costs_nothing_and_a_changed_wish_is_noticed(tmp_path: Path, old_python: str) -> None:
    """If this repository's own environment exists, its stamp shows that it is done."""
    environment = REPOSITORY / ".venv"
    if not (environment / ".setup-stamp").is_file():
        pytest.skip("the tests do not run in .venv made by utils/setup_env.sh")
    result = setup(PATH=old_python, PYTHON="")  # without a usable Python it could not do anything
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert "Python 3.11 is required" in one_line(setup("--torch", "2.13-cpu", PATH=old_python, PYTHON=""))


def test_checkouts_that_share_an_environment_leave_it_as_it_is(tmp_path: Path, old_python: str) -> None:
    """Each finds it complete, whichever made it; an environment in a checkout belongs only to that checkout."""
    checkouts = [tmp_path / name for name in ("one", "two")]
    for checkout in checkouts:
        for part in ("utils", "requirements"):
            shutil.copytree(REPOSITORY / part, checkout / part)

    def digest(name: str) -> str:
        return f"{hashlib.sha256((REPOSITORY / 'requirements' / name).read_bytes()).hexdigest()}  -"

    packages = [f"torch 1.13.1  {digest('torch-1.13.1.txt')}", f"k2 {digest('k2-1.23.4.txt')}"]

    def ensure(checkout: Path, environment: Path) -> subprocess.CompletedProcess[str]:
        (environment / "bin").mkdir(parents=True, exist_ok=True)
        if not (environment / "bin" / "python").exists():
            (environment / "bin" / "python").symlink_to("/bin/true")
            (environment / ".setup-stamp").write_text("\n".join([f"repository {checkouts[0]}", *packages]) + "\n")
        return subprocess.run(
            [str(checkout / "utils" / "setup_env.sh"), "--dir", str(environment)],
            env={**os.environ, "PATH": old_python, "PYTHON": ""}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    for checkout in (*checkouts, *checkouts):
        shared = ensure(checkout, tmp_path / "shared")
        assert (shared.returncode, shared.stdout, shared.stderr) == (0, "", "")
    assert "Python 3.11 is required" in one_line(ensure(checkouts[1], checkouts[1] / ".venv"))


@pytest.mark.k2
def test_the_proof_is_a_real_k2_call() -> None:
    assert re.search(r"k2 \S+ \(pruned-range loss \d+\.\d+, gradient finite\)", check_env.k2_loss())


def test_every_locked_file_has_a_hash() -> None:
    locks = sorted((REPOSITORY / "requirements").glob("*.txt"))
    assert {"torch-1.13.1.txt", "torch-2.13.txt", "torch-2.13-cpu.txt", "k2-1.23.4.txt"} <= {
        lock.name for lock in locks
    }
    for lock in locks:
        text = lock.read_text().replace("\\\n", " ")
        pinned = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert pinned and all("==" in line and "--hash=sha256:" in line for line in pinned), lock


def pinned(name: str) -> dict[str, str]:
    """Return package -> version of a lock."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (REPOSITORY / "requirements" / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize(("torch", "hf"), [("1.13.1", "1.13.1"), ("2.13", "2.13"), ("2.13-cpu", "2.13")])
def test_an_extra_of_its_own_for_each_torch(tmp_path: Path, torch: str, hf: str) -> None:
    """An extra installed from its lock is done; locks used together do not contradict each other."""
    requirements = REPOSITORY / "requirements"
    together = dict[str, str]()
    for lock in (f"torch-{torch}.txt", "dev.txt", "export.txt", "graphs.txt", "mini.txt", f"hf-torch-{hf}.txt"):
        for name, version in pinned(lock).items():
            assert together.setdefault(name, version) == version, f"{name} of {lock}"
    assert "transformers" in together

    def digest(name: str) -> str:
        return f"{hashlib.sha256((requirements / name).read_bytes()).hexdigest()}  -"

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/bin/true")
    stamp = [f"repository {REPOSITORY}", f"torch {torch}  {digest(f'torch-{torch}.txt')}",
             f"k2 {digest('k2-1.23.4.txt')}", f"extra dev {digest('dev.txt')}"]  # fmt: skip
    arguments = ["--dir", str(tmp_path), "--torch", torch, "--extras", "dev hf", "--min-free-gb", "1000000"]
    for of_hf, status in ((f"extra hf {digest(f'hf-torch-{hf}.txt')}", 0), (f"extra hf {digest('dev.txt')}", 1)):
        (tmp_path / ".setup-stamp").write_text("\n".join([*stamp, of_hf]) + "\n")
        found = setup(*arguments, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_FIND_LINKS="", PIP_NO_CACHE_DIR="1")
        assert (found.returncode != 0) == bool(status), found.stderr


def test_the_gpl_voice_is_an_extra_and_no_requirement() -> None:
    requirements = REPOSITORY / "requirements"
    assert "espeakng-loader" in (requirements / "mini.txt").read_text()
    for lock in requirements.glob("torch-*.txt"):
        assert "espeakng" not in lock.read_text()
