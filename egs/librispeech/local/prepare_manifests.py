#!/usr/bin/env python3
"""Write lhotse manifests of parts of LibriSpeech, or of a corpus in its layout, after checking every utterance."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.limits import COUNT
from pruning.speech.corpora import librispeech


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and write the manifests."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--corpus-dir", type=Path, required=True, help="LibriSpeech directory with SPEAKERS.TXT")
    options.add_argument("--parts", nargs="+", required=True, help="names of the parts, e.g. train-clean-5 dev-clean-2")
    options.add_argument("--output-dir", type=Path, default=Path("data/manifests"), help="directory for the manifests")
    options.add_argument("--num-jobs", type=COUNT.parse, default=4, help="number of threads")
    values = options.parse_args(argv)
    librispeech.prepare(values.corpus_dir, values.parts, values.output_dir, values.num_jobs)


if __name__ == "__main__":
    command.run(main)
