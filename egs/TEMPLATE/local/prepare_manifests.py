#!/usr/bin/env python3
"""Write lhotse manifests of a corpus. As it is: of Kaldi data directories, CORPUS_DIR/PART for each part.

This is the program that a new corpus writes; see README.md. Replace `read_part`, which says what the recordings and the
utterances of a part are, and leave the rest: `main` checks what it returns and writes it by rename.
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
    """The recordings and the utterances (supervisions) of one part of the corpus.

    A recording is an audio file (``pruning.speech.data.audio.recording(path, id)``), a supervision an utterance in it
    (``lhotse.SupervisionSegment``: id, recording_id, start and duration in seconds, text, speaker and, if it is not the
    first, channel). Write texts as they are to be recognised: one case, no punctuation, nothing that nobody says.

    Args:
        corpus_dir: the option ``--corpus-dir``.
        part: one of the names in the recipe's ``--train-parts``, ``--dev-parts`` and ``--test-parts``.
        audio_dir: where to write audio that lhotse cannot read itself.

    Raises:
        UserError: naming the file or the utterance that is missing, empty or damaged. What `manifests.validate` finds
            (utterances without recording, text or audio file, and recordings without utterance) need not be checked.
    """
    directory = corpus_dir / part
    if not directory.is_dir():
        raise UserError(f"the Kaldi data directory {directory} does not exist", "check --corpus-dir and the parts")
    return kaldi_dir.read(directory, audio_dir)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse options and write the manifests; parts that are done are skipped."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--corpus-dir", type=Path, required=True, help="of the corpus")
    options.add_argument("--parts", nargs="+", required=True, help="e.g. train dev test")
    options.add_argument("--prefix", required=True, help="name of the corpus, which the manifests' names start with")
    options.add_argument("--output-dir", type=Path, default=Path("data/manifests"), help="of the manifests")
    options.add_argument("--audio-dir", type=Path, default=Path("data/audio"), help="of converted audio")
    values = options.parse_args(argv)
    paths = manifests.Paths(values.output_dir, values.prefix)
    read = {}
    for part in dict.fromkeys(values.parts):
        if paths.recordings(part).is_file() and paths.supervisions(part).is_file():
            logging.info("%s: manifests are there already; remove them to have read_part make them anew", part)
            continue
        read[part] = read_part(values.corpus_dir, part, values.audio_dir)
        manifests.validate(*read[part], part)
    for part, (recordings, supervisions) in read.items():  # all or none: another read_part may divide them otherwise
        manifests.write(recordings, supervisions, paths, part)
        logging.info("%s: %d recordings, %d utterances", part, len(recordings), len(supervisions))


if __name__ == "__main__":
    command.run(main)
