#!/usr/bin/env python3
"""Write lhotse manifests of SLURP's official layout: dataset/slurp/*.jsonl, slurp_real/*.flac, optional slurp_synth.

Intent and entities are custom fields of the supervisions: scenario, action, intent, entities, slurp_id.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.speech.corpora import slurp
from pruning.speech.data import manifests


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and write the manifests; existing manifests are skipped."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--corpus-dir", type=Path, required=True, help="directory with dataset/slurp and slurp_real")
    options.add_argument(
        "--parts", nargs="+", choices=slurp.PARTS, default=list(slurp.PARTS[:3]), help="parts to prepare"
    )
    options.add_argument("--output-dir", type=Path, default=Path("data/manifests"), help="directory for the manifests")
    options.add_argument(
        "--on-missing",
        choices=slurp.ON_MISSING,
        default="error",
        help="missing recordings, broken lines, audio that is not 16 kHz: stop, or count and skip",
    )
    options.add_argument(
        "--microphone", choices=slurp.MICROPHONES, help="use only recordings of this microphone; default: all"
    )
    values = options.parse_args(argv)
    paths = manifests.Paths(values.output_dir, "slurp")
    for part in values.parts:
        if paths.recordings(part).is_file() and paths.supervisions(part).is_file():
            logging.info("%s: manifests already exist", part)
            continue
        found = slurp.read_part(values.corpus_dir, part, values.on_missing, values.microphone)
        manifests.write(*found, paths, part)
        intents = {(one.custom["scenario"], one.custom["action"]) for one in found[1]}
        logging.info("%s: %d recordings, %d intents", part, len(found[1]), len(intents))


if __name__ == "__main__":
    command.run(main)
