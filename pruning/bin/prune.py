"""Prune a trained network: a copy of the teacher is trained while units go, until it costs what the constraint says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from pruning.bin import arguments, command
from pruning.training import configuration, runs


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    arguments.add_run(parser)
    parser.add_argument("--method", choices=runs.METHODS, help="pruning method; default: the configuration's, else l0")
    parser.add_argument("--teacher", required=True, help="checkpoint or experiment directory of the dense network")
    options = parser.parse_intermixed_args(argv)
    overrides = [*options.overrides, *([f"method={options.method}"] if options.method else [])]
    config = configuration.load(runs.PruneConfig, options.config, overrides)
    runs.prune(config, arguments.inputs(options), options.exp_dir, options.teacher)


if __name__ == "__main__":
    command.run(main)
