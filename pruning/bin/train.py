"""Train a network on cuts, or a language model on text: from scratch or from --init, with or without a teacher."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from pruning.bin import arguments, command
from pruning.files import read_json
from pruning.finished import paths_of

if TYPE_CHECKING:
    from pruning.kinds.expected import Networks
    from pruning.kinds.kind import Kind


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    options = _options(argv)
    record = arguments.record("train", options, argv)
    if arguments.is_done(record, options):
        return

    from pruning.kinds import train_and_prune

    kind, config = _settings(options)
    made = kind(config, arguments.inputs(options))
    ended = train_and_prune.train(made, options.exp_dir, options.init, options.teacher, options.inherit)
    if ended.world.is_main:
        record.write([*paths_of(options), *ended.files], [options.exp_dir])


def settings(argv: Sequence[str]) -> tuple[type[Kind[Any]], Any]:
    """Return the kind of network and the configuration of a run; read no data."""
    return _settings(_options(argv))


def check(argv: Sequence[str], networks: Networks) -> None:
    """Raise what the command would raise for its options and settings; read no data. Note what it will write."""
    options = _options(argv)
    networks.plan(options.exp_dir, *_settings(options), options.init)


def _options(argv: Optional[Sequence[str]]) -> argparse.Namespace:
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
    return arguments.parse_run(parser, argv)


def _settings(options: argparse.Namespace) -> tuple[type[Kind[Any]], Any]:
    from pruning.experiments import directory

    overrides: list[str] = list(options.overrides)
    if options.model is not None:
        dimensions: Any = read_json(options.model, "write it with python -m pruning.bin.uniform")
        overrides.insert(0, f"model={json.dumps(dimensions)}")
    if options.steps_of:
        overrides.append(f"trainer.max_steps={sum(map(directory.steps_of, options.steps_of))}")
    return arguments.training(options, overrides)


if __name__ == "__main__":
    command.run(main)
