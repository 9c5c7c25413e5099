"""Options shared by several commands."""

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

_SETTING = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z0-9_]+)*=")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of an option that has one and does not say it itself."""

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        text = action.help or ""
        if action.default in (None, False, []) or "default" in text:
            return action.help
        return super()._get_help_string(action)


def parser(description: str, epilog: str = "") -> argparse.ArgumentParser:
    """Return a parser that shows defaults and accepts no abbreviated options."""
    return argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=_Help,
    )


class Named(argparse.Action):
    """Stores ``NAME=...`` arguments as a list; refuses two of the same name, of which a table could show only one."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Optional[str] = None
    ) -> None:
        """Store the values of an option."""
        names = [name for name, _ in values]
        twice = [name for index, name in enumerate(names) if name in names[:index]]
        if twice:
            raise argparse.ArgumentError(self, f"the name {twice[0]} is given twice")
        setattr(namespace, self.dest, values)


def system(text: str) -> tuple[str, Path]:
    """Parse a ``NAME=DIRECTORY`` argument (an argparse type)."""
    name, separator, directory = text.partition("=")
    if not (name and separator and directory):
        raise argparse.ArgumentTypeError(f"must have the form NAME=DIRECTORY, got {text!r}")
    return name, Path(directory)


def named_words(text: str) -> tuple[str, str]:
    """Parse a ``NAME=WORDS`` argument (an argparse type)."""
    name, separator, words = text.partition("=")
    if not (name and separator and words):
        raise argparse.ArgumentTypeError(f"must have the form NAME=WORDS, got {text!r}")
    return name, words


def boolean(text: str) -> bool:
    """Parse a boolean argument (an argparse type), in any of the words that icefall's programs accept."""
    if text.lower() in ("true", "yes", "t", "y", "1"):
        return True
    if text.lower() in ("false", "no", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")


def check_device(name: str) -> str:
    """Return the name of a device after checking that the device is available.

    Raises:
        UserError: the device is not available.
    """
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"--device {name} is not available ({reason})",
                        "give cpu, or cuda on a machine with a GPU and a CUDA build of torch") from None  # fmt: skip
    return name


def add_data(arguments: argparse.ArgumentParser) -> None:
    """Add the options for training and dev data: cuts, or text for language models."""
    for part, use in (("train", "training"), ("dev", "validation")):
        arguments.add_argument(f"--{part}-cuts", nargs="+", help=f"cut manifests for {use}")
        arguments.add_argument(f"--{part}-text", nargs="+", help=f"text files for {use} of a language model")
    arguments.add_argument("--lang-dir", required=True, help="directory with bpe.model and tokens.txt")


def add_run(arguments: argparse.ArgumentParser) -> None:
    """Add the options of a training run: configuration, experiment directory, data."""
    arguments.add_argument("--config", required=True, help="YAML configuration")
    arguments.add_argument("--exp-dir", required=True, help="experiment directory; an interrupted run in it is resumed")
    add_data(arguments)
    help_text = "override a key of the configuration, for example trainer.seed=2"
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=help_text)


def add_icefall(arguments: argparse.ArgumentParser) -> None:
    """Add the options that choose an icefall checkpoint (named as in icefall) and an icefall checkout."""
    arguments.add_argument(
        "--epoch", type=NATURAL.parse, help="icefall experiment: number N of epoch-N.pt, the last epoch to average"
    )
    arguments.add_argument(
        "--iter",
        type=NATURAL.parse,
        help="instead of --epoch: use checkpoint-N.pt with the largest N up to this; 0: use --epoch",
    )
    arguments.add_argument("--avg", type=COUNT.parse, default=1, help="number of epochs (or checkpoints) to average")
    arguments.add_argument(
        "--use-averaged-model",
        type=boolean,
        default=True,
        metavar="true|false",
        help="average over all steps, from icefall's running averages, not only over the ends of epochs",
    )
    arguments.add_argument(
        "--icefall-dir",
        help="icefall checkout: a reworked Conformer is pruned with the modules of the checkout; "
        "any other Conformer is checked against them",
    )
    arguments.add_argument(
        "--icefall-recipe",
        help="folder of the checkout that contains the encoder's conformer.py; "
        "default: a LibriSpeech recipe, chosen by the experiment's path or the checkpoint's tensors",
    )
    for name, meaning in _OF_ZIPFORMERS.items():
        arguments.add_argument(
            f"--{name}",
            type=counts,
            help=f"of a Zipformer: {meaning}; one number, or one per stack with commas",
        )
    arguments.add_argument(
        "--causal",
        type=boolean,
        metavar="true|false",
        help="of a Zipformer: whether it is causal; default: what the checkpoint's tensors say",
    )


_OF_ZIPFORMERS = {
    "query-head-dim": "dimension of queries and keys of a head (default: as the checkpoint says, or 32)",
    "pos-head-dim": "dimension of positions of a head (default: as the checkpoint says, or 4)",
    "value-head-dim": "dimension of values of a head (default: as the checkpoint says, or 12)",
    "num-heads": "number of heads (default: what the checkpoint's tensors say)",
    "downsampling-factor": "factors of frame rates (default: what the checkpoint's tensors say)",
}


def counts(text: str) -> tuple[int, ...]:
    """Parse whole numbers above 0 with commas between them (an argparse type)."""
    return tuple(int(COUNT.parse(part)) for part in text.split(","))


def import_icefall(options: argparse.Namespace, source: str, exp_dir: Path) -> None:
    """Import the checkpoint of ``source`` that `add_icefall`'s options choose into ``exp_dir``, unless it is there.

    Raises:
        UserError: see `pruning.importers.icefall_teacher.import_experiment`.
    """
    from pruning.importers import icefall_teacher
    from pruning.importers.icefall_checkpoint import Choice
    from pruning.importers.icefall_zipformer import ZipformerOptions

    choice = Choice(options.epoch, options.iter or None, options.avg, options.use_averaged_model)
    checkout = None
    if options.icefall_dir is not None:
        checkout = icefall_teacher.Checkout(options.icefall_dir, options.icefall_recipe)
    names = [name.replace("-", "_") for name in (*_OF_ZIPFORMERS, "causal")]
    given = ZipformerOptions(**{name: getattr(options, name) for name in names})
    icefall_teacher.import_experiment(source, choice, options.lang_dir, exp_dir, checkout, given)


def parse_run(parser: argparse.ArgumentParser, argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """Parse the options of a training run, with ``KEY=VALUE`` settings anywhere among them.

    Without this, an option with several values would also take the settings that follow it.
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
    """Return the arguments of a command: ``argv``, or those of the process if it is None."""
    return sys.argv[1:] if argv is None else argv


def record(program: str, options: argparse.Namespace, argv: Optional[Sequence[str]]) -> Record:
    """Return the record, in ``--exp-dir``, of whether this command has finished: see `pruning.finished`."""
    return Record(options.exp_dir, program, [*words_of(argv), f"WORLD_SIZE={os.environ.get('WORLD_SIZE', '1')}"])


def is_done(known: Record, options: argparse.Namespace) -> bool:
    """Return whether a training command has finished according to its record; log it if so."""
    done = known.holds()
    if done:
        logging.getLogger(__name__).info("%s is already done", options.exp_dir)
    return done


def data_form(options: argparse.Namespace) -> str:
    """Return whether `add_data`'s options name cuts or text.

    Raises:
        UserError: they name both, or only one of training and dev data.
    """
    given = {form: [getattr(options, f"{part}_{form}") for part in ("train", "dev")] for form in (CUTS, TEXT)}
    for form, other in ((CUTS, TEXT), (TEXT, CUTS)):
        if all(given[form]) and not any(given[other]):
            return form
    raise UserError(
        "cannot tell whether to train on cuts or on text",
        "give --train-cuts and --dev-cuts, or --train-text and --dev-text for a language model",
    )


def kind(options: argparse.Namespace) -> type[Kind[Any]]:
    """Return the kind of network that the configuration of a run is for.

    Raises:
        UserError: the kind does not exist, or does not take the data that are given.
    """
    from pruning import configuration
    from pruning.kinds import kind as kinds

    form = data_form(options)
    found = kinds.find(registry.name_for(configuration.read(options.config), form), str(options.config))
    if found.data_form != form:
        raise UserError(f"{options.config} is for {found.called}, which does not train on --train-{form}",
                        f"give --train-{found.data_form} and --dev-{found.data_form}")  # fmt: skip
    return found


def training(options: argparse.Namespace, overrides: Sequence[str]) -> tuple[type[Kind[Any]], Any]:
    """Return the kind of network of a run, see `kind`, and its configuration of training.

    Raises:
        UserError: as for `kind`; or the configuration or an override is wrong.
    """
    from pruning import configuration

    found = kind(options)
    return found, configuration.load(found.training, options.config, overrides)


def inputs(options: argparse.Namespace) -> Inputs:
    """Return the data that `add_data`'s options name."""
    from pruning.kinds.kind import Inputs

    form = data_form(options)
    train, dev = (tuple(getattr(options, f"{part}_{form}")) for part in ("train", "dev"))
    return Inputs(train, dev, options.lang_dir)
