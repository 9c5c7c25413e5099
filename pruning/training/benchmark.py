"""How long encoders take: systems measured in turn, again and again, so that a slow moment hits all of them alike."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from tabulate import tabulate

from pruning.errors import UserError
from pruning.files import PathLike, read_json, write_json, write_text
from pruning.models.transducer import Transducer
from pruning.speech.exported import FORMS, ExportedTransducer
from pruning.training import provenance
from pruning.training.exporting import export_onnx, export_torchscript
from pruning.training.facts import frames_of, network_facts
from pruning.training.transducer_runs import load_network

PYTORCH = "pytorch"
BACKENDS = (PYTORCH, "torchscript", "onnx", "int8")
_FORM_OF = {"torchscript": "torchscript", "onnx": "float32", "int8": "int8"}
WARM_UP = 2


@dataclass(frozen=True)
class Setting:
    """What an encoder is given: ``batch`` utterances of ``seconds`` of audio, on ``threads`` threads."""

    threads: int
    batch: int
    seconds: float


@dataclass(frozen=True)
class Timing:
    """Seconds that one pass of an encoder took, over and over.

    Attributes:
        system, backend: which encoder.
        setting: what it was given.
        seconds: of each repetition.
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


def export(model: Transducer, directory: Path, backends: Sequence[str]) -> None:
    """Write what the backends need under ``directory``, unless that of the same weights is there."""
    if not set(backends) - {PYTORCH}:
        return
    made_of, stamp = provenance.weights_fingerprint(model), directory / "weights.json"
    needed = [f"encoder{FORMS[_FORM_OF[backend]]}" for backend in backends if backend != PYTORCH]
    current = stamp.is_file() and read_json(stamp).get("weights") == made_of
    if current and all((directory / name).is_file() for name in needed):
        return
    stamp.unlink(missing_ok=True)
    lang_dir = directory / "lang"
    write_text(lang_dir / "tokens.txt", "<blk> 0\n")
    export_onnx(model, directory, lang_dir, int8="int8" in backends)
    if "torchscript" in backends:
        export_torchscript(model, directory)
    write_json(stamp, {"weights": made_of})


def encoder_of(model: Transducer, directory: Path, backend: str, threads: int) -> Callable[..., Any]:
    """A call that encodes ``(features, lengths)``."""
    return model if backend == PYTORCH else ExportedTransducer(directory, _FORM_OF[backend], threads).encoder


def bytes_on_disk(model: Transducer, directory: Path, backend: str) -> int:
    """Of the encoder's file; for PyTorch of its parameters and buffers."""
    if backend == PYTORCH:
        return sum(tensor.numel() * tensor.element_size() for tensor in model.encoder.state_dict().values())
    return (directory / f"encoder{FORMS[_FORM_OF[backend]]}").stat().st_size


@torch.no_grad()
def measure(
    systems: Mapping[str, tuple[Transducer, Path]],
    backends: Sequence[str],
    settings: Sequence[Setting],
    repeats: int,
    seed: int = 0,
) -> Iterator[Timing]:
    """Time every system with every backend, a setting at a time, all of them in a new order in every round.

    Args:
        systems: name -> network and directory of its export.
        backends: of `BACKENDS`.
        settings: what the encoders are given.
        repeats: rounds, after `WARM_UP` that do not count.
        seed: of the orders.

    Raises:
        UserError: the systems take different features.
    """
    dims = {model.config.encoder.feature_dim for model, _ in systems.values()}
    if len(dims) > 1:
        raise UserError(f"the systems take features of {dims} bins", "compare networks of the same features")
    (dim,) = dims
    for setting in settings:
        torch.set_num_threads(setting.threads)
        names = [(name, backend) for name in systems for backend in backends]
        calls = [encoder_of(*systems[name], backend, setting.threads) for name, backend in names]
        rounds = interleaved(calls, dim, setting, repeats, seed)
        yield from (Timing(name, backend, setting, times) for (name, backend), times in zip(names, rounds))


@torch.no_grad()
def interleaved(
    calls: Sequence[Callable[..., Any]], feature_dim: int, setting: Setting, repeats: int, seed: int = 0
) -> list[list[float]]:
    """Seconds of each call on the same noise in each round; every round has all of them, in an order of its own."""
    order, frames = random.Random(seed), frames_of(setting.seconds)
    features = torch.randn(setting.batch, frames, feature_dim, generator=torch.Generator().manual_seed(0))
    lengths = torch.full((setting.batch,), frames)
    seconds: list[list[float]] = [[] for _ in calls]
    for round_ in range(WARM_UP + repeats):
        for index in order.sample(range(len(calls)), len(calls)):
            started = time.perf_counter()
            calls[index](features, lengths)
            if round_ >= WARM_UP:
                seconds[index].append(time.perf_counter() - started)
    return seconds


def peak_memory(source: PathLike, directory: Path, backend: str, setting: Setting) -> float:
    """Peak MiB of a process of its own that loads one encoder and runs it once."""
    arguments = [str(source), str(directory), backend, json.dumps(asdict(setting))]
    done = subprocess.run([sys.executable, "-m", "pruning.training.benchmark", *arguments], capture_output=True,
                          text=True, check=False)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {source} ({backend}) failed: {done.stderr.strip()[-300:]}")
    return float(done.stdout.split()[-1])


def facts(
    sources: Mapping[str, PathLike], systems: Mapping[str, tuple[Transducer, Path]], timings: Sequence[Timing],
    memory: Mapping[tuple[str, str], float],
) -> dict[str, Any]:  # fmt: skip
    """All that was measured, as JSON can hold it; memory was measured in the first setting."""
    rows, first = [], timings[0].setting
    for timing in timings:
        model, directory = systems[timing.system]
        audio = timing.setting.batch * timing.setting.seconds
        rows.append({
            "system": timing.system, "source": str(sources[timing.system]), "backend": timing.backend,
            **asdict(timing.setting), "median_seconds": timing.median, "p95_seconds": timing.percentile_95,
            "real_time_factor": timing.median / audio, "repeats": len(timing.seconds),
            "bytes": bytes_on_disk(model, directory, timing.backend),
            "peak_memory_mib": memory.get((timing.system, timing.backend)) if timing.setting == first else None,
            "macs_10s": network_facts(model)["macs_10s"],
        })  # fmt: skip
    return {"rows": rows}


def table(rows: Sequence[Mapping[str, Any]], style: str = "github") -> str:
    """A row for every system, backend and setting; speed-ups against the first system, same backend and setting."""
    first = rows[0]["system"]
    base = {(row["backend"], row["threads"], row["batch"], row["seconds"]): row for row in rows
            if row["system"] == first}  # fmt: skip
    lines = []
    for row in rows:
        reference = base[row["backend"], row["threads"], row["batch"], row["seconds"]]
        speedup = reference["median_seconds"] / row["median_seconds"]
        ratio = reference["macs_10s"] / row["macs_10s"]
        memory: Optional[float] = row["peak_memory_mib"]
        lines.append({
            "system": row["system"], "backend": row["backend"], "threads": str(row["threads"]),
            "batch x s": f"{row['batch']} x {row['seconds']:g}", "median ms": f"{1000 * row['median_seconds']:.1f}",
            "p95 ms": f"{1000 * row['p95_seconds']:.1f}", "RTF": f"{row['real_time_factor']:.5f}",
            "speed-up": f"{speedup:.2f}", "MAC ratio": f"{ratio:.2f}", "of it": f"{speedup / ratio:.2f}",
            "MiB on disk": f"{row['bytes'] / 2**20:.2f}", "peak MiB": "-" if memory is None else f"{memory:.0f}",
        })  # fmt: skip
    alignment = ["left", "left", *["right"] * (len(lines[0]) - 2)]
    return tabulate(lines, headers="keys", tablefmt=style, disable_numparse=True, colalign=alignment)


def _one(source: str, directory: str, backend: str, setting: Mapping[str, Any]) -> None:
    """What `peak_memory` runs."""
    given = Setting(**setting)
    torch.set_num_threads(given.threads)
    frames = frames_of(given.seconds)
    if backend == PYTORCH:
        model = load_network(source)[0]
        call: Callable[..., Any] = model
        dim = model.config.encoder.feature_dim
    else:
        exported = ExportedTransducer(directory, _FORM_OF[backend], given.threads)
        call, dim = exported.encoder, exported.feature_dim
    with torch.no_grad():
        call(torch.randn(given.batch, frames, dim), torch.full((given.batch,), frames))
    print(provenance.peak_memory_mib())


if __name__ == "__main__":
    _one(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
