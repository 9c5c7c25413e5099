"""Fine-tune an extracted network with its structure fixed, and with distillation from the teacher if one is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from pruning.bin import arguments, command
from pruning.finished import paths_of


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    arguments.add_run(parser)
    parser.add_argument("--init", required=True, help="checkpoint or experiment directory of the extracted network")
    parser.add_argument("--teacher", help="checkpoint or experiment directory to distil from (see distillation.*)")
    options = arguments.parse_run(parser, argv)
    record = arguments.record("finetune", options, argv)
    if arguments.is_done(record, options):
        return

    from pruning import configuration
    from pruning.kinds import train_and_prune

    kind = arguments.kind(options)
    config = configuration.load(kind.training, options.config, options.overrides)
    made = kind(config, arguments.inputs(options))
    ended = train_and_prune.train(made, options.exp_dir, options.init, options.teacher)
    if ended.world.is_main:
        record.write([*paths_of(options), *ended.files], [options.exp_dir])


if __name__ == "__main__":
    command.run(main)
