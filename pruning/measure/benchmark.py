"""How long encoders take."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Union

import torch

from pruning import provenance
from pruning.deploy import onnx_files, speech_exporting
from pruning.deploy.exported import FORMS, ExportedPart, ExportedTransducer
from pruning.deploy.exporting import export_onnx, export_torchscript
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import PathLike
from pruning.kinds import runs
from pruning.measure import timing
from pruning.measure.timing import PYTORCH, Timing
from pruning.models import encoders
from pruning.models.facts import SAMPLES_PER_SECOND, frames_of, network_facts
from pruning.models.speech_model import SpeechModel
from pruning.models.transducer import Transducer

BACKENDS = (PYTORCH, "torchscript", "onnx", "int8")
_FORM_OF = {"torchscript": "torchscript", "onnx": "float32", "int8": "int8"}
Timed = Union[Transducer, SpeechModel]
"""Of a transducer the encoder is timed, of an encoder with a head both."""


@dataclass(frozen=True)
class Setting:
    """What an encoder is given: ``batch`` utterances of ``seconds`` of audio, on ``threads`` threads."""

    threads: int
    batch: int
    seconds: float


def load(source: PathLike) -> Timed:
    """A network, dense or extracted, from a checkpoint or experiment directory.

    Raises:
        UserError: no such checkpoint, one that is not extracted yet, or of a language model.
    """
    runs.check_extracted(checkpoint.read_header(checkpoint.file_of(source)), source)
    model, header = checkpoint.load_model(source)
    if not isinstance(model, (Transducer, SpeechModel)):
        raise UserError(f"{source} holds a {header['model']['type']}", "benchmark_lm is of language models")
    return speech_exporting.plain(model).eval() if isinstance(model, SpeechModel) else model


def input_dim(model: Timed) -> int:
    """Bins of the features that it takes; 0: samples."""
    encoder: Any = model.encoder
    return 0 if encoders.hears_samples(encoder) else int(encoder.config.feature_dim)


def _file(model: Timed, backend: str) -> str:
    form = _FORM_OF[backend]
    if isinstance(model, Transducer):
        return f"encoder{FORMS[form]}"
    if form not in speech_exporting.FORMS:
        raise UserError(f"{backend} is of transducers", "leave the backend out")
    return speech_exporting.FORMS[form]


def export(model: Timed, directory: Path, backends: Sequence[str]) -> None:
    """Write what the backends need under ``directory``, unless that of the same weights is there.

    Raises:
        UserError: a backend is not of such networks.
    """
    if not set(backends) - {PYTORCH}:
        return
    needed = [_file(model, backend) for backend in backends if backend != PYTORCH]

    def write() -> None:
        if isinstance(model, SpeechModel):
            onnx_files.write(speech_exporting.parts(model), directory, int8="int8" in backends)
            return
        export_onnx(model, directory, int8="int8" in backends)
        if "torchscript" in backends:
            export_torchscript(model, directory)

    timing.keep_export(model, directory, needed, write)


def encoder_of(model: Timed, directory: Path, backend: str, threads: int) -> Callable[..., Any]:
    """A call that takes ``(features or samples, lengths)``."""
    if backend == PYTORCH:
        return model
    if isinstance(model, SpeechModel):
        return ExportedPart(directory / _file(model, backend), threads)
    return ExportedTransducer(directory, _FORM_OF[backend], threads).encoder


def bytes_on_disk(model: Timed, directory: Path, backend: str) -> int:
    """Of the exported file; for PyTorch of the encoder's parameters and buffers."""
    if backend == PYTORCH:
        return timing.tensor_bytes(model.encoder)
    return (directory / _file(model, backend)).stat().st_size


def measure(
    systems: Mapping[str, tuple[Timed, Path]],
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
    dims = {input_dim(model) for model, _ in systems.values()}
    if len(dims) > 1:
        what = " and ".join(f"features of {dim} bins" if dim else "samples" for dim in sorted(dims))
        raise UserError(f"the systems take {what}", "compare networks that hear the same")
    (dim,) = dims

    def call_of(system: str, backend: str, setting: Setting) -> Callable[[], Any]:
        return on_noise(encoder_of(*systems[system], backend, setting.threads), dim, setting)

    return timing.measure(systems, backends, settings, call_of, repeats, seed)


def on_noise(encode: Callable[..., Any], dim: int, setting: Setting) -> Callable[[], Any]:
    """A call that encodes noise, the same for all: features of ``dim`` bins, or for 0 samples."""
    count = frames_of(setting.seconds) if dim else round(setting.seconds * SAMPLES_PER_SECOND)
    shape = (setting.batch, count, dim) if dim else (setting.batch, count)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    lengths = torch.full((setting.batch,), count)
    return lambda: encode(noise, lengths)


def peak_memory(source: PathLike, model: Timed, directory: Path, backend: str, setting: Setting) -> float:
    """Peak MiB of a process of its own that loads one encoder and runs it once."""
    name = _file(model, backend) if isinstance(model, SpeechModel) and backend != PYTORCH else ""
    arguments = [str(source), str(directory), backend, json.dumps(asdict(setting)), str(input_dim(model)), name]
    return timing.peak_memory("pruning.measure.benchmark", arguments)


def facts(
    sources: Mapping[str, PathLike],
    systems: Mapping[str, tuple[Timed, Path]],
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


def _one(source: str, directory: str, backend: str, setting: Mapping[str, Any], dim: int, name: str) -> None:
    """What `peak_memory` runs; ``name`` is of the file, for encoders with a head."""
    given = Setting(**setting)
    torch.set_num_threads(given.threads)
    if backend == PYTORCH:
        call: Callable[..., Any] = load(source)
    elif name:
        call = ExportedPart(Path(directory) / name, given.threads)
    else:
        call = ExportedTransducer(directory, _FORM_OF[backend], given.threads).encoder
    with torch.no_grad():
        on_noise(call, dim, given)()
    print(provenance.peak_memory_mib())


if __name__ == "__main__":
    _one(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
