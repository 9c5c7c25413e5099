"""Dimensions of the same-size uniform network: everything narrowed alike until it costs no more than another."""

from __future__ import annotations

import argparse
import bisect
import dataclasses
from collections.abc import Sequence
from typing import Optional

from pruning.bin import arguments, command
from pruning.core.cost import COSTS, SIZE, CostModel
from pruning.core.uniform import uniform_structure
from pruning.errors import UserError
from pruning.files import write_json
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.training import checkpoint
from pruning.training.facts import cost_model


def _transducer(source: str) -> Transducer:
    model, header = checkpoint.load_model(source)
    if not isinstance(model, Transducer):
        raise UserError(f"{source} holds a {header['model']['type']}", "give a transducer's checkpoint")
    return model


def _header(source: str) -> checkpoint.Header:
    return checkpoint.read_header(checkpoint.file_of(source))


def _by_units(dense: Transducer, costs: CostModel, cost: str, budget: float) -> TransducerConfig:
    """What can be pruned is narrowed; the residual stream keeps its dimension."""
    return dense.shrink(uniform_structure(dense.unit_groups(), costs, cost, budget)).config


def _by_width(dense: Transducer, seconds: float, cost: str, budget: float) -> TransducerConfig:
    """The residual stream and every width with it, as wide as the budget allows; what is left goes to the FFNs."""
    encoder = dense.config.encoder

    def scaled(pairs: int, hidden: int = 0) -> TransducerConfig:
        narrow = encoder.scaled(2 * pairs)
        macaron, ffn = ([value + hidden if value else 0 for value in of] for of in (narrow.macaron_dim, narrow.ffn_dim))
        narrow = dataclasses.replace(narrow, macaron_dim=tuple(macaron), ffn_dim=tuple(ffn))
        return dataclasses.replace(dense.config, encoder=narrow)

    def beyond(config: TransducerConfig) -> bool:
        return cost_model(Transducer(config), seconds).dense[cost] > budget

    pairs = bisect.bisect_left(range(1, encoder.d_model // 2 + 1), True, key=lambda count: beyond(scaled(count)))
    if pairs == 0:
        raise UserError(f"no network of this depth costs {budget:.0f} in {cost}", "compare at a lower sparsity")
    room = max(encoder.macaron_dim + encoder.ffn_dim)
    return scaled(pairs, bisect.bisect_left(range(1, room), True, key=lambda hidden: beyond(scaled(pairs, hidden))))


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--dense", required=True, help="checkpoint or experiment of the network to narrow")
    budgets = parser.add_mutually_exclusive_group(required=True)
    budgets.add_argument("--reference", help="checkpoint or experiment that sets the budget")
    budgets.add_argument("--share", type=float, help="the budget as a share of the dense network's cost")
    parser.add_argument("--narrow", choices=("units", "width"), default="units",
                        help="what can be pruned (d_model stays), or every dimension (heads and layers stay)")
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
    if options.narrow == "units":
        config = _by_units(dense, costs, cost, budget)
    else:
        config = _by_width(dense, options.seconds, cost, budget)
    reached = cost_model(Transducer(config), options.seconds).dense[cost]
    print(f"encoder {cost}: dense {costs.dense[cost]:.0f}, budget {budget:.0f}, uniform {reached:.0f}")
    write_json(options.output, dataclasses.asdict(config))


if __name__ == "__main__":
    command.run(main)
