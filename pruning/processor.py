"""What MKL is told of this machine's processor before torch is loaded, so that it is fast on AMD's as well.

The wheels of torch before 2.0 hold MKL 2020.0, which gives processors of other makers than Intel its code for SSE,
whatever they can do. With ``MKL_DEBUG_CPU_TYPE=5`` in the environment it takes that for AVX2: products of matrices are
two to three times as fast, and round differently. Later wheels hold MKL 2022 or later, which has code for AMD's
processors and does not read the variable (MKL does not since 2020.1).

``import pruning`` sets the variable where that applies, for this process and those that it starts. It must come before
``import torch``: MKL reads the variable once, at its first product, and after torch nobody can tell whether that was.
``utils/path.sh`` sets it for everything else that is started in its shell. A value that the user has set stands,
whatever it is; the empty one leaves the choice to MKL.
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
# what was set here: a process that inherits it, perhaps on another node of a cluster, decides anew
OWN = "PRUNING_MKL_DEBUG_CPU_TYPE"
KEY = "mkl_debug_cpu_type"  # in provenance, and in the run.json of an experiment
_FIRST_OTHER_MKL = 2  # major version of torch


def facts(cpuinfo: Iterable[str]) -> dict[str, str]:
    """What the lines of ``/proc/cpuinfo`` say of the first processor, by key; empty where they say nothing."""
    said: dict[str, str] = {}
    for line in cpuinfo:
        if not line.strip() and said:
            break
        key, separator, value = line.partition(":")
        if separator:
            said[key.strip()] = value.strip()
    return said


def wanted(said: Mapping[str, str], torch: Optional[str]) -> Optional[str]:
    """The value of ``MKL_DEBUG_CPU_TYPE`` that fits a processor and a torch; None: that it is not set.

    Args:
        said: see `facts`.
        torch: its version; None: it is not installed.
    """
    can = said.get("flags", "").split()
    fits = said.get("vendor_id") == "AuthenticAMD" and "avx2" in can and "fma" in can
    return AVX2 if fits and reads_variable(torch) else None


def reads_variable(torch: Optional[str]) -> bool:
    """Whether the MKL within a version of torch reads ``MKL_DEBUG_CPU_TYPE``."""
    major = (torch or "").split(".")[0]
    return major.isdigit() and int(major) < _FIRST_OTHER_MKL


def chosen(environment: Mapping[str, str], fitting: Optional[str]) -> Optional[str]:
    """The value that the variable is to have: the user's, or that which fits; None: none."""
    value = environment.get(VARIABLE)
    return fitting if value is None or value == environment.get(OWN) else value


def prepare() -> None:
    """Set the variable in the environment of this process; say so if torch, which is loaded already, would need it."""
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
    """The value that this process's MKL goes by; None: it decides for itself."""
    value = os.environ.get(VARIABLE)
    return value if value and reads_variable(_torch_version()) else None


def to_share() -> dict[str, Optional[str]]:
    """What a run and its resumption have in common, so that they round alike; nothing where MKL decides in any case."""
    return {KEY: setting()} if reads_variable(_torch_version()) else {}


def remedy(began_with: Optional[str]) -> str:
    """How to resume what began with a value."""
    return f"start with {VARIABLE}={began_with or ''} in the environment, or use another --exp-dir"


def explanation() -> Optional[str]:
    """One line for the log that says what is set and why; None where there is nothing to say."""
    fitting, value = _fitting(), setting()
    if value is None and fitting is None:
        return None
    said = f"{VARIABLE}={value or ''}: torch {_torch_version()} computes {_how(value)}"
    return said if value == fitting else f"{said}, as the environment has it; here {VARIABLE}={fitting or ''} fits"


def print_shell() -> None:
    """Print the lines by which a shell takes over what is set here; ``import pruning`` has decided it."""
    for name in (VARIABLE, OWN):
        value = os.environ.get(name)
        print(f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}")


def _how(value: Optional[str]) -> str:
    """How MKL computes with a value of the variable."""
    if value == AVX2:
        return "with MKL's code for AVX2"
    return f"with MKL's code for processors of type {value}" if value else "with the code that MKL chooses by the maker"


def _fitting() -> Optional[str]:
    """What fits this machine and its torch."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            said = facts(stream)
    except OSError:  # no Linux
        return None
    return wanted(said, _torch_version()) if "AMD" in said.get("vendor_id", "") else None


def _torch_version() -> Optional[str]:
    """The version of the torch that is installed; torch itself must not be loaded for it."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
