#!/usr/bin/env python3
"""Write intents.txt of a lang dir: the numbered intents of training cuts. Warn of intents in other cuts that do not
occur in training: they cannot be recognised and count as errors."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.speech.data import manifests
from pruning.speech.text.intents import intent_of, write_table


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and write the output table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--cuts", type=Path, nargs="+", required=True, help="manifests of the training cuts")
    options.add_argument(
        "--other-cuts",
        type=Path,
        nargs="*",
        default=[],
        help="manifests of dev and test cuts, to check for other intents",
    )
    options.add_argument("--lang-dir", type=Path, required=True, help="e.g. data/lang")
    values = options.parse_args(argv)
    manifests.check_exists([*values.cuts, *values.other_cuts])
    counts = Counter(intent_of(cut) for path in values.cuts for cut in manifests.iterate_cuts(path))
    table = write_table(counts, values.lang_dir)
    logging.info("%s: %d intents in %d utterances", values.lang_dir, len(table), sum(counts.values()))
    for path in values.other_cuts:
        unseen = Counter(str(intent) for intent in map(intent_of, manifests.iterate_cuts(path))
                         if table.number(intent) is None)  # fmt: skip
        if unseen:
            named = ", ".join(f"{name} ({count})" for name, count in unseen.most_common())
            logging.warning("%s: intents that do not occur in training and count as errors: %s", path, named)


if __name__ == "__main__":
    command.run(main)
