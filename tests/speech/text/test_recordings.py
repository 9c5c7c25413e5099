"""Utterances of a recording in their order."""

from __future__ import annotations

import pytest

from pruning.errors import UserError
from pruning.speech.text.recordings import LIBRISPEECH, by_recording


def test_names_of_librispeech() -> None:
    names = ["84-121123-0010", "84-121123-0009", "84-121550-0000", "7-121123-0001"]
    assert by_recording(names, LIBRISPEECH) == [["7-121123-0001"], ["84-121123-0009", "84-121123-0010"],
                                                ["84-121550-0000"]]  # fmt: skip


def test_numbers_are_sorted_by_their_values() -> None:
    assert by_recording(["call-10", "call-9"], "(.+)-[0-9]+") == [["call-9", "call-10"]]
    assert by_recording(["b", "a"], "", {"a": "x", "b": "x", "c": "y"}) == [["a", "b"]]


def test_what_is_unknown_is_named() -> None:
    for names, pattern, known, message in [
        (["u1"], LIBRISPEECH, None, "the recording of utterance u1 is unknown; give its line"),
        (["u1"], "", {"u2": "r"}, "the recording of utterance u1 is unknown"),
        (["u1"], "(u", None, "is not a regular expression"),
        (["u1"], "u.", None, "'u.' has no group"),
    ]:
        with pytest.raises(UserError, match=message):
            by_recording(names, pattern, known)
