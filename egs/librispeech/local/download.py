#!/usr/bin/env python3
"""Download parts of LibriSpeech with lhotse; parts that the corpus directory holds already are skipped."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.errors import UserError
from pruning.speech import librispeech


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse options and download what is missing."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--corpus-dir", type=Path, default=Path("download/LibriSpeech"), help="ends in LibriSpeech")
    options.add_argument("--parts", nargs="+", required=True, help="e.g. train-clean-100 dev-clean test-clean")
    options.add_argument("--base-url", default="http://www.openslr.org/resources", help="a mirror of OpenSLR")
    values = options.parse_args(argv)
    present = librispeech.present_parts(values.corpus_dir)
    missing = [part for part in values.parts if part not in present or _incomplete(values.corpus_dir / part)]
    if missing:
        download(values.corpus_dir, missing, values.base_url)
    librispeech.check_parts(values.corpus_dir, values.parts)
    logging.info("%s holds %s", values.corpus_dir, " ".join(values.parts))


def _incomplete(part_dir: Path) -> bool:
    """Whether unpacking ``part_dir`` was interrupted: lhotse's mark and every transcript are missing."""
    return not (part_dir / ".completed").is_file() and next(part_dir.rglob("*.trans.txt"), None) is None


def download(corpus_dir: Path, parts: Sequence[str], base_url: str) -> None:
    """Download ``parts`` into ``corpus_dir``.

    Raises:
        UserError: a part has no such name, the directory is not named LibriSpeech, or there is no connection.
    """
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
