"""Tabulate the results of several systems, from the files that decoding and training wrote."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.bin.arguments import Named, named_words, system
from pruning.errors import UserError
from pruning.files import read_text, write_text
from pruning.limits import COUNT
from pruning.speech.decoding.config import SETTINGS

logger = logging.getLogger(__name__)
_REMEDY = "write it with --output of pruning.bin.describe or plan"


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--systems",
        nargs="+",
        type=system,
        action=Named,
        required=True,
        metavar="NAME=EXP_DIR",
        help="rows of the table",
    )
    parser.add_argument("--sets", nargs="+", required=True, help="test sets, e.g. test-clean test-other")
    parser.add_argument(
        "--method", nargs="+", choices=list(SETTINGS), required=True, help="decoding methods, one table each"
    )
    parser.add_argument(
        "--epoch", type=COUNT.parse, help="use decodings with the checkpoint of this epoch, not with the best on dev"
    )
    parser.add_argument(
        "--avg", type=COUNT.parse, help="use decodings with the average of this many epochs, ending with --epoch"
    )
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write, e.g. RESULTS.md")
    parser.add_argument(
        "--append",
        type=Path,
        nargs="*",
        default=[],
        help="Markdown files to append, e.g. those of describe, plan or compare",
    )
    parser.add_argument(
        "--legend",
        nargs="*",
        type=named_words,
        action=Named,
        default=[],
        metavar="NAME=WORDS",
        help="what rows are, in words",
    )
    parser.add_argument("--title", default="Results", help="heading of the file")
    parser.add_argument(
        "--measurements-only",
        action="store_true",
        help="read directories that keep only model.json and the measurements of decodings, not their transcripts",
    )
    arguments = parser.parse_args(argv)

    from pruning.reports import report
    from pruning.reports.document import TERMINAL

    weights = {"epoch": arguments.epoch, "avg": arguments.avg}
    texts = not arguments.measurements_only
    methods = {
        name: report.collect(arguments.systems, arguments.sets, name, **weights, texts=texts)
        for name in arguments.method
    }
    if not any(methods.values()):
        names, tried = ", ".join(name for name, _ in arguments.systems), " or ".join(arguments.method)
        asked = ", ".join(f"--{option} {value}" for option, value in weights.items() if value is not None)
        what = f"none of {names} was decoded with {tried}, {asked or 'the best checkpoint'}"
        raise UserError(what, "run the decoding stage with the same --epoch and --avg first")
    for method, systems in methods.items():
        missing = [name for name, _ in arguments.systems if name not in {system.name for system in systems}]
        if missing:
            logger.warning("%s: not in the table because not decoded: %s", method, ", ".join(missing))
        if systems:
            table = report.table(systems, arguments.sets, TERMINAL)
            print(f"{method}\n{table}\n\n{report.load_note(systems)}\n")
    sections = [read_text(path, _REMEDY) for path in arguments.append]
    legend = dict(arguments.legend)
    write_text(arguments.output, report.document(methods, arguments.sets, arguments.title, sections, legend))
    logger.info("wrote %s", arguments.output)


if __name__ == "__main__":
    command.run(main)
