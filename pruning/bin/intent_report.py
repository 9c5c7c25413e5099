"""Tabulate intent classifiers: accuracy with its interval, size, computation, speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--systems", nargs="+", required=True, type=arguments.system, action=arguments.Named,
                        metavar="NAME=DIR", help="experiment directories, one row each per set")  # fmt: skip
    parser.add_argument("--sets", nargs="+", required=True, help="names of test sets")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--title", default="Intents", help="heading of the file")
    options = parser.parse_args(argv)

    from pruning.experiments import checkpoint
    from pruning.reports import document, intents

    print(f"{intents.table(options.systems, options.sets, 'simple')}\n")
    fresh = [
        name
        for name, place in options.systems
        if checkpoint.PRETRAINED not in checkpoint.read_header(checkpoint.file_of(place))
    ]
    parts = [
        *([intents.FRESH.format(names=", ".join(fresh))] if fresh else []),
        intents.NOTE,
        intents.table(options.systems, options.sets),
    ]
    document.write_section(options.output, options.title, "\n\n".join(parts), "pruning.bin.intent_report", argv)


if __name__ == "__main__":
    command.run(main)
