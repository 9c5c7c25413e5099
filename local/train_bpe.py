#!/usr/bin/env python3
"""Train word pieces on the transcripts of training cuts; writes bpe.model and tokens.txt, laid out as icefall's."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.speech import bpe, manifests, sampler
from pruning.speech.data_table import SPEED_PERTURBED


def transcripts(cuts_paths: Sequence[Path]) -> Iterator[str]:
    """The transcripts of cuts, those of speed-perturbed copies left out."""
    for path in manifests.check_exists(cuts_paths):
        for cut in manifests.iterate_cuts(path):
            if not SPEED_PERTURBED.search(cut.id):
                yield sampler.transcript(cut)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse options and train."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--cuts", type=Path, nargs="+", required=True, help="manifests of the training cuts")
    options.add_argument("--lang-dir", type=Path, required=True, help="e.g. data/lang_bpe_500")
    options.add_argument("--vocab-size", type=int, help="tokens, 3 special ones included; optional for --unit char")
    options.add_argument("--unit", choices=bpe.MODEL_TYPES, default="unigram", help="kind of token")
    values = options.parse_args(argv)
    tokenizer = bpe.train(transcripts(values.cuts), values.lang_dir, values.vocab_size, values.unit)
    logging.info("%s: %d tokens", values.lang_dir, tokenizer.vocab_size)


if __name__ == "__main__":
    command.run(main)
