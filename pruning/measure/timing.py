"""Time networks: systems are measured in turns over many rounds, so that a slow moment affects all of them alike."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from tabulate import tabulate
from torch import Tensor, nn

from pruning import provenance
from pruning.files import read_json, write_json

WARM_UP = 2


class HasThreads(Protocol):
    """A setting with a number of threads."""

    @property
    def threads(self) -> int:
        """Number of threads, at least 1."""


Setting = TypeVar("Setting", bound=HasThreads)


@dataclass(frozen=True)
class Timing(Generic[Setting]):
    """Seconds of repeated calls of one network.

    Attributes:
        system, backend: the measured network and how it was run.
        setting: input of the network.
        seconds: seconds of each repetition.
    """

    system: str
    backend: str
    setting: Setting
    seconds: list[float]

    @property
    def median(self) -> float:
        """Median of the repetitions."""
        return statistics.median(self.seconds)

    @property
    def percentile_95(self) -> float:
        """95th percentile of the repetitions."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]


def measure(
    systems: Iterable[str],
    backends: Sequence[str],
    settings: Sequence[Setting],
    call_of: Callable[[str, str, Setting], Callable[[], Any]],
    repeats: int,
    seed: int = 0,
) -> Iterator[Timing[Setting]]:
    """Time every system with every backend, one setting at a time, in a new order in every round.

    Args:
        systems: names of the systems.
        backends: names of the backends.
        settings: inputs of the networks.
        call_of: returns the function to time for a system, a backend and a setting.
        repeats: number of rounds, after `WARM_UP` rounds that do not count.
        seed: seed of the orders.
    """
    names = [(name, backend) for name in systems for backend in backends]
    for setting in settings:
        torch.set_num_threads(setting.threads)
        rounds = interleaved([call_of(name, backend, setting) for name, backend in names], repeats, seed)
        yield from (Timing(name, backend, setting, times) for (name, backend), times in zip(names, rounds))


@torch.no_grad()
def interleaved(
    calls: Sequence[Callable[[], Any]], repeats: int, seed: int = 0, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Return the seconds of each call in each round; every round makes all calls in a new order.

    Of calls that use one thread, ``time.process_time`` as ``clock`` leaves out the time of other programs.
    """
    order = random.Random(seed)
    seconds: list[list[float]] = [[] for _ in calls]
    for round_ in range(WARM_UP + repeats):
        for index in order.sample(range(len(calls)), len(calls)):
            started = clock()
            calls[index]()
            if round_ >= WARM_UP:
                seconds[index].append(clock() - started)
    return seconds


def keep_export(model: nn.Module, directory: Path, names: Sequence[str], write: Callable[[], Any]) -> None:
    """Call ``write`` to make the files ``names`` in ``directory``, unless they exist for the same weights."""
    made_of, stamp = provenance.weights_fingerprint(model), directory / "weights.json"
    current = stamp.is_file() and read_json(stamp).get("weights") == made_of
    if current and all((directory / name).is_file() for name in names):
        return
    stamp.unlink(missing_ok=True)
    write()
    write_json(stamp, {"weights": made_of})


def tensor_bytes(model: nn.Module) -> int:
    """Return the bytes of parameters and buffers; those that share memory count once."""
    tensors: dict[int, Tensor] = {}
    for tensor in model.state_dict().values():
        tensors[tensor.data_ptr()] = tensor
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def peak_memory(module: str, arguments: Sequence[str]) -> float:
    """Return the peak MiB of a separate process that runs ``module`` with ``arguments`` and prints its peak last."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring memory with {' '.join(arguments)} failed: {done.stderr.strip()[-300:]}")
    return float(done.stdout.split()[-1])


def common(timing: Timing[Any], source: object) -> dict[str, Any]:
    """Return the part of a result row that is the same for every kind of network, as JSON values."""
    return {
        "system": timing.system, "source": str(source), "backend": timing.backend, **vars(timing.setting),
        "median_seconds": timing.median, "p95_seconds": timing.percentile_95, "repeats": len(timing.seconds),
    }  # fmt: skip


def references(rows: Sequence[Mapping[str, Any]], alike: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return for each row the row of the first system that has the same values of the keys ``alike``."""
    first = {tuple(row[key] for key in alike): row for row in rows if row["system"] == rows[0]["system"]}
    return [first[tuple(row[key] for key in alike)] for row in rows]


def speed_cells(row: Mapping[str, Any], reference: Mapping[str, Any], macs: str) -> dict[str, str]:
    """Return the columns that compare a row with its reference; ``macs`` is the key of the multiply-accumulates."""
    speedup, ratio = reference["median_seconds"] / row["median_seconds"], reference[macs] / row[macs]
    return {"speed-up": f"{speedup:.2f}", "MAC ratio": f"{ratio:.2f}", "of it": f"{speedup / ratio:.2f}"}


def size_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns for disk and memory."""
    memory = row["peak_memory_mib"]
    return {"MiB on disk": f"{row['bytes'] / 2**20:.2f}", "peak MiB": "-" if memory is None else f"{memory:.0f}"}


def as_text(lines: Sequence[Mapping[str, str]], style: str, left: Sequence[str]) -> str:
    """Return a table with left-aligned columns ``left``; the other columns are right-aligned."""
    alignment = ["left" if title in left else "right" for title in lines[0]]
    return tabulate(lines, headers="keys", tablefmt=style, disable_numparse=True, colalign=alignment)
