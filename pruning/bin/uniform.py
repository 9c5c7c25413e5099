"""Write the dimensions of a uniform network: narrowed evenly everywhere until it costs no more than the budget."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Optional

from pruning.bin import arguments, command
from pruning.core.names import COSTS, SIZE
from pruning.files import write_json
from pruning.limits import POSITIVE, Range
from pruning.models.names import NARROW


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--dense", required=True, help="checkpoint or experiment directory of the network to narrow")
    budgets = parser.add_mutually_exclusive_group(required=True)
    budgets.add_argument(
        "--reference", help="checkpoint or experiment directory of the network whose cost is the budget"
    )
    budgets.add_argument(
        "--share", type=Range(above=0, most=1).parse, help="budget as a share of the dense network's cost"
    )
    parser.add_argument(
        "--narrow",
        choices=NARROW,
        default="units",
        help="units: narrow what can be pruned, keep d_model; width: narrow all widths, keep heads and layers; "
        "depth: keep the first layers",
    )
    parser.add_argument(
        "--cost",
        choices=COSTS,
        default=argparse.SUPPRESS,
        help="cost that must not exceed the budget; default: the one the reference was pruned for, else size",
    )
    parser.add_argument(
        "--seconds", type=POSITIVE.parse, default=10.0, help="length of audio for which MACs are counted"
    )
    parser.add_argument("--output", required=True, help="JSON file to write, for python -m pruning.bin.train --model")
    options = parser.parse_args(argv)

    from pruning.kinds import kind as kinds
    from pruning.models.facts import cost_model

    kind, dense, _ = kinds.load(options.dense)
    costs = cost_model(dense, options.seconds)
    reference, targets = None, {}
    if options.reference is not None:
        reference, header = kind.load_network(options.reference)
        targets = header.get("targets", {})
    cost = getattr(options, "cost", next((name for name in COSTS if name in targets), SIZE))
    if reference is not None:
        budget = cost_model(reference, options.seconds).dense[cost]
    else:
        budget = options.share * costs.dense[cost]
    made = kind.narrowed(dense, options.narrow, cost, budget, options.seconds)
    reached = cost_model(made, options.seconds).dense[cost]
    print(f"encoder {cost}: dense {costs.dense[cost]:.0f}, budget {budget:.0f}, uniform {reached:.0f}")
    write_json(options.output, dataclasses.asdict(made.config))


if __name__ == "__main__":
    command.run(main)
