"""Train a network on cuts, or a language model on text: from scratch or from --init, with or without a teacher."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Optional

from pruning.bin import arguments, command
from pruning.files import read_json
from pruning.finished import paths_of


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    arguments.add_run(parser)
    parser.add_argument("--model", help="JSON file with the network's dimensions (written by pruning.bin.uniform)")
    parser.add_argument("--init", help="checkpoint or experiment directory to start from")
    parser.add_argument("--teacher", help="checkpoint or experiment directory to distil from (see distillation.*)")
    parser.add_argument(
        "--inherit",
        help="checkpoint or experiment directory of a network whose decoder, joiner and heads a fresh network takes "
        "over where they have the same shape",
    )
    parser.add_argument(
        "--steps-of",
        nargs="+",
        metavar="EXP_DIR",
        help="train for as many steps as these finished experiments took together: an equal further budget",
    )
    options = arguments.parse_run(parser, argv)
    record = arguments.record("train", options, argv)
    if arguments.is_done(record, options):
        return

    from pruning import configuration
    from pruning.experiments import directory
    from pruning.kinds import train_and_prune

    overrides: list[str] = list(options.overrides)
    if options.model is not None:
        dimensions: Any = read_json(options.model, "write it with python -m pruning.bin.uniform")
        overrides.insert(0, f"model={json.dumps(dimensions)}")
    if options.steps_of:
        overrides.append(f"trainer.max_steps={sum(map(directory.steps_of, options.steps_of))}")
    kind = arguments.kind(options)
    config = configuration.load(kind.training, options.config, overrides)
    made = kind(config, arguments.inputs(options))
    ended = train_and_prune.train(made, options.exp_dir, options.init, options.teacher, options.inherit)
    if ended.world.is_main:
        record.write([*paths_of(options), *ended.files], [options.exp_dir])


if __name__ == "__main__":
    command.run(main)
