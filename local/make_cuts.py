#!/usr/bin/env python3
"""Write cuts without features from lhotse manifests, one per recording or utterance, for networks that take samples."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.files import atomic_path
from pruning.limits import COUNT
from pruning.speech.data import manifests
from pruning.speech.data.origin import Origin


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and write the cuts; existing cuts of the same manifests and sampling rate are skipped.

    Raises:
        UserError: a manifest is missing or damaged, or existing cuts were made from something else.
    """
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--manifests-dir", type=Path, required=True, help="e.g. data/manifests")
    options.add_argument("--output-dir", type=Path, required=True, help="e.g. data/cuts")
    options.add_argument("--prefix", required=True, help="prefix of the manifest names, e.g. slurp")
    options.add_argument(
        "--sampling-rate", type=COUNT.parse, default=16000, help="Hz; other recordings are resampled on loading"
    )
    options.add_argument("--parts", nargs="+", required=True, help="names of the parts to write")
    values = options.parse_args(argv)
    source = manifests.Paths(values.manifests_dir, values.prefix)
    target = manifests.Paths(values.output_dir, values.prefix)
    for part in values.parts:
        path, record = target.cuts(part), target.directory / f"{target.prefix}_cuts_{part}.json"
        read = {"utterances": source.supervisions(part), "recordings": source.recordings(part)}
        origin = Origin({"sampling_rate": values.sampling_rate}, read)
        if origin.made(path, record, record):
            logging.info("%s already exists", path)
            continue
        cuts = manifests.read(source, part, values.sampling_rate)
        with atomic_path(path) as temporary:
            cuts.to_file(temporary)
            origin.write(record)
        logging.info("%s: %d cuts, %.2f h", path, len(cuts), sum(cut.duration for cut in cuts) / 3600)


if __name__ == "__main__":
    command.run(main)
