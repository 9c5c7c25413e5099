"""Dimensions of the same-size uniform network: every unit group narrowed alike until it is not larger than another."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, Optional

from pruning.bin import arguments, command
from pruning.core.cost import COSTS, SIZE
from pruning.core.uniform import uniform_structure
from pruning.errors import UserError
from pruning.files import write_json
from pruning.models.transducer import Transducer
from pruning.training import checkpoint
from pruning.training.facts import cost_model


def _transducer(source: str) -> Transducer:
    model, header = checkpoint.load_model(source)
    if not isinstance(model, Transducer):
        raise UserError(f"{source} holds a {header['model']['type']}", "give a transducer's checkpoint")
    return model


def _header(source: str) -> checkpoint.Header:
    return checkpoint.read_header(checkpoint.file_of(source))


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--dense", required=True, help="checkpoint or experiment of the network to narrow")
    budgets = parser.add_mutually_exclusive_group(required=True)
    budgets.add_argument("--reference", help="checkpoint or experiment that sets the budget")
    budgets.add_argument("--share", type=float, help="the budget as a share of the dense network's cost")
    parser.add_argument("--cost", choices=COSTS, default=argparse.SUPPRESS,
                        help="what is not to be exceeded; default: what the reference was pruned for, else size")
    parser.add_argument("--seconds", type=float, default=10.0, help="audio length at which MACs are counted")
    parser.add_argument("--output", required=True, help="JSON file for python -m pruning.bin.train --model")
    options = parser.parse_args(argv)
    dense = _transducer(options.dense)
    costs = cost_model(dense, options.seconds)
    targets = {} if options.reference is None else _header(options.reference).get("targets", {})
    cost = getattr(options, "cost", next((name for name in COSTS if name in targets), SIZE))
    if options.reference is not None:
        budget = cost_model(_transducer(options.reference), options.seconds).dense[cost]
    elif not 0 < options.share <= 1:
        raise UserError(f"--share is {options.share:g}", "give a share of the dense network, above 0 and up to 1")
    else:
        budget = options.share * costs.dense[cost]
    structure = uniform_structure(dense.unit_groups(), costs, cost, budget)
    reached = costs.structure_cost(structure)[cost]
    print(f"encoder {cost}: dense {costs.dense[cost]:.0f}, budget {budget:.0f}, uniform {reached:.0f}")
    config: dict[str, Any] = dataclasses.asdict(dense.shrink(structure).config)
    write_json(options.output, config)


if __name__ == "__main__":
    command.run(main)
