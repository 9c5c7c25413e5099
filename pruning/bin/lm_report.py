"""Tabulate language models: their perplexity, and their effect on WER and speed of a recogniser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command
from pruning.errors import UserError


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument(
        "--lms",
        nargs="+",
        type=arguments.system,
        action=arguments.Named,
        metavar="NAME=DIR",
        help="experiment directories of language models",
    )
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        type=arguments.system,
        action=arguments.Named,
        metavar="NAME=NAME",
        help="pairs of --lms to compare, in percent of perplexity",
    )
    parser.add_argument(
        "--texts", nargs="+", default=["test"], help="names of the texts that perplexity was measured on"
    )
    parser.add_argument(
        "--systems",
        nargs="*",
        default=[],
        type=arguments.system,
        action=arguments.Named,
        metavar="NAME=DIR",
        help="experiment directories of transducers that were decoded with and without language models",
    )
    parser.add_argument(
        "--rescored",
        nargs="*",
        default=[],
        type=arguments.system,
        action=arguments.Named,
        metavar="NAME=DIR",
        help="directories that pruning.bin.rescore wrote for the n-best lists of one recogniser; the first is the "
        "reference, for example that without language model",
    )
    parser.add_argument("--sets", nargs="+", default=[], help="names of the test sets of --systems and --rescored")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--title", default="Language models", help="heading of the file")
    options = parser.parse_args(argv)
    if not options.lms and not options.systems and not options.rescored:
        raise UserError("neither --lms nor --systems nor --rescored is given", "give at least one of them")
    if options.rescored and not options.sets:
        raise UserError("--rescored needs the names of the test sets", "give --sets")

    from pruning.experiments.measurement import BLOCK
    from pruning.reports import document, language_models

    against = {name: str(other) for name, other in options.against}
    tables = [table for given, table in (
        (options.lms, lambda style: language_models.perplexities(options.lms, options.texts, style, against)),
        (options.systems, lambda style: language_models.decodings(options.systems, options.sets, style)),
        (options.rescored, lambda style: language_models.rescorings(options.rescored, options.sets, style)),
    ) if given]  # fmt: skip
    for table in tables:
        print(f"{table('simple')}\n")
    notes = [*([language_models.NOTE] if options.lms or options.systems else []),
             *([language_models.AGAINST.format(block=BLOCK)] if against else []),
             *([language_models.RESCORED] if options.rescored else [])]  # fmt: skip
    text = "\n\n".join([*notes, *(table("pipe") for table in tables)])
    document.write_section(options.output, options.title, text, "pruning.bin.lm_report", argv)


if __name__ == "__main__":
    command.run(main)
