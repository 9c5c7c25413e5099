"""References of utterances: lines of utterance and words, or a recogs file of decoding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path

from pruning.errors import UserError
from pruning.files import read_lines
from pruning.speech.scoring.word_errors import read_transcripts, words_of
from pruning.speech.text.text_files import check_readable

logger = logging.getLogger(__name__)


def read_references(
    path: Path, recognised: Collection[str], words_in: Callable[[str], list[str]] = words_of
) -> dict[str, list[str]]:
    """Read the reference words of each utterance, from lines UTTERANCE WORDS or from a recogs file of decoding.

    If an utterance was not recognised, all of its words count as deleted.

    Args:
        path: file of references.
        recognised: names of the utterances that have hypotheses.
        words_in: returns the words of a text that are scored.

    Raises:
        UserError: the file is missing, repeats an utterance or contains no words, or it lacks a recognised utterance.
    """
    check_readable(path, "file of references")
    if path.name.startswith("recogs-"):
        found = {one.id: words_in(" ".join(one.reference)) for one in read_transcripts(path)}
    else:
        found = {}
        for number, line in enumerate(read_lines(path), start=1):
            name, *text = line.split(maxsplit=1) or [""]
            if name in found:
                raise UserError(f"{path} line {number} repeats {name}", "give one reference per utterance")
            if name:
                found[name] = words_in(" ".join(text))
    for name in recognised:
        if name not in found:
            raise UserError(f"{path} has no reference for {name}", "give references for the same utterances")
    if not any(found.values()):
        raise UserError(f"{path} contains no words", "give lines of UTTERANCE WORDS")
    missing = sorted(found.keys() - set(recognised))
    if missing:
        what = "%d of %d utterances of %s have no hypothesis (first: %s); their words count as deleted"
        logger.warning(what, len(missing), len(found), path, missing[0])
    return found
