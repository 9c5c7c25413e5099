"""Fine-tune an extracted network with its structure fixed, and with distillation from the teacher if one is given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from pruning.bin import arguments, command
from pruning.finished import paths_of

if TYPE_CHECKING:
    from pruning.kinds.kind import Kind


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    options = _options(argv)
    record = arguments.record("finetune", options, argv)
    if arguments.is_done(record, options):
        return

    from pruning.kinds import train_and_prune

    kind, config = arguments.training(options, options.overrides)
    made = kind(config, arguments.inputs(options))
    ended = train_and_prune.train(made, options.exp_dir, options.init, options.teacher)
    if ended.world.is_main:
        record.write([*paths_of(options), *ended.files], [options.exp_dir])


def settings(argv: Sequence[str]) -> tuple[type[Kind[Any]], Any]:
    """Return the kind of network and the configuration of a run; read no data."""
    options = _options(argv)
    return arguments.training(options, options.overrides)


def check(argv: Sequence[str]) -> None:
    """Raise what the command would raise for its options and settings; read no data."""
    settings(argv)


def _options(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = arguments.parser(__doc__ or "")
    arguments.add_run(parser)
    parser.add_argument("--init", required=True, help="checkpoint or experiment directory of the extracted network")
    parser.add_argument("--teacher", help="checkpoint or experiment directory to distil from (see distillation.*)")
    return arguments.parse_run(parser, argv)


if __name__ == "__main__":
    command.run(main)
