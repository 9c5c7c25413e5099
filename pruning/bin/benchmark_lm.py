"""Measure tokens per second, memory and file size of language models; compare every system with the first one."""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from pruning.bin import arguments, benchmark, command
from pruning.limits import COUNT
from pruning.measure.names import LM_BACKENDS, SCORING, STEPS

EXPLANATION = """\
Language models on random tokens, including the log-probabilities of all tokens of the vocabulary. *Scoring*: whole
sentences of the given number of tokens; *steps*: one more token for each of the given number of histories, with cached
keys and values. Median over {repeats} rounds; in each round every system runs once, in a new order. Speed-up and MAC
ratio (of dense kernels, output layer included) are relative to {first} with the same backend and setting; *of it* is
speed-up divided by MAC ratio. MiB on disk: the file for that work (PyTorch: its tensors). Peak MiB: a separate process
with one network, libraries included, in the first setting of each work. {processor}, torch {torch}."""


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    benchmark.add_options(parser, LM_BACKENDS, LM_BACKENDS)
    works = [SCORING, STEPS]
    parser.add_argument("--work", nargs="+", choices=works, default=works, help="work to measure")
    parser.add_argument(
        "--batch", nargs="+", type=COUNT.parse, default=[1, 16], help="scoring: batch sizes, in sentences"
    )
    parser.add_argument("--tokens", type=COUNT.parse, default=32, help="scoring: tokens in each sentence")
    parser.add_argument("--histories", nargs="+", type=COUNT.parse, default=[4, 64], help="steps: numbers of histories")
    parser.add_argument("--history-tokens", type=COUNT.parse, default=16, help="steps: tokens in each history")
    options = parser.parse_args(argv)

    from pruning.measure import lm_benchmark

    benchmark.publish(options, argv, "pruning.bin.benchmark_lm", _measure, lm_benchmark.table, EXPLANATION,
                      "tokens_per_second")  # fmt: skip


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from pruning.kinds.language_model import LanguageModelKind
    from pruning.measure import lm_benchmark
    from pruning.measure.lm_benchmark import Setting

    given = {SCORING: (options.batch, options.tokens), STEPS: (options.histories, options.history_tokens)}
    settings = [Setting(threads, work, batch, given[work][1])
                for work in options.work for threads in options.threads for batch in given[work][0]]  # fmt: skip
    sources = dict(options.systems)
    with tempfile.TemporaryDirectory() as temporary:
        place = options.export_dir or Path(temporary)
        systems = {name: (LanguageModelKind.load_network(source)[0], place / name) for name, source in sources.items()}
        for model, directory in systems.values():
            lm_benchmark.export(model, directory, options.backends)
        timings = list(lm_benchmark.measure(systems, options.backends, settings, options.repeats))
        firsts = [next(one for one in settings if one.work == work) for work in dict.fromkeys(options.work)]
        memory = {} if options.no_memory else {
            (name, backend, first): lm_benchmark.peak_memory(sources[name], systems[name][1], backend, first)
            for name, backend, first in itertools.product(systems, options.backends, firsts)
        }  # fmt: skip
        return lm_benchmark.facts(sources, systems, timings, memory)


if __name__ == "__main__":
    command.run(main)
