"""Import a network that icefall trained into an experiment directory, as a teacher for any recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    options = _options(argv)
    arguments.import_icefall(options, options.source, Path(options.exp_dir))


def check(argv: Sequence[str]) -> None:
    """Raise what the command would raise for its options; read no network."""
    _options(argv)


def _options(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--source", required=True, help="icefall experiment directory, or one checkpoint file")
    arguments.add_icefall(parser)
    parser.add_argument(
        "--lang-dir", required=True, help="lang dir (data/lang_bpe_*) that the network was trained with"
    )
    parser.add_argument("--exp-dir", required=True, help="experiment directory to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main)
