"""Which utterances belong to one recording, and their order in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Optional, Union

from pruning.errors import UserError

LIBRISPEECH = r"([^-]+-[^-]+)-[0-9].*"
"""LibriSpeech's names: SPEAKER-CHAPTER-NUMBER."""


def place_of(name: str) -> list[Union[int, str]]:
    """Return what names are sorted by: numbers in them by their values, so that ``a-9`` precedes ``a-10``."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"([0-9]+)", name))]


def by_recording(names: Iterable[str], pattern: str, known: Optional[Mapping[str, str]] = None) -> list[list[str]]:
    """Return the utterances of each recording in the order of their names.

    Args:
        names: names of utterances.
        pattern: regular expression for whole names, whose first group is the recording.
        known: the recording of each utterance, instead of ``pattern``.

    Raises:
        UserError: the pattern is not a regular expression with a group, or the recording of an utterance is unknown.
    """
    found: dict[str, list[str]] = {}
    matched = None if known is not None else _compiled(pattern)
    for name in sorted(names, key=place_of):
        match = None if matched is None else matched.fullmatch(name)
        recording = match[1] if match else (known or {}).get(name)
        if recording is None:
            raise UserError(f"the recording of utterance {name} is unknown",
                            "give its line in a file utt2rec, or a pattern that its name fits")  # fmt: skip
        found.setdefault(recording, []).append(name)
    return list(found.values())


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is not a regular expression ({error})", "correct the pattern") from None
    if not compiled.groups:
        raise UserError(f"{pattern!r} has no group", "put what names the recording in parentheses")
    return compiled
