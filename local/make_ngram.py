#!/usr/bin/env python3
"""Estimate an n-gram model of words (modified Kneser-Ney) from text, one sentence a line, and write it as an ARPA file.

Each line of a word list starts with the word; anything after it is ignored, as in Kaldi's words.txt or a lexicon.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.limits import COUNT
from pruning.speech.text.text_files import check_texts, read_sentences, read_words


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options, estimate the model and write it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--text", type=Path, nargs="+", required=True, help="words separated by spaces, UTF-8, plain or gzipped"
    )
    options.add_argument("--order", type=COUNT.parse, default=4, help="length of the longest n-grams; default: 4")
    options.add_argument("--output", type=Path, required=True, help="e.g. data/lm/4-gram.arpa.gz; .gz compresses")
    known = options.add_mutually_exclusive_group()
    known.add_argument(
        "--vocabulary", type=Path, help="word list; other words become <unk>; default: all words of the text"
    )
    known.add_argument(
        "--min-count", type=COUNT.parse, default=1, help="rarer words of the text become <unk>; default: 1"
    )
    values = options.parse_args(argv)

    from pruning.speech.ngrams import arpa, kneser_ney

    texts = [line for path in check_texts(values.text) for line in read_sentences(path)]
    words = None if values.vocabulary is None else read_words(values.vocabulary)
    model = kneser_ney.estimate(texts, values.order, words, values.min_count)
    arpa.write(model, values.output)
    sizes = ", ".join(f"{len(level.keys)} {length}-grams" for length, level in enumerate(model.levels, start=1))
    logging.info("%s: %d words; %s", values.output, len(model.vocabulary), sizes)


if __name__ == "__main__":
    command.run(main)
