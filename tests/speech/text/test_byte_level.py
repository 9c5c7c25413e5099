"""The alphabet of byte-level word pieces, against the library tokenizers."""

from __future__ import annotations

import pytest

from pruning.speech.text.byte_level import byte_of_character, bytes_of


def test_each_byte_has_one_character() -> None:
    known = byte_of_character()
    assert sorted(known.values()) == list(range(256)) and len(known) == 256
    assert bytes_of("Ġthe") == b" the" and bytes_of("Ċ") == b"\n" and bytes_of("Ã©") == "é".encode()


def test_the_alphabet_is_that_of_the_library() -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
    assert set(byte_of_character()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = "Is it 5 °C in Łódź, “now”?\t\x00"
    assert bytes_of("".join(piece for piece, _ in level.pre_tokenize_str(text))) == text.encode()
