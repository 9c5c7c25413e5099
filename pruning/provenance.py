"""Provenance of a measured figure: processor, memory, versions, commit, command, date."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning import processor
from pruning.files import PathLike

if TYPE_CHECKING:
    from torch import nn


def processor_name(device: str = "cpu") -> str:
    """Return the model name of the processor, or of the GPU that ``device`` names."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def peak_memory_mib() -> float:
    """Return the peak memory of this process in MiB, including interpreter, libraries and weights."""
    status = Path("/proc/self/status")  # getrusage would include the memory of the process before exec
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


def version_of(package: str) -> Optional[str]:
    """Return the installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str:
    """Return the commit of the running code, with ``-modified`` if its files differ; ``unknown`` outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        commit = _git(here, "rev-parse", "HEAD").strip()
        # only the code counts: experiments and tables may be in the same checkout
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", str(here))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-modified" if changed.strip() else commit


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def command_line(module: str, argv: Optional[Sequence[str]] = None) -> str:
    """Return the command that repeats this one, e.g. ``python -m pruning.bin.decode --exp-dir exp/teacher``."""
    return shlex.join(["python", "-m", module, *(sys.argv[1:] if argv is None else argv)])


def today() -> str:
    """Return the date and time in UTC, to the second: ``2026-11-29T12:00:00+00:00``."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def file_fingerprint(path: PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def weights_fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of a network's parameters and buffers, including their names, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def environment(module: str, argv: Optional[Sequence[str]], device: str) -> dict[str, Any]:
    """Return the provenance that is stored with every measured figure."""
    import torch

    return {
        "processor": processor_name(device),
        "processors": os.cpu_count(),
        "device": device,
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),  # last minute: on a busy machine, measured times are too long
        "torch": torch.__version__,
        processor.KEY: processor.setting(),
        "k2": version_of("k2"),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "command": command_line(module, argv),
        "commit": git_commit(),
        "date": today(),
    }


def of_script(script: str, argv: Optional[Sequence[str]]) -> dict[str, Any]:
    """Return the provenance of what a recipe's program measures on the CPU, without the memory of the program itself.

    Args:
        script: the program as it is called in the recipe's folder, e.g. ``local/compare_transformers.py``.
        argv: its words; None for those of this process.
    """
    facts = environment("", argv, "cpu")
    del facts["peak_memory_mib"]
    return facts | {"command": shlex.join(["python", script, *(sys.argv[1:] if argv is None else argv)])}
