"""Options that several commands share."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning import registry
from pruning.errors import UserError
from pruning.finished import Record
from pruning.limits import COUNT, NATURAL
from pruning.registry import CUTS, TEXT

if TYPE_CHECKING:
    from pruning.kinds.kind import Inputs, Kind

_SETTING = re.compile(r"[a-z_]+(\.[a-z0-9_]+)*=")


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


def boolean(text: str) -> bool:
    """The type of an argument that is true or false, in any of the words that icefall's programs take."""
    if text.lower() in ("true", "yes", "t", "y", "1"):
        return True
    if text.lower() in ("false", "no", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def check_device(name: str) -> str:
    """The name of a device, after checking that it is there.

    Raises:
        UserError: it is not.
    """
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"--device {name} is not available ({reason})",
                        "give cpu, or cuda on a machine with a GPU and a torch made for it") from None  # fmt: skip
    return name


def add_data(arguments: argparse.ArgumentParser) -> None:
    """Options of the training and dev data: cuts for transducers, or text for language models."""
    for part, use in (("train", "training"), ("dev", "validation")):
        arguments.add_argument(f"--{part}-cuts", nargs="+", help=f"cut manifests with features, for {use}")
        arguments.add_argument(f"--{part}-text", nargs="+", help=f"text, for {use} of a language model")
    arguments.add_argument("--lang-dir", required=True, help="directory with bpe.model and tokens.txt")


def add_run(arguments: argparse.ArgumentParser) -> None:
    """Options of a training run: its configuration, its directory, its data."""
    arguments.add_argument("--config", required=True, help="YAML configuration")
    arguments.add_argument("--exp-dir", required=True, help="experiment directory; an interrupted run there is resumed")
    add_data(arguments)
    help_text = "override the configuration: trainer.seed=2"
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=help_text)


def add_icefall(arguments: argparse.ArgumentParser) -> None:
    """Options that choose a checkpoint of icefall's, in its words, and its checkout."""
    arguments.add_argument(
        "--epoch", type=NATURAL.parse, help="of icefall's experiment: epoch-N.pt, the last to average"
    )
    arguments.add_argument(
        "--iter", type=NATURAL.parse, help="instead: checkpoint-N.pt of the largest N up to this; 0: none"
    )
    arguments.add_argument("--avg", type=COUNT.parse, default=1, help="epochs, or checkpoints, to average")
    arguments.add_argument(
        "--use-averaged-model",
        type=boolean,
        default=True,
        metavar="true|false",
        help="average all moments that icefall's running average saw, not the ends of epochs",
    )
    arguments.add_argument(
        "--icefall-dir",
        help="checkout of icefall: a reworked Conformer keeps its own modules "
        "while it is pruned, any other is checked against them",
    )
    arguments.add_argument(
        "--icefall-recipe",
        help="folder of the checkout that holds the encoder's conformer.py; "
        "default: LibriSpeech's, by the experiment's place or the checkpoint's form",
    )


def import_icefall(options: argparse.Namespace, source: str, exp_dir: Path) -> None:
    """Bring what `add_icefall`'s options choose of ``source`` into ``exp_dir``, if it is not there.

    Raises:
        UserError: see `pruning.importers.icefall_teacher.import_experiment`.
    """
    from pruning.importers import icefall_teacher
    from pruning.importers.icefall_checkpoint import Choice

    choice = Choice(options.epoch, options.iter or None, options.avg, options.use_averaged_model)
    checkout = None
    if options.icefall_dir is not None:
        checkout = icefall_teacher.Checkout(options.icefall_dir, options.icefall_recipe)
    icefall_teacher.import_experiment(source, choice, options.lang_dir, exp_dir, checkout)


def parse_run(parser: argparse.ArgumentParser, argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """Parse the options of a training run. Settings may stand anywhere: options that take several values, which come
    before them, would keep them otherwise.
    """
    options = parser.parse_intermixed_args(argv)
    for name, values in vars(options).items():
        if name == "overrides" or not isinstance(values, list):
            continue
        settings = [value for value in values if _SETTING.match(value) and not Path(value).exists()]
        options.overrides.extend(settings)
        setattr(options, name, [value for value in values if value not in settings])
    return options


def words_of(argv: Optional[Sequence[str]]) -> Sequence[str]:
    """The arguments of a command; None: those of the process."""
    return sys.argv[1:] if argv is None else argv


def record(program: str, options: argparse.Namespace, argv: Optional[Sequence[str]]) -> Record:
    """That a command has ended well, in its ``--exp-dir``: see `pruning.finished`."""
    return Record(options.exp_dir, program, [*words_of(argv), f"WORLD_SIZE={os.environ.get('WORLD_SIZE', '1')}"])


def is_done(known: Record, options: argparse.Namespace) -> bool:
    """Whether the record of a training command says that it is done; then say so."""
    done = known.holds()
    if done:
        logging.getLogger(__name__).info("%s is done already", options.exp_dir)
    return done


def data_form(options: argparse.Namespace) -> str:
    """Whether `add_data`'s options name cuts or text.

    Raises:
        UserError: they name both, or one of them for training alone.
    """
    given = {form: [getattr(options, f"{part}_{form}") for part in ("train", "dev")] for form in (CUTS, TEXT)}
    for form, other in ((CUTS, TEXT), (TEXT, CUTS)):
        if all(given[form]) and not any(given[other]):
            return form
    raise UserError(
        "the data are not clear",
        "give --train-cuts and --dev-cuts, or --train-text and --dev-text for a language model",
    )


def kind(options: argparse.Namespace) -> type[Kind[Any]]:
    """The kind of network that the configuration of a run is for.

    Raises:
        UserError: there is no such kind, or it takes other data.
    """
    from pruning import configuration
    from pruning.kinds import kind as kinds

    form = data_form(options)
    found = kinds.find(registry.name_for(configuration.read(options.config), form), str(options.config))
    if found.data_form != form:
        raise UserError(f"{options.config} is for {found.called}, and --train-{form} is given",
                        f"give --train-{found.data_form} and --dev-{found.data_form}")  # fmt: skip
    return found


def inputs(options: argparse.Namespace) -> Inputs:
    """The data that `add_data`'s options name."""
    from pruning.kinds.kind import Inputs

    form = data_form(options)
    train, dev = (tuple(getattr(options, f"{part}_{form}")) for part in ("train", "dev"))
    return Inputs(train, dev, options.lang_dir)
