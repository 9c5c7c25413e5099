"""Measure the latency of kept units on this processor, and write the table for constraint.latency_table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from pruning import provenance
from pruning.bin import arguments, command
from pruning.files import write_json
from pruning.limits import COUNT, POSITIVE, Range
from pruning.measure.names import BACKENDS, PYTORCH


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--network", required=True, help="checkpoint or experiment directory of the network to prune")
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument("--backend", choices=BACKENDS, default=PYTORCH, help="backend that will run the pruned network")
    parser.add_argument("--threads", type=COUNT.parse, default=1, help="number of threads")
    parser.add_argument("--batch", type=COUNT.parse, default=1, help="batch size, in utterances")
    parser.add_argument("--seconds", type=POSITIVE.parse, default=10.0, help="length of the utterances, in seconds")
    parser.add_argument(
        "--points",
        type=Range(int, least=2).parse,
        default=5,
        help="number of kept shares to measure for each unit kind, including none and all",
    )
    parser.add_argument("--repeats", type=COUNT.parse, default=15, help="number of measured rounds")
    options = parser.parse_args(argv)

    from tabulate import tabulate

    from pruning.kinds.transducer import TransducerKind
    from pruning.measure import benchmark, latency

    setting = benchmark.Setting(options.threads, options.batch, options.seconds)
    table = latency.measure_encoder(
        TransducerKind.load_network(options.network)[0], setting, options.backend, options.points, options.repeats
    )
    write_json(options.output, {**table.to_dict(), **provenance.environment("pruning.bin.latency", argv, "cpu")})
    shares = [f"{index / (options.points - 1):.2f}" for index in range(options.points)]
    rows = [[kind, *(f"{1000 * value:.2f}" for value in values)] for kind, values in table.kinds.items()]
    print(tabulate(rows, headers=["ms at kept share", *shares], disable_numparse=True))
    print(f"rest {1000 * table.rest:.2f} ms, dense network {1000 * table.setting['dense_seconds']:.2f} ms")


if __name__ == "__main__":
    command.run(main)
