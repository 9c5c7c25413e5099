"""Prune a trained network: train a copy of the teacher while units are removed until it meets the constraint."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning.bin import arguments, command
from pruning.core.names import RAMPS
from pruning.errors import UserError
from pruning.files import PathLike
from pruning.finished import paths_of
from pruning.methods.names import METHODS, TECHNIQUES

if TYPE_CHECKING:
    from pruning.kinds.expected import Networks
    from pruning.kinds.kind import Kind


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    options = _options(argv)
    record = arguments.record("prune", options, argv)
    if arguments.is_done(record, options):
        return

    from pruning import configuration
    from pruning.deploy.extract import SIZES, extract_snapshots
    from pruning.kinds import train_and_prune
    from pruning.methods.config import note_unused

    kind, config = _settings(options)
    note_unused(config, configuration.read(options.config))
    made = kind(config, arguments.inputs(options))
    ended = train_and_prune.prune(made, options.exp_dir, _teacher(options), options.init)
    if ended.world.is_main:
        extract_snapshots(options.exp_dir)
        written = [options.exp_dir, *Path(options.exp_dir, SIZES).glob("*")]
        record.write([*paths_of(options), *ended.files], written)


def settings(argv: Sequence[str]) -> tuple[type[Kind[Any]], Any]:
    """Return the kind of network and the configuration of a run; read no data."""
    return _settings(_options(argv))


def check(argv: Sequence[str], networks: Networks) -> None:
    """Raise what the command would raise for its options, settings and the teacher's dimensions; read no data."""
    from pruning.methods.choice import new_pruner

    options = _options(argv)
    _, config = _settings(options)
    known = options.teacher is not None and options.init is None and config.counts_from is None
    network = networks.find(options.teacher) if known and config.technique == "structured" else None
    if network is not None:
        new_pruner(network, config, config.trainer.seed)  # raises if a target is beyond reach


def _options(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = arguments.parser(__doc__ or "")
    arguments.add_run(parser)
    parser.add_argument("--method", choices=METHODS, help="pruning method; default: the configuration's, else l0")
    parser.add_argument(
        "--technique",
        choices=TECHNIQUES,
        help="what is removed: units, single weights or rank-1 components; default: the configuration's",
    )
    parser.add_argument(
        "--scheduler", choices=RAMPS, help="schedule of the sparsity target; default: the configuration's"
    )
    parser.add_argument("--teacher", help="checkpoint or experiment directory of the dense network to prune")
    parser.add_argument(
        "--teacher-icefall",
        metavar="EXP_DIR",
        help="instead of --teacher: icefall experiment directory or checkpoint file; "
        "it is first imported into the directory teacher of --exp-dir",
    )
    parser.add_argument(
        "--init",
        help="checkpoint or experiment directory of a network that was pruned and extracted before, to prune it "
        "further; targets still refer to the teacher",
    )
    arguments.add_icefall(parser)
    return arguments.parse_run(parser, argv)


def _settings(options: argparse.Namespace) -> tuple[type[Kind[Any]], Any]:
    from pruning import configuration
    from pruning.methods.config import check_settings

    named = {"method": options.method, "technique": options.technique, "constraint.ramp": options.scheduler}
    overrides = [*options.overrides, *(f"{key}={value}" for key, value in named.items() if value)]
    kind = arguments.kind(options)
    config = configuration.load(kind.pruning, options.config, overrides)
    check_settings(config, options.overrides)
    return kind, config


def _teacher(options: argparse.Namespace) -> PathLike:
    from pruning.experiments.directory import is_done

    if (options.teacher is None) == (options.teacher_icefall is None):
        raise UserError("no teacher given, or two", "give exactly one of --teacher and --teacher-icefall")
    if options.teacher is not None:
        return str(options.teacher)
    place = Path(options.exp_dir) / "teacher"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not is_done(place):
        raise UserError("--teacher-icefall cannot import a teacher with several processes",
                        "run pruning import_icefall first, and give its --exp-dir as --teacher")  # fmt: skip
    arguments.import_icefall(options, options.teacher_icefall, place)
    return place


if __name__ == "__main__":
    command.run(main)
