#!/usr/bin/env python3
"""Write lhotse manifests from a Kaldi data directory: wav.scp, text, utt2spk and, optionally, segments."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.errors import UserError
from pruning.speech.data import kaldi_dir, manifests


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and write the manifests; do nothing if they exist."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument(
        "--kaldi-dir", type=Path, required=True, help="Kaldi data directory, e.g. data/train of a Kaldi recipe"
    )
    options.add_argument("--part", required=True, help="name of the part, used in the manifest names")
    options.add_argument("--prefix", required=True, help="name of the corpus, prefix of the manifest names")
    options.add_argument("--output-dir", type=Path, default=Path("data/manifests"), help="directory for the manifests")
    options.add_argument(
        "--audio-dir",
        type=Path,
        default=Path("data/audio"),
        help="directory for converted NIST SPHERE files and for what commands write",
    )
    values = options.parse_args(argv)
    paths = manifests.Paths(values.output_dir, values.prefix)
    if paths.recordings(values.part).is_file() and paths.supervisions(values.part).is_file():
        logging.info("%s: manifests already exist", values.part)
        return
    if not values.kaldi_dir.is_dir():
        raise UserError(f"the directory {values.kaldi_dir} does not exist", "give --kaldi-dir")
    recordings, supervisions = kaldi_dir.read(values.kaldi_dir, values.audio_dir)
    manifests.write(recordings, supervisions, paths, values.part)
    logging.info("%s: %d recordings, %d utterances", values.part, len(recordings), len(supervisions))


if __name__ == "__main__":
    command.run(main)
