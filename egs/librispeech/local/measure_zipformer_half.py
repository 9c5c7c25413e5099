#!/usr/bin/env python3
"""Measure what half of the multiply-accumulates saves in Zipformers of icefall's sizes, with random weights.

The units of one half are chosen by Taylor scores of a few batches of noise and their price in MACs (for the pictures
of both also by that in parameters), those of the other at random, the same share of each group, in multiples of 8. The
networks take turns: a recording of 10 s in PyTorch and onnxruntime, and a chunk of 320 ms of a causal network of the
same structure, with 128 frames of left context, in onnxruntime. Peak memory is that of a process of sherpa-onnx alone,
in which it decodes noise. Times are those of the processor. In the recipe's folder:
    . ./path.sh && python local/measure_zipformer_half.py
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning.bin import command
from pruning.limits import COUNT

if TYPE_CHECKING:
    from torch import Tensor

    from pruning.core.structure import Structure
    from pruning.deploy.exported import ExportedPart
    from pruning.kinds.zipformer_streaming_export import ExportedStream
    from pruning.methods.base import Pruner
    from pruning.methods.criterion import CriterionConfig
    from pruning.models.transducer import Transducer

CONF = Path(__file__).resolve().parents[1] / "conf"
CHUNK, LEFT = 16, 128
SHARE, STEPS, BINS = 0.5, 4, 80
DENSE, TAYLOR, RANDOM = "dense", "half by Taylor", "half at random"
SHERPA = """
import sys, numpy, sherpa_onnx
streaming, tokens, encoder, decoder, joiner = sys.argv[1:]
kind = sherpa_onnx.OnlineRecognizer if streaming == "stream" else sherpa_onnx.OfflineRecognizer
recognizer = kind.from_transducer(tokens=tokens, encoder=encoder, decoder=decoder, joiner=joiner, num_threads=1)
stream = recognizer.create_stream()
stream.accept_waveform(16000, numpy.random.default_rng(0).standard_normal(160000).astype(numpy.float32) / 10)
if streaming == "stream":
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
else:
    recognizer.decode_stream(stream)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Measure and write ``OUTPUT`` (JSON), a table with the suffix .md, and pictures beside it."""
    options = parse(argv)

    import torch

    from pruning import provenance
    from pruning.files import write_json, write_text

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        dense = network(size)
        halves = {TAYLOR: halved(dense, "macs"), RANDOM: random_half(dense)}
        if size == options.sizes[0]:
            for cost, found in (("macs", halves[TAYLOR]), ("size", halved(dense, "size"))):
                draw(found, size, cost, options.output.parent)
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            for measure, causal in ((measured, False), (streamed, True)):
                whole = network(size, causal)
                small = {name: cut(whole, structure) for name, structure in halves.items()}
                rows += measure(size, {DENSE: whole, **small}, options.repeats, Path(folder))
    facts = provenance.of_script("local/measure_zipformer_half.py", argv)
    write_json(options.output, {"rows": rows, "repeats": options.repeats, **facts})
    write_text(options.output.with_suffix(".md"), document(rows, {**facts, "repeats": options.repeats}))


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """Parse and return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=["s", "m", "l"], default=["m", "l"])
    parser.add_argument("--repeats", type=COUNT.parse, default=20, help="number of timing rounds")
    parser.add_argument("--scratch", type=Path, help="directory for exported files, which are removed")
    parser.add_argument("--output", type=Path, default=Path("results/zipformer/half.json"))
    return parser.parse_args(argv)


def network(size: str, causal: bool = False) -> Transducer:
    """Return a transducer of icefall's size with random weights, and 500 tokens."""
    import torch

    from pruning.configuration import from_dict, read
    from pruning.models.transducer import Transducer, TransducerConfig

    path = CONF / f"zipformer_{size}" / "teacher.yaml"
    config = from_dict(TransducerConfig, read(path)["model"], str(path))
    assert config.zipformer is not None
    zipformer = replace(config.zipformer, causal=causal, dropout=0.0)
    torch.manual_seed(0)
    return Transducer(replace(config, zipformer=zipformer, vocab_size=500, ctc=False)).eval()


def halved(model: Transducer, cost: str) -> Structure:
    """Return a structure with half of a cost, by Taylor scores per unit of the cost; the loss is of random weights."""
    import torch

    from pruning.methods.criterion import CriterionConfig
    from pruning.training.task import StepInfo

    pruner = pruner_of(model, "taylor", cost, CriterionConfig(interval=1))
    generator = torch.Generator().manual_seed(0)
    model.train()
    for step in range(STEPS):
        info = StepInfo(1, step, step, STEPS)
        features, lengths = torch.randn(1, 600, BINS, generator=generator), torch.tensor([600])
        with pruner.applied(info):
            output = model.encoder(features, lengths).output
            (output * torch.randn(output.shape, generator=generator)).sum().backward()
        pruner.after_backward(info, {})
        model.zero_grad()
        pruner.after_step(info)
    model.eval()
    return pruner.structure()


def random_half(model: Transducer) -> Structure:
    """Return a structure with half of the MACs: as large a share of each group, in multiples of 8, drawn at random."""
    from pruning.methods.criterion import CriterionConfig
    from pruning.training.task import StepInfo

    pruner = pruner_of(model, "random", "macs", CriterionConfig(interval=1, ranking="group"))
    for step in range(STEPS):
        pruner.after_step(StepInfo(1, step, step, STEPS))
    groups = model.unit_groups()
    return pruner.structure().rounded(8, groups).resolved(groups)


def pruner_of(model: Transducer, method: str, cost: str, criterion: CriterionConfig) -> Pruner:
    """Return what halves a cost in one cut."""
    from pruning.core.constraint import ConstraintConfig
    from pruning.methods.choice import new_pruner
    from pruning.methods.config import PruningConfig

    size, macs = (SHARE if name == cost else 0.0 for name in ("size", "macs"))
    constraint = ConstraintConfig(size=size, macs=macs, ramp="one_shot", ramp_share=0.5)
    return new_pruner(model, PruningConfig(method, constraint=constraint, criterion=criterion), 0)


def cut(model: Transducer, structure: Structure) -> Transducer:
    """Return the network that a structure leaves."""
    from pruning.core.extraction import extract
    from pruning.models.transducer import Transducer

    small = extract(model, structure).eval()
    assert isinstance(small, Transducer)
    return small


def draw(structure: Structure, size: str, cost: str, directory: Path) -> None:
    """Write a picture of a structure, in 64 colours to keep it small."""
    from PIL import Image

    from pruning.files import atomic_path
    from pruning.reports.pictures import structure_picture

    title = f"Zipformer {size.upper()}, half of the {'MACs' if cost == 'macs' else 'parameters'}"
    picture = Image.open(io.BytesIO(structure_picture(structure, title))).convert("RGB").quantize(64)
    with atomic_path(directory / f"{size}_half_{cost}.png") as path:
        picture.save(path, optimize=True)


def measured(size: str, systems: Mapping[str, Transducer], repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Return rows for a recording of 10 s."""
    from pruning.measure import benchmark

    timed = {name: (benchmark.timed(model), folder / name) for name, model in systems.items()}
    for one, directory in timed.values():
        benchmark.export(one, directory, ["onnx"])
    memory = {name: sherpa_memory(directory, streaming=False) for name, (_, directory) in timed.items()}
    names = [(name, backend) for backend in ("pytorch", "onnx") for name in systems]
    shape = (1, 1000, BINS)
    calls = [benchmark.on_noise(benchmark.encoder_of(*timed[name], backend, threads=1), shape)
             for name, backend in names]  # fmt: skip
    return [row(size, systems[name], name, f"10 s, {backend}", seconds, memory[name] if backend == "onnx" else None)
            for (name, backend), seconds in zip(names, interleaved(calls, repeats))]  # fmt: skip


def interleaved(calls: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Return the processor's seconds of each call in each round."""
    from pruning.measure import timing

    return timing.interleaved(calls, repeats, clock=time.process_time)


def streamed(size: str, systems: Mapping[str, Transducer], repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Return rows for a chunk of a stream, with all that its caches hold."""
    from pruning.deploy.export import write
    from pruning.deploy.exported import ExportedPart
    from pruning.kinds.forms import FORMS, ONNX_FORMS
    from pruning.kinds.transducer_export import transducer_streams
    from pruning.kinds.zipformer_streaming_export import ExportedStream
    from pruning.models.chunk import Chunk

    names, calls = [], []
    for name, model in systems.items():
        exports = transducer_streams(model, Chunk(CHUNK, LEFT))
        write(exports, folder / f"{name}-stream", ONNX_FORMS)
        stream = exports.parts["encoder"].module
        assert isinstance(stream, ExportedStream)
        for form in ONNX_FORMS:
            part = ExportedPart(folder / f"{name}-stream" / f"encoder{FORMS[form]}", 1)
            names.append((name, form, sum(state.numel() for state in stream.states(1).values()) * 4 / 2**20))
            calls.append(chunk(part, stream))
    memory = {name: sherpa_memory(folder / f"{name}-stream", streaming=True) for name in systems}
    return [row(size, systems[name], name, f"chunk, {form}", seconds, memory[name] if form == "float32" else None, mib)
            for (name, form, mib), seconds in zip(names, interleaved(calls, 10 * repeats))]  # fmt: skip


def chunk(part: ExportedPart, stream: ExportedStream) -> Callable[[], list[Tensor]]:
    """Return a function that encodes a chunk of one stream."""
    import torch

    taken, _ = stream.stream.feature_frames
    inputs = torch.randn(1, taken, BINS), *stream.states(1).values()
    return lambda: part(*inputs)


def sherpa_memory(directory: Path, streaming: bool) -> float:
    """Return the peak MiB of a process of sherpa-onnx that decodes 10 s with the float32 files of a directory."""
    from pruning.files import write_text
    from pruning.kinds.transducer_export import PARTS

    tokens = directory / "tokens.txt"
    write_text(tokens, "".join(f"{'<blk>' if index == 0 else f't{index}'} {index}\n" for index in range(500)))
    files = [str(directory / f"{name}.onnx") for name in PARTS]
    words = [sys.executable, "-c", SHERPA, "stream" if streaming else "recording", str(tokens), *files]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 2**10


def row(
    size: str, model: Transducer, system: str, what: str, seconds: Sequence[float], memory: Optional[float],
    caches: Optional[float] = None,
) -> dict[str, Any]:  # fmt: skip
    """Return a result as JSON values."""
    from pruning.models.facts import network_facts

    facts = network_facts(model)
    return {"network": size.upper(), "system": system, "what": what, "median_seconds": statistics.median(seconds),
            "macs_10s": facts["macs_10s"], "encoder_parameters": facts["encoder_parameters"],
            "sherpa_onnx_peak_mib": memory, "caches_mib": caches}  # fmt: skip


def document(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Return Markdown: times, and the speed-up of each half against its cut of MACs."""
    from pruning.measure import timing

    lines = []
    for one in rows:
        whole = next(other for other in rows if other["system"] == DENSE and other["network"] == one["network"]
                     and other["what"] == one["what"])  # fmt: skip
        memory, caches = one["sherpa_onnx_peak_mib"], one["caches_mib"]
        lines.append({
            "network": f"{one['network']}, {one['system']}", "of": one["what"],
            "M parameters": f"{one['encoder_parameters'] / 1e6:.1f}",
            "GMACs at 10 s": f"{one['macs_10s'] / 1e9:.2f}", "median ms": f"{1000 * one['median_seconds']:.1f}",
            **timing.speed_cells(one, whole, "macs_10s"),
            "sherpa-onnx, peak MiB": "" if memory is None else f"{memory:.0f}",
            "caches MiB": "" if caches is None else f"{caches:.2f}",
        })  # fmt: skip
    return "\n".join([
        "# Half of the multiply-accumulates of Zipformers", "",
        "Random weights; units chosen by Taylor scores of noise, or at random, the same share of each group in",
        f"multiples of 8. Milliseconds of the processor, one thread, medians over {facts['repeats']} rounds; of chunks",
        "of 320 ms with 128 frames of left context ten times as many.", "",
        timing.as_text(lines, "pipe", ("network", "of")), "",
        f"{facts['processor']}, torch {facts['torch']}; commit {facts['commit']}, {facts['date']};",
        f"`{facts['command']}`.", "",
    ])  # fmt: skip


if __name__ == "__main__":
    command.run(main)
