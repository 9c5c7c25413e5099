#!/usr/bin/env python3
"""Write the cuts of some speakers, or the first cuts, as a set of its own, or a copy of a set under another name."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.errors import UserError
from pruning.files import atomic_path
from pruning.limits import COUNT
from pruning.speech.data import manifests


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and write the cuts; existing cuts are skipped."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--cuts", type=Path, required=True, help="cuts to choose from")
    options.add_argument("--speakers", nargs="+", help="speakers to keep; default: all")
    options.add_argument("--first", type=COUNT.parse, help="number of cuts to keep, from the first; default: all")
    options.add_argument("--output", type=Path, required=True, help="e.g. data/cuts/librispeech_cuts_dev-3.jsonl.gz")
    values = options.parse_args(argv)
    if values.output.is_file():
        logging.info("%s already exists", values.output)
        return

    from lhotse import CutSet

    every = list(manifests.iterate_cuts(manifests.check_exists([values.cuts])[0]))
    spoken = {cut.id: str(cut.supervisions[0].speaker or "") for cut in every}
    wanted = set(values.speakers or spoken.values())
    missing = sorted(wanted - set(spoken.values()))
    if missing:
        raise UserError(f"{values.cuts} has no cut of speaker {missing[0]}", "correct --speakers")
    kept = CutSet.from_cuts([cut for cut in every if spoken[cut.id] in wanted][: values.first])
    with atomic_path(values.output) as temporary:
        kept.to_file(temporary)
    logging.info("%s: %d cuts", values.output, len(kept))


if __name__ == "__main__":
    command.run(main)
