"""Tabulate the contents of cut manifests: utterances, speakers, hours, words, tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command

logger = logging.getLogger(__name__)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--cuts", type=Path, nargs="+", required=True, help="cut manifests, one row each")
    parser.add_argument("--lang-dir", type=Path, help="lang dir; if given, count tokens with its bpe.model")
    parser.add_argument("--output", type=Path, help="Markdown file, e.g. data/statistics.md")
    parser.add_argument("--title", default="Data", help="heading of the file")
    options = parser.parse_args(argv)

    from pruning.reports import document
    from pruning.speech.data import contents
    from pruning.speech.text.bpe import Tokenizer

    tokenizer = None if options.lang_dir is None else Tokenizer(options.lang_dir)
    cuts = dict.fromkeys(options.cuts)  # a manifest that is given twice has one row
    parts = [contents.describe(path, tokenizer) for path in cuts]
    print(contents.table(parts, "simple"))
    for one, other, count in contents.shared_speakers(parts):
        logger.warning("%d speakers of %s are also in %s: a WER on one after training on the other is too low", count,
                       one, other)  # fmt: skip
    if options.output is not None:
        document.write_section(options.output, options.title, contents.table(parts), "pruning.bin.describe", argv)


if __name__ == "__main__":
    command.run(main)
