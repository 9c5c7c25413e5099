"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from pruning.training.runs import Inputs


def parser(description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser that shows defaults and takes no abbreviations."""
    return argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def system(text: str) -> tuple[str, Path]:
    """The type of a ``NAME=DIRECTORY`` argument."""
    name, separator, directory = text.partition("=")
    if not (name and separator and directory):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=DIRECTORY")
    return name, Path(directory)


def add_data(arguments: argparse.ArgumentParser) -> None:
    """Options of the training and dev data."""
    arguments.add_argument("--train-cuts", nargs="+", required=True, help="cut manifests with features, for training")
    arguments.add_argument("--dev-cuts", nargs="+", required=True, help="cut manifests with features, for validation")
    arguments.add_argument("--lang-dir", required=True, help="directory with bpe.model and tokens.txt")


def add_run(arguments: argparse.ArgumentParser) -> None:
    """Options of a training run: its configuration, its directory, its data."""
    arguments.add_argument("--config", required=True, help="YAML configuration")
    arguments.add_argument("--exp-dir", required=True, help="experiment directory; an interrupted run there is resumed")
    add_data(arguments)
    help_text = "override the configuration: trainer.seed=2"
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=help_text)


def inputs(options: argparse.Namespace) -> Inputs:
    """The data that `add_data`'s options name."""
    return Inputs(tuple(options.train_cuts), tuple(options.dev_cuts), options.lang_dir)
