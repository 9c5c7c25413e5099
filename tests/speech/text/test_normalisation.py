"""Texts in one form: what cannot be seen makes no word another one, for Python and for word pieces alike."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.speech.scoring.word_errors import words_of
from pruning.speech.text import bpe
from pruning.speech.text.normalisation import normalised

UNSEEN = st.characters(whitelist_categories=("Cc", "Cf", "Zs", "Zl", "Zp"))
WORDS = st.lists(st.text(st.sampled_from("ABÉ"), min_size=1, max_size=4), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> bpe.Tokenizer:
    """It has learned every character that cannot be seen and is not left out."""
    hidden = [chr(code) for code in range(0xE0080) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zs", "Zl", "Zp")]
    texts = [normalised(f"A{one}B É") for one in hidden]
    return bpe.train(texts, tmp_path_factory.mktemp("lang"), None, "char")


@given(words=WORDS, hidden=UNSEEN, place=st.integers(0, 12))
def test_word_pieces_see_the_words_that_are_scored(
    tokenizer: bpe.Tokenizer, words: list[str], hidden: str, place: int
) -> None:
    text = " ".join(words)
    text = text[:place] + hidden + text[place:]
    expected = words_of(text)
    assert words_of(tokenizer.spell(normalised(text))) == expected
    assert words_of(" ".join(expected)) == expected, "twice is once"


@given(text=st.text(st.sampled_from("eoi\u0301\u0308\u00ad\u200b\u200e\u2000\x01\x85ㄱ가 "), max_size=8))
def test_one_form_is_the_last(text: str) -> None:
    """An accent joins its letter over what is left out between them."""
    once = normalised(text)
    assert normalised(once) == once == unicodedata.normalize("NFC", once)


def test_no_token_breaks_the_table(tokenizer: bpe.Tokenizer) -> None:
    """U+0085, which ends lines for some, was a token that no table could hold."""
    assert all(len(f"{token} 0".split()) == 2 for token in tokenizer.tokens())
    assert bpe.Tokenizer(tokenizer.lang_dir).vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize("code", [0x00, 0x01, 0x1B, 0x7F, 0x83, 0x92, 0x9F, 0xAD, 0x200E, 0x200F, 0x202A, 0x2069])
def test_what_neither_sounds_nor_separates_is_left_out(code: int) -> None:
    assert normalised(f"A{chr(code)}B") == "AB"


@pytest.mark.parametrize("code", [0x09, 0x0B, 0x1C, 0x85, 0xA0, 0x200B, 0x200C, 0x2028, 0x2060, 0x3000, 0xFEFF])
def test_what_separates_is_a_space(code: int) -> None:
    assert normalised(f"A{chr(code)}B") == "A B"


@pytest.mark.parametrize("text", ["ක්‍ෂ", "क्‍ष", "👩‍🚀"])
def test_joiners_of_letters_stay(text: str, tmp_path: Path) -> None:
    """Sinhala and Devanagari write other letters with them."""
    assert normalised(text) == unicodedata.normalize("NFC", text)
    assert bpe.train([text, "A B"], tmp_path, None, "char").spell(text) == normalised(text)
