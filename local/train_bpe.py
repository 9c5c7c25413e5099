#!/usr/bin/env python3
"""Train word pieces on transcripts of training cuts, on text, or both; write icefall's bpe.model and tokens.txt."""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.limits import COUNT
from pruning.speech.text.names import MODEL_TYPES
from pruning.speech.text.text_files import check_texts, read_sentences


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and train."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--cuts", type=Path, nargs="*", default=[], help="manifests of the training cuts")
    options.add_argument("--text", type=Path, nargs="*", default=[], help="additional text, one sentence a line")
    options.add_argument("--lang-dir", type=Path, required=True, help="e.g. data/lang_bpe_500")
    options.add_argument(
        "--vocab-size", type=COUNT.parse, help="number of tokens, including 3 special ones; optional for --unit char"
    )
    options.add_argument("--unit", choices=MODEL_TYPES, default="unigram", help="kind of token")
    values = options.parse_args(argv)

    from pruning.speech.data.contents import transcripts
    from pruning.speech.text import bpe

    text = (line for path in check_texts(values.text) for line in read_sentences(path) if line)
    spoken = transcripts(values.cuts) if values.cuts else ()
    tokenizer = bpe.train(itertools.chain(spoken, text), values.lang_dir, values.vocab_size, values.unit)
    logging.info("%s: %d tokens", values.lang_dir, tokenizer.vocab_size)


if __name__ == "__main__":
    command.run(main)
