#!/usr/bin/env python3
"""Make decoding graphs from an n-gram model of words (ARPA) and the word pieces of a lang dir.

LG is for --method fast_beam_search_LG and HLG for --method hlg_decoding of pruning.bin.decode. They are written to the
lang dir, together with words.txt and lexicon.txt.
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
    """Parse the options, build the graphs and write them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--arpa", type=Path, required=True, help="n-gram model, e.g. data/lm/3-gram.arpa.gz")
    options.add_argument("--lang-dir", type=Path, required=True, help="lang dir with bpe.model and tokens.txt")
    options.add_argument(
        "--which", nargs="+", choices=GRAPH_KINDS, default=GRAPH_KINDS, help="graphs to make; default: both"
    )
    options.add_argument("--max-order", type=COUNT.parse, help="use n-grams up to this length; default: all")
    values = options.parse_args(argv)

    from pruning.speech.decoding import graphs
    from pruning.speech.text.bpe import Tokenizer

    kinds = [kind for kind in GRAPH_KINDS if kind in values.which]
    for path in graphs.build(values.arpa, Tokenizer(values.lang_dir), kinds, values.max_order):
        logging.info("%s", path)


if __name__ == "__main__":
    command.run(main)
