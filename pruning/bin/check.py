"""Check the options and settings of a recipe's later commands before the first one runs; reads no data.

Of networks that exist it reads the dimensions, and of those that a command before will train, the configuration.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Optional

from pruning.bin import arguments, command
from pruning.errors import UserError

_END = "---"
_CHECKED = ("train", "import_icefall", "prune", "extract", "finetune", "decode")
_WITH_NETWORKS = ("train", "prune", "decode")
"""Commands that tell of the network that they will write, or ask for the one that they will read."""


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command.

    Raises:
        UserError: a command would reject its options, its configuration or its settings; the message names the stage.
    """
    parser = arguments.parser(__doc__ or "")
    parser.add_argument(
        "words",
        nargs="...",
        metavar=f"STAGE COMMAND ARGUMENT... {_END}",
        help=f"number of a stage, name of its command ({', '.join(_CHECKED)}) and its arguments, each ended by {_END}",
    )
    words = parser.parse_args(argv).words

    from pruning.kinds.expected import Networks

    networks = Networks()
    for stage, name, *rest in _commands(words):
        where = f"stage {stage} ({name})"
        if name not in _CHECKED:
            raise UserError(f"{where} cannot be checked", f"give one of {', '.join(_CHECKED)}")
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                check = importlib.import_module(f"pruning.bin.{name}").check
                check(rest, networks) if name in _WITH_NETWORKS else check(rest)
        except UserError as error:
            raise UserError(f"{where}: {error.what}", error.remedy) from None
        except SystemExit:  # argparse has printed its usage, and in the last line what is wrong
            what = said.getvalue().strip().rpartition("error: ")[2]
            raise UserError(f"{where}: {what}", "correct the option of the recipe that sets it") from None


def _commands(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield the words of each command."""
    for is_end, command_words in groupby(words, lambda word: word == _END):
        if not is_end:
            yield list(command_words)


if __name__ == "__main__":
    command.run(main)
