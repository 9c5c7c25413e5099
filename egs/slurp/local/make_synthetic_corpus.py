#!/usr/bin/env python3
"""Write a synthetic corpus in SLURP's official layout: eSpeak NG reads sentences of templates, or real annotations."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from pruning.bin import command
from pruning.limits import COUNT, ranges
from pruning.speech.corpora.synthetic.config import SlurpCorpusConfig


def parser() -> argparse.ArgumentParser:
    """Return the option parser, with the defaults of ``SlurpCorpusConfig``."""
    default, known = SlurpCorpusConfig(), ranges(SlurpCorpusConfig)
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--output-dir", type=Path, required=True, help="e.g. corpus/slurp; written atomically")
    options.add_argument(
        "--num-workers",
        type=COUNT.parse,
        default=os.cpu_count() or 1,
        help="number of processes; does not affect the samples",
    )
    options.add_argument("--annotations", type=Path, help="directory with dataset/slurp/{devel,test}.jsonl, real "
                         "sentences: devel.jsonl for training and devel")  # fmt: skip
    numbers = {
        "seed": "seed of all random choices",
        "train-sentences": "number of training sentences made from templates",
        "devel-sentences": "number of devel sentences made from templates",
        "test-sentences": "number of test sentences made from templates",
        "devel-share": "share of the real devel.jsonl used for devel; the rest is for training",
        "recordings": "recordings of each training sentence, by different voices",
        "accents": "number of English accents, most similar ones first",
        "variants": "number of voice variants in training and devel; test has other variants",
        "sentences-per-speaker": "number of sentences before the speaker changes",
    }
    for name, text in numbers.items():
        field = name.replace("-", "_")
        options.add_argument(f"--{name}", type=known[field].parse, default=getattr(default, field), help=text)
    options.add_argument("--snr", type=known["snr"].parse, nargs=2, metavar=("LOW", "HIGH"), default=default.snr,
                         help="signal-to-noise ratio in dB")  # fmt: skip
    return options


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Make the corpus; do nothing if it exists."""
    values: dict[str, Any] = vars(parser().parse_args(argv))

    from pruning.speech.corpora.synthetic.slurp_corpus import fingerprint, make_corpus

    output_dir, num_workers, annotations = (values.pop(key) for key in ("output_dir", "num_workers", "annotations"))
    values["snr"] = tuple(values["snr"])
    if annotations is not None:
        values["annotations"] = fingerprint(annotations)
    make_corpus(SlurpCorpusConfig(**values), output_dir, num_workers, annotations)


if __name__ == "__main__":
    command.run(main)
