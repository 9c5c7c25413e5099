"""Commands and programs print their options before they import torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pruning.bin import __main__ as console

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "lhotse", "k2", "omegaconf", "safetensors", "scipy", "matplotlib", "transformers",
         "tabulate", "sentencepiece")  # fmt: skip
COMMANDS = sorted(console.available().keys() - {"torchrun"})  # its options are those of torch
PROGRAMS = sorted(
    str(path.relative_to(ROOT))
    for where in ("local", "egs/*/local")
    for path in ROOT.glob(f"{where}/*.py")
    if "command.run(main)" in path.read_text(encoding="utf-8")  # the others are modules of these programs
)
ASK_ALL = """
import contextlib, importlib, importlib.util, io, os, sys

def load(name):
    if not name.endswith(".py"):
        return importlib.import_module(f"pruning.bin.{name}")
    sys.path.insert(0, os.path.dirname(name))  # as for a program that is run
    spec = importlib.util.spec_from_file_location(name.replace("/", "_").removesuffix(".py"), name)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

heavy = set(sys.argv[1].split(","))
for name in sys.argv[2:]:
    for option, status in (("--help", 0), ("--no-such-option", 2)):
        said, loaded = io.StringIO(), set(sys.modules)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                load(name).main([option])
            ended = "it goes on"
        except SystemExit as end:
            ended = end.code or 0
        if ended != status:
            print(f"{name} {option}: {ended}")
        new = sorted(heavy & (sys.modules.keys() - loaded))  # each is told of once, of the first that imports it
        if new:
            print(f"{name} {option} imports {', '.join(new)}")
"""


@pytest.fixture(scope="module")
def faults() -> list[str]:
    """Return the faults of all commands; one process asks each of them for its options."""
    command = [sys.executable, "-c", ASK_ALL, ",".join(HEAVY), *COMMANDS, *PROGRAMS]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.parametrize("name", [*COMMANDS, *PROGRAMS])
def test_options_are_told_at_once(name: str, faults: list[str]) -> None:
    assert [fault for fault in faults if fault.startswith(f"{name} ")] == []
