#!/usr/bin/env python3
"""Download parts of LibriSpeech with lhotse; parts that are already in the corpus directory are skipped."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.errors import UserError
from pruning.speech.corpora import librispeech
from pruning.speech.data import manifests


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and download missing parts."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument(
        "--corpus-dir", type=Path, default=Path("download/LibriSpeech"), help="directory named LibriSpeech"
    )
    options.add_argument(
        "--parts", nargs="+", required=True, help="names of the parts, e.g. train-clean-100 dev-clean test-clean"
    )
    options.add_argument("--base-url", default="http://www.openslr.org/resources", help="URL of OpenSLR or a mirror")
    values = options.parse_args(argv)
    missing = [part for part in values.parts if _is_missing(values.corpus_dir, part)]
    if missing:
        download(values.corpus_dir, missing, values.base_url)
    librispeech.check_parts(values.corpus_dir, values.parts)
    logging.info("%s contains %s", values.corpus_dir, " ".join(values.parts))


def _is_missing(corpus_dir: Path, part: str) -> bool:
    """Return whether to download ``part``.

    Raises:
        UserError: unpacking was interrupted, or may have been. lhotse would remove the directory and unpack again, but
            it may be the user's own copy, which must not be removed.
    """
    directory, archive = corpus_dir / part, corpus_dir.parent / f"{part}.tar.gz"
    if not directory.is_dir() or not any(directory.iterdir()):
        return True
    mark = directory / ".completed"
    if mark.is_file():
        return False
    remedy = f"remove {directory} to unpack it again; or, if it is complete, make an empty file {mark}"
    if archive.is_file():
        raise UserError(f"{directory} may be incomplete: {archive} exists, but not lhotse's mark {mark}", remedy)
    if next(directory.rglob("*.trans.txt"), None) is None:
        raise UserError(f"{directory} has no transcripts (*.trans.txt)", f"remove {directory} to download it")
    return False


def download(corpus_dir: Path, parts: Sequence[str], base_url: str) -> None:
    """Download ``parts`` into ``corpus_dir``.

    Raises:
        UserError: a part has an unknown name, the directory is not named LibriSpeech, or the download fails.
    """
    manifests.quiet_progress()
    from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH, download_librispeech

    known = (*MINI_LIBRISPEECH, *LIBRISPEECH)
    for part in parts:
        if part not in known:
            raise UserError(f"LibriSpeech has no part {part}", f"choose from {', '.join(known)}")
    if corpus_dir.name != "LibriSpeech":  # the archives unpack to a directory of this name
        raise UserError(f"cannot download to {corpus_dir}", f"give --corpus-dir {corpus_dir / 'LibriSpeech'}")
    try:
        download_librispeech(corpus_dir.parent, list(parts), base_url=base_url)
    except (OSError, EOFError) as error:
        if getattr(error, "errno", None) is not None:  # the disk, not the network
            raise
        remedy = "check the connection, or give --corpus-dir of a copy of LibriSpeech"
        raise UserError(f"cannot download {', '.join(parts)} from {base_url} ({error})", remedy) from None


if __name__ == "__main__":
    command.run(main)
