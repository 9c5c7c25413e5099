"""Set ``MKL_DEBUG_CPU_TYPE`` before torch is loaded, so that old versions of MKL are fast on AMD processors.

The wheels of torch before 2.0 contain MKL 2020.0, which uses only its SSE code on processors of other makers than
Intel. With ``MKL_DEBUG_CPU_TYPE=5`` in the environment it uses its AVX2 code: matrix products are two to three times as
fast, and round differently. Later wheels contain MKL 2022 or later, which has code for AMD processors and does not read
the variable (MKL ignores it since 2020.1).

``import pruning`` sets the variable where it helps, for this process and its children. It must come before
``import torch``: MKL reads the variable once, at its first product, and once torch is loaded there is no way to tell
whether that has happened. ``utils/path.sh`` sets it for everything else that is started in its shell. A value that the
user has set is kept, whatever it is; an empty value leaves the choice to MKL.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Optional

VARIABLE = "MKL_DEBUG_CPU_TYPE"
AVX2 = "5"
# the value that this module has set: a process that inherits it, perhaps on another node, decides again
OWN = "PRUNING_MKL_DEBUG_CPU_TYPE"
KEY = "mkl_debug_cpu_type"  # in provenance, and in the run.json of an experiment directory
_FIRST_OTHER_MKL = 2  # major version of torch


def facts(cpuinfo: Iterable[str]) -> dict[str, str]:
    """Return the entries of ``/proc/cpuinfo`` for the first processor, by key; empty if there are none."""
    said: dict[str, str] = {}
    for line in cpuinfo:
        if not line.strip() and said:
            break
        key, separator, value = line.partition(":")
        if separator:
            said[key.strip()] = value.strip()
    return said


def wanted(said: Mapping[str, str], torch: Optional[str]) -> Optional[str]:
    """Return the value of ``MKL_DEBUG_CPU_TYPE`` that fits a processor and a torch; None if it should not be set.

    Args:
        said: entries of ``/proc/cpuinfo``, see `facts`.
        torch: version of torch; None if it is not installed.
    """
    can = said.get("flags", "").split()
    fits = said.get("vendor_id") == "AuthenticAMD" and "avx2" in can and "fma" in can
    return AVX2 if fits and reads_variable(torch) else None


def reads_variable(torch: Optional[str]) -> bool:
    """Return whether the MKL in a version of torch reads ``MKL_DEBUG_CPU_TYPE``."""
    major = (torch or "").split(".")[0]
    return major.isdigit() and int(major) < _FIRST_OTHER_MKL


def chosen(environment: Mapping[str, str], fitting: Optional[str]) -> Optional[str]:
    """Return the value to set: the user's if there is one, otherwise ``fitting``; None for no value."""
    value = environment.get(VARIABLE)
    return fitting if value is None or value == environment.get(OWN) else value


def prepare() -> None:
    """Set the variable in the environment of this process; warn if torch is already loaded and would need it."""
    value = chosen(os.environ, _fitting())
    if value == os.environ.get(VARIABLE):
        return
    if "torch" in sys.modules and reads_variable(_torch_version()):
        warnings.warn(f"pruning was imported after torch, which now computes {_how(os.environ.get(VARIABLE))}; import "
                      f"pruning first, or start with {VARIABLE}={value or ''} in the environment",
                      RuntimeWarning, stacklevel=3)  # fmt: skip
    elif value is None:
        for name in (VARIABLE, OWN):
            os.environ.pop(name, None)
    else:
        os.environ[VARIABLE] = os.environ[OWN] = value


def setting() -> Optional[str]:
    """Return the value that MKL uses in this process; None if MKL decides for itself."""
    value = os.environ.get(VARIABLE)
    return value if value and reads_variable(_torch_version()) else None


def to_share() -> dict[str, Optional[str]]:
    """Return what a resumed run must share with the original to round alike; empty if MKL ignores the variable."""
    return {KEY: setting()} if reads_variable(_torch_version()) else {}


def remedy(began_with: Optional[str]) -> str:
    """Return the remedy for resuming a run that was started with another value."""
    return f"start with {VARIABLE}={began_with or ''} in the environment, or use another --exp-dir"


def explanation() -> Optional[str]:
    """Return a log line that says which value is set and why; None if there is nothing to report."""
    fitting, value = _fitting(), setting()
    if value is None and fitting is None:
        return None
    said = f"{VARIABLE}={value or ''}: torch {_torch_version()} computes {_how(value)}"
    return said if value == fitting else f"{said}, as set by the user; {VARIABLE}={fitting or ''} fits this machine"


def print_shell() -> None:
    """Print shell commands that set the variables as ``import pruning`` has set them."""
    for name in (VARIABLE, OWN):
        value = os.environ.get(name)
        print(f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}")


def _how(value: Optional[str]) -> str:
    """Return in words which code MKL uses for a value of the variable."""
    if value == AVX2:
        return "with MKL's code for AVX2"
    return f"with MKL's code for processors of type {value}" if value else "with the code that MKL chooses by the maker"


def _fitting() -> Optional[str]:
    """Return the value that fits this machine and its torch."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            said = facts(stream)
    except OSError:  # not Linux
        return None
    return wanted(said, _torch_version()) if "AMD" in said.get("vendor_id", "") else None


def _torch_version() -> Optional[str]:
    """Return the version of the installed torch, without importing it."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
