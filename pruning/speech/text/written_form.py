"""How a recogniser's words are written for a language model: case and punctuation."""

from __future__ import annotations

import re
from collections.abc import Callable

_FIRST_LETTER = re.compile(r"^[\W_]*[^\W\d_]")
"""What stands before the first letter, and the letter; a text that begins with a digit has none."""
_PRONOUN = re.compile(r"\bi\b")
_NO_WORD = re.compile(r"[^\w\s']|_")
_STOPS = (".", "?", "!")


def as_is(text: str) -> str:
    """Return the text itself."""
    return text


def lower(text: str) -> str:
    """Return the text in lower case."""
    return text.lower()


def sentence(text: str) -> str:
    """Return a sentence of running English text: lower case but for its first letter and the pronoun I, a full stop.

    Names stay in lower case. A text that ends with a full stop, a question mark or an exclamation mark keeps it.
    """
    begun = _FIRST_LETTER.sub(lambda match: match[0].upper(), _PRONOUN.sub("I", text.lower()))
    return begun if not begun or begun.endswith(_STOPS) else f"{begun}."


def words(text: str) -> str:
    """Return the words in upper case without punctuation but apostrophes, as in LibriSpeech's transcripts."""
    return " ".join(_NO_WORD.sub(" ", text.replace("\u2019", "'").upper()).split())


WRITTEN: dict[str, Callable[[str], str]] = {"as-is": as_is, "lower": lower, "sentence": sentence, "words": words}
"""Forms by their names."""
