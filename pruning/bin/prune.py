"""Prune a trained network: a copy of the teacher is trained while units go, until it costs what the constraint says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from pruning.bin import arguments, command
from pruning.core.constraint import RAMPS
from pruning.training import configuration, runs


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    arguments.add_run(parser)
    parser.add_argument("--method", choices=runs.METHODS, help="pruning method; default: the configuration's, else l0")
    parser.add_argument("--technique", choices=runs.TECHNIQUES,
                        help="what goes: units, single weights or rank-1 components; default: the configuration's")
    parser.add_argument("--scheduler", choices=RAMPS, help="how the target is come to; default: the configuration's")
    parser.add_argument("--teacher", required=True, help="checkpoint or experiment directory of the dense network")
    options = arguments.parse_run(parser, argv)
    named = {"method": options.method, "technique": options.technique, "constraint.ramp": options.scheduler}
    overrides = [*options.overrides, *(f"{key}={value}" for key, value in named.items() if value)]
    config = configuration.load(arguments.recipe(options).PruneConfig, options.config, overrides)
    arguments.recipe(options).RECIPE(config, arguments.inputs(options)).prune(options.exp_dir, options.teacher)


if __name__ == "__main__":
    command.run(main)
