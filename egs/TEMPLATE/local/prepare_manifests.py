#!/usr/bin/env python3
"""Write lhotse manifests of a corpus. Unchanged, it reads Kaldi data directories, CORPUS_DIR/PART for each part.

This is the only program to write for a new corpus; see README.md. Replace `read_part`, which returns the recordings and
utterances of a part, and keep the rest: `main` checks what it returns and writes it atomically.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from pruning.bin import command
from pruning.errors import UserError
from pruning.speech.data import kaldi_dir, manifests

if TYPE_CHECKING:
    from lhotse import RecordingSet, SupervisionSet


def read_part(corpus_dir: Path, part: str, audio_dir: Path) -> tuple[RecordingSet, SupervisionSet]:
    """Return the recordings and the utterances (supervisions) of one part of the corpus.

    A recording is an audio file (``pruning.speech.data.audio.recording(path, id)``), a supervision an utterance in it
    (``lhotse.SupervisionSegment``: id, recording_id, start and duration in seconds, text, speaker and, if it is not the
    first, channel). Write the text as it should be recognised: in one case, without punctuation and unspoken symbols.

    Args:
        corpus_dir: the option ``--corpus-dir``.
        part: one of the names in the recipe's ``--train-parts``, ``--dev-parts`` and ``--test-parts``.
        audio_dir: directory for converted audio that lhotse cannot read itself.

    Raises:
        UserError: with the file or the utterance that is missing, empty or damaged. There is no need to check what
            `manifests.validate` finds (utterances without recording, text or audio file, unused recordings).
    """
    directory = corpus_dir / part
    if not directory.is_dir():
        raise UserError(f"the Kaldi data directory {directory} does not exist", "check --corpus-dir and the parts")
    return kaldi_dir.read(directory, audio_dir)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and write the manifests; existing manifests are skipped."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--corpus-dir", type=Path, required=True, help="directory of the corpus")
    options.add_argument("--parts", nargs="+", required=True, help="names of the parts, e.g. train dev test")
    options.add_argument("--prefix", required=True, help="name of the corpus, prefix of the manifest names")
    options.add_argument("--output-dir", type=Path, default=Path("data/manifests"), help="directory for the manifests")
    options.add_argument("--audio-dir", type=Path, default=Path("data/audio"), help="directory for converted audio")
    values = options.parse_args(argv)
    paths = manifests.Paths(values.output_dir, values.prefix)
    read = {}
    for part in dict.fromkeys(values.parts):
        if paths.recordings(part).is_file() and paths.supervisions(part).is_file():
            logging.info("%s: manifests already exist; to make them again with read_part, remove them", part)
            continue
        read[part] = read_part(values.corpus_dir, part, values.audio_dir)
        manifests.validate(*read[part], part)
    for part, (
        recordings,
        supervisions,
    ) in read.items():  # all or none: another read_part may split the corpus differently
        manifests.write(recordings, supervisions, paths, part)
        logging.info("%s: %d recordings, %d utterances", part, len(recordings), len(supervisions))


if __name__ == "__main__":
    command.run(main)
