"""How long encoders take."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.models.transducer import Transducer
from pruning.speech.exported import FORMS, ExportedTransducer
from pruning.training import provenance, timing
from pruning.training.exporting import export_onnx, export_torchscript
from pruning.training.facts import frames_of, network_facts
from pruning.training.timing import PYTORCH, Timing
from pruning.training.transducer_runs import load_network

BACKENDS = (PYTORCH, "torchscript", "onnx", "int8")
_FORM_OF = {"torchscript": "torchscript", "onnx": "float32", "int8": "int8"}


@dataclass(frozen=True)
class Setting:
    """What an encoder is given: ``batch`` utterances of ``seconds`` of audio, on ``threads`` threads."""

    threads: int
    batch: int
    seconds: float


def export(model: Transducer, directory: Path, backends: Sequence[str]) -> None:
    """Write what the backends need under ``directory``, unless that of the same weights is there."""
    if not set(backends) - {PYTORCH}:
        return
    needed = [f"encoder{FORMS[_FORM_OF[backend]]}" for backend in backends if backend != PYTORCH]

    def write() -> None:
        export_onnx(model, directory, int8="int8" in backends)
        if "torchscript" in backends:
            export_torchscript(model, directory)

    timing.keep_export(model, directory, needed, write)


def encoder_of(model: Transducer, directory: Path, backend: str, threads: int) -> Callable[..., Any]:
    """A call that encodes ``(features, lengths)``."""
    return model if backend == PYTORCH else ExportedTransducer(directory, _FORM_OF[backend], threads).encoder


def bytes_on_disk(model: Transducer, directory: Path, backend: str) -> int:
    """Of the encoder's file; for PyTorch of its parameters and buffers."""
    if backend == PYTORCH:
        return timing.tensor_bytes(model.encoder)
    return (directory / f"encoder{FORMS[_FORM_OF[backend]]}").stat().st_size


def measure(
    systems: Mapping[str, tuple[Transducer, Path]],
    backends: Sequence[str],
    settings: Sequence[Setting],
    repeats: int,
    seed: int = 0,
) -> Iterator[Timing[Setting]]:
    """Time every system with every backend in every setting; see `timing.measure`.

    Args:
        systems: name -> network and directory of its export.
        backends: of `BACKENDS`.
        settings, repeats, seed: as there.

    Raises:
        UserError: the systems take different features.
    """
    dims = {model.config.encoder.feature_dim for model, _ in systems.values()}
    if len(dims) > 1:
        raise UserError(f"the systems take features of {dims} bins", "compare networks of the same features")
    (dim,) = dims

    def call_of(system: str, backend: str, setting: Setting) -> Callable[[], Any]:
        return on_noise(encoder_of(*systems[system], backend, setting.threads), dim, setting)

    return timing.measure(systems, backends, settings, call_of, repeats, seed)


def on_noise(encode: Callable[..., Any], feature_dim: int, setting: Setting) -> Callable[[], Any]:
    """A call that encodes noise, the same for all."""
    frames = frames_of(setting.seconds)
    features = torch.randn(setting.batch, frames, feature_dim, generator=torch.Generator().manual_seed(0))
    lengths = torch.full((setting.batch,), frames)
    return lambda: encode(features, lengths)


def peak_memory(source: PathLike, directory: Path, backend: str, setting: Setting) -> float:
    """Peak MiB of a process of its own that loads one encoder and runs it once."""
    arguments = [str(source), str(directory), backend, json.dumps(asdict(setting))]
    return timing.peak_memory("pruning.training.benchmark", arguments)


def facts(
    sources: Mapping[str, PathLike],
    systems: Mapping[str, tuple[Transducer, Path]],
    timings: Sequence[Timing[Setting]],
    memory: Mapping[tuple[str, str], float],
) -> dict[str, Any]:
    """All that was measured, as JSON can hold it; memory was measured in the first setting."""
    rows, first = [], timings[0].setting
    for one in timings:
        model, directory = systems[one.system]
        rows.append({
            **timing.common(one, sources[one.system]),
            "real_time_factor": one.median / (one.setting.batch * one.setting.seconds),
            "bytes": bytes_on_disk(model, directory, one.backend),
            "peak_memory_mib": memory.get((one.system, one.backend)) if one.setting == first else None,
            "macs_10s": network_facts(model)["macs_10s"],
        })  # fmt: skip
    return {"rows": rows}


def table(rows: Sequence[Mapping[str, Any]], style: str = "github") -> str:
    """A row for every system, backend and setting; speed-ups against the first system, same backend and setting."""
    lines = [
        {
            "system": row["system"], "backend": row["backend"], "threads": str(row["threads"]),
            "batch x s": f"{row['batch']} x {row['seconds']:g}", "median ms": f"{1000 * row['median_seconds']:.1f}",
            "p95 ms": f"{1000 * row['p95_seconds']:.1f}", "RTF": f"{row['real_time_factor']:.5f}",
            **timing.speed_cells(row, reference, "macs_10s"), **timing.size_cells(row),
        }
        for row, reference in zip(rows, timing.references(rows, ("backend", "threads", "batch", "seconds")))
    ]  # fmt: skip
    return timing.as_text(lines, style, ("system", "backend"))


def _one(source: str, directory: str, backend: str, setting: Mapping[str, Any]) -> None:
    """What `peak_memory` runs."""
    given = Setting(**setting)
    torch.set_num_threads(given.threads)
    if backend == PYTORCH:
        model = load_network(source)[0]
        call: Callable[..., Any] = model
        dim = model.config.encoder.feature_dim
    else:
        exported = ExportedTransducer(directory, _FORM_OF[backend], given.threads)
        call, dim = exported.encoder, exported.feature_dim
    with torch.no_grad():
        on_noise(call, dim, given)()
    print(provenance.peak_memory_mib())


if __name__ == "__main__":
    _one(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
