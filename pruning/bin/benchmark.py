"""Measure latency, memory and file size of encoders; compare every system with the first one.

For language models, use benchmark_lm.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from pruning import provenance
from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.files import read_json, write_json
from pruning.limits import COUNT, POSITIVE
from pruning.measure.names import BACKENDS

MODULE = "pruning.bin.benchmark"

EXPLANATION = """\
Encoders on noise of one length, including subsampling or front end, and including the head or (exported transducers)
the joiner's encoder projection. Median and 95th percentile over {repeats} rounds; in each round every system runs once,
in a new order. Speed-up and MAC ratio (at 10 s) are relative to {first}
with the same backend and setting; *of it* is speed-up divided by MAC ratio. MiB on disk: the encoder's file (PyTorch:
its tensors). Peak MiB: a separate process with one encoder, libraries included, in the first setting. {processor},
torch {torch}."""


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    add_options(parser, BACKENDS, ["pytorch", "onnx", "int8"])
    parser.add_argument("--batch", nargs="+", type=COUNT.parse, default=[1, 16], help="batch sizes, in utterances")
    parser.add_argument(
        "--seconds", nargs="+", type=POSITIVE.parse, default=[10.0], help="lengths of the utterances, in seconds"
    )
    options = parser.parse_args(argv)

    from pruning.measure import benchmark

    publish(options, argv, MODULE, _measure, benchmark.table, EXPLANATION, "real_time_factor")


def add_options(parser: argparse.ArgumentParser, backends: Sequence[str], default: Sequence[str]) -> None:
    """Add the options of a benchmark, for any kind of network."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--systems",
        nargs="+",
        type=arguments.system,
        action=arguments.Named,
        metavar="NAME=EXP_DIR",
        help="experiments or checkpoints; the first is the dense network, with which the others are compared",
    )
    what.add_argument(
        "--read", type=Path, help="instead of measuring: make the table again from this command's JSON file"
    )
    parser.add_argument(
        "--backends", nargs="+", choices=backends, default=default, help="backends that run the networks"
    )
    parser.add_argument(
        "--threads", nargs="+", type=COUNT.parse, default=[1, 2], help="numbers of threads to measure with"
    )
    parser.add_argument("--repeats", type=COUNT.parse, default=20, help="number of measured rounds")
    parser.add_argument(
        "--no-memory", action="store_true", help="do not measure memory (which starts a process per measurement)"
    )
    parser.add_argument(
        "--export-dir", type=Path, help="keep the exported files in this directory; default: a temporary directory"
    )
    parser.add_argument(
        "--output", type=Path, help="JSON file, required with --systems; the table goes next to it, as .md"
    )
    parser.add_argument("--title", default="Speed", help="heading of the table")


def publish(
    options: argparse.Namespace,
    argv: Optional[Sequence[str]],
    module: str,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    table: Callable[[Sequence[Mapping[str, Any]], str], str],
    explanation: str,
    mark: str,
) -> None:
    """Measure, or read an earlier measurement, and write the results: JSON, a table on the terminal, one in Markdown.

    Args:
        options: parsed options, among them those of `add_options`.
        argv: arguments of the command.
        module: module of the command.
        measure: function that returns ``{"rows": [...]}``.
        table: function that formats the rows as a table, in a style of tabulate.
        explanation: text above the table, with format fields for system, repeats, processor and torch.
        mark: a key that only rows of this command have.

    Raises:
        UserError: --output is missing, has no effect or would be overwritten by the table, or --read names a file of
            another command.
    """
    from pruning.reports import document

    path = _file(options)
    if options.read is None:
        write_json(path, {**measure(options), **provenance.environment(module, argv, "cpu")})
    facts = read_json(path, "measure with --systems first")
    if not isinstance(facts, dict) or mark not in (facts.get("rows") or [{}])[0]:
        raise UserError(f"{path} was not written by this command", "give a JSON file that its --output wrote")
    rows = facts["rows"]
    print(table(rows, "simple"))
    words = explanation.format(
        repeats=rows[0]["repeats"], first=rows[0]["system"], processor=facts["processor"], torch=facts["torch"]
    )
    body = "\n\n".join([words, table(rows, "pipe")])
    document.write_section(path.with_suffix(".md"), options.title, body, module, argv, facts)


def _file(options: argparse.Namespace) -> Path:
    """Return the JSON file to write or to read; the table goes next to it, as .md."""
    path: Optional[Path] = options.output if options.read is None else options.read
    if path is None:
        raise UserError("--systems needs --output", "name a JSON file")
    if options.read is not None and options.output is not None:
        raise UserError("--output has no effect with --read, whose table goes next to its file", "leave it out")
    if path.suffix != ".json":
        raise UserError(f"{'--output' if options.read is None else '--read'} {path} does not end in .json",
                        f"name it {path.with_suffix('.json')}; the table goes next to it, as .md")  # fmt: skip
    return path


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from pruning.measure import benchmark

    settings = [benchmark.Setting(t, b, s) for t in options.threads for b in options.batch for s in options.seconds]
    sources = dict(options.systems)
    with tempfile.TemporaryDirectory() as temporary:
        place = options.export_dir or Path(temporary)
        systems = {name: (benchmark.load(source), place / name) for name, source in sources.items()}
        for model, directory in systems.values():
            benchmark.export(model, directory, options.backends)
        timings = list(benchmark.measure(systems, options.backends, settings, options.repeats))
        memory = {} if options.no_memory else {
            (name, backend): benchmark.peak_memory(sources[name], *systems[name], backend, settings[0])
            for name in systems for backend in options.backends
        }  # fmt: skip
        return benchmark.facts(sources, systems, timings, memory)


if __name__ == "__main__":
    command.run(main)
