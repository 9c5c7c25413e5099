"""Show a report on a terminal: its tables, split to fit the width, without commands and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command
from pruning.files import read_text


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("results", type=Path, help="Markdown file of a report, e.g. RESULTS.md")
    options = parser.parse_args(argv)

    from pruning.reports import terminal

    print(terminal.shown(read_text(options.results, "make it with the last stage of a recipe")), end="")


if __name__ == "__main__":
    command.run(main)
