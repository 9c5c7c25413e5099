"""Dimensions of the same-size uniform network: everything narrowed alike until it costs no more than another."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import Optional

from pruning.bin import arguments, command
from pruning.core.names import COSTS, SIZE
from pruning.errors import UserError
from pruning.files import write_json
from pruning.models.names import NARROW


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--dense", required=True, help="checkpoint or experiment of the network to narrow")
    budgets = parser.add_mutually_exclusive_group(required=True)
    budgets.add_argument("--reference", help="checkpoint or experiment that sets the budget")
    budgets.add_argument("--share", type=float, help="the budget as a share of the dense network's cost")
    parser.add_argument(
        "--narrow",
        choices=NARROW,
        default="units",
        help="what can be pruned (d_model stays), or every dimension (heads and layers stay)",
    )
    parser.add_argument(
        "--cost",
        choices=COSTS,
        default=argparse.SUPPRESS,
        help="what is not to be exceeded; default: what the reference was pruned for, else size",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="audio length at which MACs are counted")
    parser.add_argument("--output", required=True, help="JSON file for python -m pruning.bin.train --model")
    options = parser.parse_args(argv)
    if not 0 < options.seconds < math.inf:
        raise UserError(f"--seconds is {options.seconds}", "give a length above 0")

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
    elif not 0 < options.share <= 1:
        raise UserError(f"--share is {options.share:g}", "give a share of the dense network, above 0 and up to 1")
    else:
        budget = options.share * costs.dense[cost]
    made = kind.narrowed(dense, options.narrow, cost, budget, options.seconds)
    reached = cost_model(made, options.seconds).dense[cost]
    print(f"encoder {cost}: dense {costs.dense[cost]:.0f}, budget {budget:.0f}, uniform {reached:.0f}")
    write_json(options.output, dataclasses.asdict(made.config))


if __name__ == "__main__":
    command.run(main)
