#!/usr/bin/env python3
"""Write a synthetic speech corpus like LibriSpeech: eSpeak NG reads sentences of a grammar or of a text."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from pruning.bin import command
from pruning.limits import COUNT, ranges
from pruning.speech.corpora.synthetic.config import CorpusConfig, TextConfig


def parser() -> argparse.ArgumentParser:
    """Return the option parser, with the defaults of ``CorpusConfig``."""
    default, known, of_text = CorpusConfig(), ranges(CorpusConfig), ranges(TextConfig)
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--output-dir", type=Path, required=True, help="e.g. corpus/LibriSpeech; written atomically")
    options.add_argument(
        "--num-workers",
        type=COUNT.parse,
        default=os.cpu_count() or 1,
        help="number of processes; does not affect the samples",
    )
    options.add_argument("--text", type=Path, help="sentences to read, one per line, in letters and apostrophes, "
                         "plain or gzipped; default: sentences of a grammar")  # fmt: skip
    options.add_argument("--words", type=of_text["words"].parse, nargs=2, metavar=("LEAST", "MOST"),
                         default=TextConfig.words, help="numbers of words of sentences to use of --text")  # fmt: skip
    numbers = {
        "seed": "seed of all random choices",
        "train-utterances": "utterances in train-clean-mini, about 3.2 s each",
        "dev-utterances": "utterances in dev-clean-mini",
        "test-words": "minimum number of words in each of test-clean and test-other",
        "vocabulary-size": "approximate number of words that fill the sentence templates of the grammar",
        "accents": "number of English accents, most similar ones first",
        "variants": "number of voice variants in training, dev and test-clean",
        "utterances-per-speaker": "number of utterances before the speaker changes",
    }
    for name, text in numbers.items():
        field = name.replace("-", "_")
        options.add_argument(f"--{name}", type=known[field].parse, default=getattr(default, field), help=text)
    bounds = {
        "train-snr": "signal-to-noise ratio of all parts except test-other, in dB",
        "other-snr": "signal-to-noise ratio of test-other, in dB",
        "other-reverberation-time": "T60 of the rooms of test-other, in s",
    }
    for name, text in bounds.items():
        field = name.replace("-", "_")
        options.add_argument(f"--{name}", type=known[field].parse, nargs=2, metavar=("LOW", "HIGH"),
                             default=getattr(default, field), help=text)  # fmt: skip
    return options


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Make the corpus; do nothing if it exists."""
    values: dict[str, Any] = vars(parser().parse_args(argv))

    from pruning import provenance
    from pruning.speech.corpora.synthetic.corpus import make_corpus
    from pruning.speech.text.text_files import check_texts

    output_dir, num_workers, text, words = (values.pop(key) for key in ("output_dir", "num_workers", "text", "words"))
    if text is not None:
        check_texts([text])
        values["text"] = TextConfig(provenance.file_fingerprint(text), tuple(words))
    for key in ("train_snr", "other_snr", "other_reverberation_time"):
        values[key] = tuple(values[key])
    make_corpus(CorpusConfig(**values), output_dir, num_workers, text)


if __name__ == "__main__":
    command.run(main)
