"""Programs in a process forked from that of the tests, which has loaded torch and lhotse: starting takes no seconds."""

from __future__ import annotations

import logging
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]


def python(arguments: Sequence[str], directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` in ``directory`` and return its exit status and outputs.

    Args:
        arguments: ``-m MODULE`` or a program, and its options.
        directory: working directory.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            os._exit(_become(arguments, directory, output, errors))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(list(arguments), status, output.read(), errors.read())


def _become(arguments: Sequence[str], directory: Path, output: TextIO, errors: TextIO) -> int:
    """Run the program in this process, which writes to the two files, and return its exit status."""
    try:
        for number, stream in ((1, output), (2, errors)):
            os.dup2(stream.fileno(), number)
        sys.stdout, sys.stderr = output, errors
        os.chdir(directory)
        os.environ["PYTHONPATH"] = str(ROOT)
        _forget_pytest()
        return _status(arguments)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _forget_pytest() -> None:
    """Bring logging and warnings to the state of a new process."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.setLevel(logging.WARNING)
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)


def _status(arguments: Sequence[str]) -> int:
    """Run the program and return the status that it exits with."""
    module = arguments[0] == "-m"
    program, *options = arguments[1:] if module else arguments
    sys.argv = [program, *options]
    sys.path.insert(0, os.getcwd() if module else str(Path(program).parent))
    try:
        if module:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0
