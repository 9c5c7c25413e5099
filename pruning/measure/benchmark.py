"""Time encoders."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pruning import provenance
from pruning.core.prunable import plain
from pruning.deploy.export import write
from pruning.deploy.exported import ExportedPart
from pruning.errors import UserError
from pruning.files import PathLike
from pruning.kinds import kind
from pruning.kinds.exports import Exports
from pruning.kinds.forms import FORMS
from pruning.measure import timing
from pruning.measure.names import PYTORCH
from pruning.measure.timing import Timing
from pruning.models.facts import network_facts

_FORM_OF = {"torchscript": "torchscript", "onnx": "float32", "int8": "int8"}


class Timed(NamedTuple):
    """A network with speech input; its encoder is timed, with its head if both are in one exported file.

    Attributes:
        network: a network of this toolkit in evaluation mode.
        exports: see `pruning.kinds.kind.Kind.exports`.
    """

    network: nn.Module
    exports: Exports

    @property
    def bins(self) -> int:
        """Number of feature bins that the network takes; 0 if it takes samples."""
        inputs = self.exports.parts[self.exports.timed].inputs[0]
        return inputs.shape[2] if inputs.dim() == 3 else 0

    def shape(self, setting: Setting) -> tuple[int, ...]:
        """Return the shape of the input, ``(batch, samples)`` or ``(batch, frames, bins)``."""
        length = kind.of(self.network).input_length(self.network, setting.seconds)
        return (setting.batch, length, self.bins) if self.bins else (setting.batch, length)


@dataclass(frozen=True)
class Setting:
    """Input of an encoder: ``batch`` utterances of ``seconds`` of audio, on ``threads`` threads."""

    threads: int
    batch: int
    seconds: float


def load(source: PathLike) -> Timed:
    """Load a dense or extracted network from a checkpoint or experiment directory.

    Raises:
        UserError: there is no such checkpoint, it is not extracted yet, or the network takes no speech.
    """
    _, model, header = kind.load(source)
    return timed(plain(model), f"{source} contains a {header['model']['type']}")


def timed(model: nn.Module, what: str = "the network does not take speech as input") -> Timed:
    """Prepare a network for timing.

    Args:
        model: the network.
        what: error message for a network that does not take speech as input.

    Raises:
        UserError: the network does not take speech as input.
    """
    exports = kind.of(model).exports(model.eval(), None)
    if not exports.timed:
        remedy = ("give an encoder with a head or a transducer; language models have benchmark_lm, and of "
                  "encoder-decoders decode tells the real-time factor, in PyTorch and exported")  # fmt: skip
        raise UserError(what, remedy)
    return Timed(model, exports)


def _file(model: Timed, backend: str) -> str:
    form, of = _FORM_OF[backend], kind.of(model.network)
    if form not in of.capabilities(model.network).exports:
        raise UserError(f"backend {backend} does not support {of.called}", "leave this backend out")
    return f"{model.exports.timed}{FORMS[form]}"


def export(model: Timed, directory: Path, backends: Sequence[str]) -> None:
    """Write the files that the backends need to ``directory``, unless they exist for the same weights.

    Raises:
        UserError: a backend does not support this kind of network.
    """
    needed = [_file(model, backend) for backend in backends if backend != PYTORCH]
    if needed:
        forms = [_FORM_OF[backend] for backend in backends if backend != PYTORCH]
        timing.keep_export(model.network, directory, needed, lambda: write(model.exports, directory, forms))


def encoder_of(model: Timed, directory: Path, backend: str, threads: int) -> Callable[..., Any]:
    """Return a function of ``(features or samples, lengths)``."""
    return model.network if backend == PYTORCH else ExportedPart(directory / _file(model, backend), threads)


def bytes_on_disk(model: Timed, directory: Path, backend: str) -> int:
    """Return the size of the exported file; for PyTorch, of the encoder's parameters and buffers."""
    if backend == PYTORCH:
        return timing.tensor_bytes(model.network.get_submodule("encoder"))
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
        backends: names from `pruning.measure.names.BACKENDS`.
        settings, repeats, seed: see `timing.measure`.

    Raises:
        UserError: the systems take different features.
    """
    dims = {model.bins for model, _ in systems.values()}
    if len(dims) > 1:
        what = " and ".join(f"features of {dim} bins" if dim else "samples" for dim in sorted(dims))
        raise UserError(f"the systems take {what}", "compare networks with the same input")

    def call_of(system: str, backend: str, setting: Setting) -> Callable[[], Any]:
        model, directory = systems[system]
        return on_noise(encoder_of(model, directory, backend, setting.threads), model.shape(setting))

    return timing.measure(systems, backends, settings, call_of, repeats, seed)


def on_noise(encode: Callable[..., Any], shape: Sequence[int]) -> Callable[[], Any]:
    """Return a function that encodes fixed noise of a shape: see `Timed.shape`."""
    noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
    lengths = torch.full((shape[0],), shape[1])
    return lambda: encode(noise, lengths)


def peak_memory(source: PathLike, model: Timed, directory: Path, backend: str, setting: Setting) -> float:
    """Return the peak MiB of a separate process that loads one encoder and runs it once."""
    file = "" if backend == PYTORCH else str(directory / _file(model, backend))
    return timing.peak_memory("pruning.measure.benchmark",
                              [str(source), file, str(setting.threads), json.dumps(model.shape(setting))])  # fmt: skip


def facts(
    sources: Mapping[str, PathLike],
    systems: Mapping[str, tuple[Timed, Path]],
    timings: Sequence[Timing[Setting]],
    memory: Mapping[tuple[str, str], float],
) -> dict[str, Any]:
    """Return all measurements as JSON values; memory is measured in the first setting only."""
    rows, first = [], timings[0].setting
    for one in timings:
        model, directory = systems[one.system]
        rows.append({
            **timing.common(one, sources[one.system]),
            "real_time_factor": one.median / (one.setting.batch * one.setting.seconds),
            "bytes": bytes_on_disk(model, directory, one.backend),
            "peak_memory_mib": memory.get((one.system, one.backend)) if one.setting == first else None,
            "macs_10s": network_facts(model.network)["macs_10s"],
        })  # fmt: skip
    return {"rows": rows}


def table(rows: Sequence[Mapping[str, Any]], style: str = "pipe") -> str:
    """Return a row per system, backend and setting; speed-ups are relative to the first system in the same setting."""
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


def _one(source: str, file: str, threads: int, shape: Sequence[int]) -> None:
    """Run in the process of `peak_memory`; without a ``file``, run PyTorch's network."""
    torch.set_num_threads(threads)
    call: Callable[..., Any] = ExportedPart(Path(file), threads) if file else load(source).network
    with torch.no_grad():
        on_noise(call, shape)()
    print(provenance.peak_memory_mib())


if __name__ == "__main__":
    _one(sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))
