"""Measure what kept units take on this processor: the table that constraint.latency_table names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from pruning import provenance
from pruning.bin import arguments, command
from pruning.files import write_json
from pruning.limits import COUNT, POSITIVE, Range
from pruning.measure.names import BACKENDS, PYTORCH


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--network", required=True, help="checkpoint or experiment of the network to be pruned")
    parser.add_argument("--output", required=True, help="JSON file")
    parser.add_argument("--backend", choices=BACKENDS, default=PYTORCH, help="what will run it")
    parser.add_argument("--threads", type=COUNT.parse, default=1, help="threads")
    parser.add_argument("--batch", type=COUNT.parse, default=1, help="utterances at once")
    parser.add_argument("--seconds", type=POSITIVE.parse, default=10.0, help="length of each")
    parser.add_argument(
        "--points",
        type=Range(int, least=2).parse,
        default=5,
        help="measured shares of each kind, none and all among them",
    )
    parser.add_argument("--repeats", type=COUNT.parse, default=15, help="rounds")
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
    print(tabulate(rows, headers=["ms at a share of", *shares], disable_numparse=True))
    print(f"the rest {1000 * table.rest:.2f} ms, all of it {1000 * table.setting['dense_seconds']:.2f} ms")


if __name__ == "__main__":
    command.run(main)
