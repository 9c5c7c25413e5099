"""Write a self-contained HTML page about a pruned network, and a PNG of its structure next to it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command
from pruning.files import atomic_path, read_json, write_text
from pruning.speech.decoding.config import SETTINGS


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument(
        "--systems",
        nargs="+",
        type=arguments.system,
        required=True,
        metavar="NAME=EXP_DIR",
        help="rows of the table, for example the teacher and the pruned network",
    )
    parser.add_argument("--sets", nargs="+", required=True, help="test sets, e.g. test-clean test-other")
    parser.add_argument("--method", choices=list(SETTINGS), default="greedy_search", help="decoding method")
    parser.add_argument(
        "--structure",
        type=Path,
        required=True,
        help="experiment directory of the extracted network, whose structure is drawn",
    )
    parser.add_argument(
        "--runs",
        nargs="*",
        type=arguments.system,
        default=argparse.SUPPRESS,
        metavar="NAME=EXP_DIR",
        help="training runs whose curves are drawn; default: those of --systems",
    )
    parser.add_argument("--plot", type=Path, help="PNG of pruning.bin.compare to include")
    parser.add_argument("--output", type=Path, required=True, help="HTML file to write")
    parser.add_argument("--title", default="A pruned network", help="heading of the page")
    options = parser.parse_args(argv)

    from pruning.core.structure import Structure
    from pruning.reports import pictures
    from pruning.reports.page import page

    runs = dict(getattr(options, "runs", None) or options.systems)
    text = page(options.systems, options.sets, options.method, options.structure, runs, plot=options.plot,
                title=options.title)  # fmt: skip
    write_text(options.output, text)
    structure = Structure.from_dict(read_json(options.structure / "structure.json"))
    with atomic_path(options.output.with_suffix(".png")) as temporary:
        temporary.write_bytes(pictures.structure_picture(structure, options.title))
    print(f"wrote {options.output} and {options.output.with_suffix('.png')}")


if __name__ == "__main__":
    command.run(main)
