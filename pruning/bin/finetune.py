"""Fine-tune an extracted network: its structure is fixed, distillation from the teacher goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from pruning import configuration
from pruning.bin import arguments, command


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    arguments.add_run(parser)
    parser.add_argument("--init", required=True, help="checkpoint or experiment directory of the extracted network")
    parser.add_argument("--teacher", help="checkpoint or experiment directory to learn from (see distillation.*)")
    options = arguments.parse_run(parser, argv)
    config = configuration.load(arguments.recipe(options).RunConfig, options.config, options.overrides)
    recipe = arguments.recipe(options).RECIPE(config, arguments.inputs(options))
    recipe.train(options.exp_dir, options.init, options.teacher)


if __name__ == "__main__":
    command.run(main)
