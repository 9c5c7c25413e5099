#!/usr/bin/env python3
"""Make decoding graphs of an n-gram model of words (ARPA) and the word pieces of a language directory.

LG serves --method fast_beam_search_LG, HLG serves --method hlg_decoding of pruning.bin.decode. They are written to the
language directory, with words.txt and lexicon.txt.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.limits import COUNT
from pruning.speech.decoding.config import GRAPH_KINDS


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse options, build, and write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--arpa", type=Path, required=True, help="the model, e.g. data/lm/3-gram.arpa.gz")
    options.add_argument("--lang-dir", type=Path, required=True, help="language directory: bpe.model and tokens.txt")
    options.add_argument("--which", nargs="+", choices=GRAPH_KINDS, default=GRAPH_KINDS, help="default: both")
    options.add_argument("--max-order", type=COUNT.parse, help="use no longer n-grams than these; default: all")
    values = options.parse_args(argv)

    from pruning.speech.decoding import graphs
    from pruning.speech.text.bpe import Tokenizer

    kinds = [kind for kind in GRAPH_KINDS if kind in values.which]
    for path in graphs.build(values.arpa, Tokenizer(values.lang_dir), kinds, values.max_order):
        logging.info("%s", path)


if __name__ == "__main__":
    command.run(main)
