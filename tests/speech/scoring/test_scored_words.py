"""The words that are scored, with and without the normaliser of evaluations."""

from __future__ import annotations

import sys

import pytest

from pruning.errors import UserError
from pruning.speech.scoring import scored_words as module
from pruning.speech.scoring.scored_words import scored_words, version_of


def test_a_text_as_it_is() -> None:
    assert scored_words("words")("Well,  colour: 20!") == ["Well,", "colour:", "20!"]
    assert scored_words("characters")("语音 AI") == ["语", "音", "AI"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Mr. Brown isn't here, um.", "mister brown is not here"),
        ("TWENTY-ONE COLOURS", "21 colors"),
        ("[noise] Twenty one colors!", "21 colors"),
        ("Um.", ""),
    ],
)
def test_the_english_normaliser(text: str, words: str) -> None:
    pytest.importorskip("whisper_normalizer", reason="the extra 'hf' is not installed")
    assert " ".join(scored_words("words", "english")(text)) == words
    assert version_of("english").startswith("whisper-normalizer ")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    for function in (lambda: scored_words("words", "english"), lambda: version_of("english")):
        module._english.cache_clear()
        with pytest.raises(UserError, match=r"needs the package whisper_normalizer \(.*; install it: .*--extras hf"):
            function()
