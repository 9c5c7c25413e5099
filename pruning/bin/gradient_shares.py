"""Print how strongly each distillation term pulls at the parts of a network, as a share of the task's gradient.

The terms have the weights of the configuration, that of pruning or of fine-tuning; a share is proportional to the
weight of its term.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Optional

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.limits import COUNT


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--config", required=True, help="YAML configuration of pruning or of fine-tuning")
    parser.add_argument(
        "--init", required=True, help="checkpoint or experiment directory of a pruning run or of an extracted network"
    )
    parser.add_argument("--teacher", required=True, help="checkpoint or experiment directory to distil from")
    parser.add_argument("--batches", type=COUNT.parse, default=8, help="number of training batches")
    arguments.add_data(parser)
    help_text = "override a key of the configuration, for example distillation.layer_weight=1"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=help_text)
    options = arguments.parse_run(parser, argv)

    from tabulate import tabulate

    from pruning import configuration
    from pruning.measure import gradient_shares
    from pruning.training import distributed

    kind = arguments.kind(options)
    prunes = "constraint" in configuration.read(options.config)
    config = configuration.load(kind.pruning if prunes else kind.training, options.config, options.overrides)
    made = kind(config, arguments.inputs(options))
    if not made.wants_teacher():
        raise UserError(f"{options.config} distils nothing", "give the weights of 'distillation' values above 0")
    network = gradient_shares.student(made, options.init)
    made.check(network)
    world = distributed.initialise(config.trainer.device)
    task = made.task(network.train(), made.teacher(options.teacher)).to(world.device)
    batches = map(world.take, itertools.islice(made.first_batches(), options.batches))
    norms = gradient_shares.gradient_norms(task, batches, made.parts(), made.seed)
    if not norms:
        raise UserError("there are no training batches", "check the training data and their filters")
    headers, rows = gradient_shares.table(norms)
    print(tabulate(rows, headers, colalign=["left"] + ["right"] * (len(headers) - 1), disable_numparse=True))


if __name__ == "__main__":
    command.run(main)
