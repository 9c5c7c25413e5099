"""Word pieces: icefall's token ids, the language directory, and errors."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.errors import UserError
from pruning.speech.corpora.synthetic.text import Grammar, unique_sentences
from pruning.speech.text import bpe

TEXTS = [text.upper() for text in unique_sentences(Grammar(200), np.random.default_rng(0), count=200)]
TEXTS += ["JUMPS OVER THE QUICK DOG'S BOX"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> bpe.Tokenizer:
    return bpe.train(TEXTS, tmp_path_factory.mktemp("lang"), 60, "unigram")


@given(words=st.lists(st.text(st.sampled_from("ABÉ语"), min_size=1, max_size=2500), min_size=1, max_size=8))
def test_long_lines_go_in_parts_that_are_not_dropped(words: list[str]) -> None:
    """No part is too long for sentencepiece, no character is lost, and words stay whole if they fit."""
    text = " ".join(words)
    parts = list(bpe._parts(text))
    assert all(len(part.encode()) <= 4192 for part in parts)
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")
    if all(len(word.encode()) < 4000 for word in words):
        assert " ".join(parts) == text


def test_letters_of_long_lines_are_learned(tmp_path: Path) -> None:
    """sentencepiece silently drops lines of more than 4192 bytes."""
    tokenizer = bpe.train(["AB " * 100, "ÄÖ " * 2000, "语" * 3000], tmp_path / "mixed", None, "char")
    for text in ("AB", "ÄÖ", "语"):
        assert tokenizer.count_unknown(tokenizer.encode(text))[0] == 0, text
    tokenizer = bpe.train(["ÄÖÜ ÖÄÜ " * 1000], tmp_path / "long", 9, "unigram")
    assert tokenizer.spell("ÄÖÜ ÖÄÜ") == "ÄÖÜ ÖÄÜ"


@pytest.mark.parametrize("languages", [0, 2, 5])
def test_the_unknown_token_is_what_the_model_says(tmp_path: Path, languages: int) -> None:
    """Language tags may precede it."""
    import sentencepiece

    model = io.BytesIO()
    tags = [f"<{index}>" for index in range(languages)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ONE TWO", "TWO ONE"]), model_writer=model, vocab_size=20 + languages,
        hard_vocab_limit=False, model_type="char", user_defined_symbols=["<blk>", *tags], unk_id=1 + languages,
        bos_id=-1, eos_id=-1, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "bpe.model").write_bytes(model.getvalue())
    tokenizer = bpe.Tokenizer(tmp_path)
    assert tokenizer.unknown_id == 1 + languages and tokenizer.tokens()[tokenizer.unknown_id] == "<unk>"
    assert tokenizer.count_unknown(tokenizer.encode("ONE")) == (0, 3)
    assert tokenizer.count_unknown(tokenizer.encode("ДВА"))[0] == 1
    assert tokenizer.encode("ONE ДВА")[-1] == tokenizer.unknown_id


def test_special_tokens_have_icefalls_ids(tokenizer: bpe.Tokenizer) -> None:
    assert tokenizer.tokens()[:3] == ["<blk>", "<sos/eos>", "<unk>"]
    assert tokenizer.vocab_size == 60
    table = (tokenizer.lang_dir / "tokens.txt").read_text().splitlines()
    assert table == [f"{token} {index}" for index, token in enumerate(tokenizer.tokens())]


@settings(max_examples=50, deadline=None)
@given(words=st.lists(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ'", min_size=1, max_size=8), min_size=1, max_size=6))
def test_decoding_undoes_encoding(tokenizer: bpe.Tokenizer, words: list[str]) -> None:
    text = " ".join(words)
    tokens = tokenizer.encode(text)
    assert bpe.BLANK_ID not in tokens and bpe.UNKNOWN_ID not in tokens
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode([0, *tokens, 0]) == text


def test_unknown_characters_become_unk(tokenizer: bpe.Tokenizer) -> None:
    assert bpe.UNKNOWN_ID in tokenizer.encode("ÉTÉ")


def test_blank_is_no_word(tokenizer: bpe.Tokenizer) -> None:
    """Losses would treat it as blank."""
    with pytest.raises(UserError, match="the text 'ONE <blk>' contains the symbol <blk>"):
        tokenizer.encode("ONE <blk>")
    with pytest.raises(UserError, match="'<blk>' contains"):
        tokenizer.encode_all(["ONE", "<blk>"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ONE <sos/eos> TWO", "the text 'ONE <sos/eos> TWO' contains the symbol <sos/eos>; remove it"),
        ("ONE<sos/eos>", "contains the symbol <sos/eos>"),
        ("▁THE ▁QU ICK", "the text '▁THE ▁QU ICK' contains ▁, which marks the beginning of a word in word pieces"),
        ("THE▁DOG", "contains ▁"),
        ("<unk> <blk>", "contains the symbol <blk>"),
    ],
)
def test_what_is_no_word_is_refused(tokenizer: bpe.Tokenizer, text: str, message: str) -> None:
    """Sentencepiece takes the first for tokens, and would make other words of pieces than they are of."""
    with pytest.raises(UserError, match=message):
        tokenizer.encode(text)
    with pytest.raises(UserError, match=message):
        tokenizer.encode_all(["ONE", text])


PLACES = st.lists(st.sampled_from(["THE", "DOG'S", "<unk>", "<UNK>"]), max_size=6)


@given(words=PLACES)
def test_an_unknown_word_is_one_token(tokenizer: bpe.Tokenizer, words: list[str]) -> None:
    """Not the letters of its name: transcripts of TED-LIUM, among others, hold it."""
    text = " ".join(words)
    tokens = tokenizer.encode(text)
    assert tokenizer.encode_all([text]) == [tokens]
    unknown = [word for word in words if word.lower() == "<unk>"]
    assert tokens.count(tokenizer.unknown_id) == len(unknown)
    expected = ["⁇" if word in unknown else word for word in words]
    assert tokenizer.decode(tokens).split() == expected
    kept = [token for token in tokens if token != tokenizer.unknown_id]
    assert kept == tokenizer.encode(" ".join(word for word in words if word not in unknown))


def test_tokens_are_not_learned_from_the_name_of_the_unknown_word(tmp_path: Path) -> None:
    texts = ["one two", "<UNK> three", "<unk>"]
    assert set("".join(bpe.train(texts, tmp_path, None, "char").tokens()[3:])) == set("▁onetwthree")


def test_no_sentence_is_dropped_for_a_character(tmp_path: Path) -> None:
    """Sentencepiece drops those with U+2585, and says so where nobody reads it."""
    assert {"X", "Y"} <= set(bpe.train(["ONE", "X▅Y"], tmp_path, None, "char").tokens())


@pytest.mark.parametrize("unit", ["unigram", "bpe"])
def test_bytes_in_place_of_unknown_letters(tmp_path: Path, unit: str) -> None:
    """As models of others have them; an end within a letter is no fault."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, "北東"]), model_writer=model, vocab_size=330, hard_vocab_limit=False,
        model_type=unit, byte_fallback=True, user_defined_symbols=["<blk>", "<sos/eos>"], unk_id=2, bos_id=-1,
        eos_id=-1, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "bpe.model").write_bytes(model.getvalue())
    tokenizer = bpe.Tokenizer(tmp_path)
    for text in ("北東爿", "THE привет 😀"):
        tokens = tokenizer.encode(text)
        assert tokenizer.count_unknown(tokens)[0] == 0 and tokenizer.spell(text) == text
        assert all(isinstance(tokenizer.decode(tokens[:end]), str) for end in range(len(tokens)))


@pytest.mark.parametrize("unit", ["unigram", "bpe"])
def test_training_repeats_exactly(tmp_path: Path, unit: str) -> None:
    first, second = (bpe.train(TEXTS, tmp_path / name, 50, unit) for name in "ab")
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint == hashlib.sha256((tmp_path / "a" / "bpe.model").read_bytes()).hexdigest()


def test_characters_need_no_size(tmp_path: Path) -> None:
    tokenizer = bpe.train(TEXTS, tmp_path, None, "char")
    characters = set("".join(TEXTS)) - {" "}
    assert set(tokenizer.tokens()) == characters | {"▁", "<blk>", "<sos/eos>", "<unk>"}


def test_a_trained_directory_is_left_alone(tokenizer: bpe.Tokenizer) -> None:
    before = (tokenizer.lang_dir / "bpe.model").stat().st_mtime_ns
    again = bpe.train(["OTHER TEXT"], tokenizer.lang_dir, 60, "unigram")
    assert again.fingerprint == tokenizer.fingerprint
    assert (tokenizer.lang_dir / "bpe.model").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="60 tokens, not 61"):
        bpe.train(TEXTS, tokenizer.lang_dir, 61, "unigram")


@pytest.mark.parametrize(("unit", "size"), [("unigram", 40), ("bpe", 40), ("char", None), ("word", 20)])
def test_tokens_of_another_kind_are_not_taken(tmp_path: Path, unit: str, size: Optional[int]) -> None:
    texts = ["A B C D E F G H I J K L M N O"] if unit == "word" else TEXTS
    made = bpe.train(texts, tmp_path, size, unit)
    assert bpe.train(texts, tmp_path, size, unit).fingerprint == made.fingerprint
    other = "bpe" if unit == "unigram" else "unigram"
    with pytest.raises(UserError, match=f"has tokens of type {unit}, not {other}; remove it or give another"):
        bpe.train(texts, tmp_path, size, other)


def test_text_as_its_tokens_spell_it(tokenizer: bpe.Tokenizer) -> None:
    assert tokenizer.spell("THE QUICK DOG'S BOX") == "THE QUICK DOG'S BOX"
    assert tokenizer.spell("ＴＨＥ BOX") == "THE BOX", "sentencepiece's own normalisation"
    assert tokenizer.spell("THE ÉTÉ") != "THE ÉTÉ"


def test_unknown_tokens_are_counted_without_marks_between_words(tokenizer: bpe.Tokenizer) -> None:
    assert tokenizer.count_unknown(tokenizer.encode("the quick dog")) == (3, 3)
    unknown, count = tokenizer.count_unknown(tokenizer.encode("THE QUICK dog"))
    assert unknown == 1 and count > 3


@pytest.mark.parametrize(
    ("texts", "size", "unit", "message"),
    [
        (TEXTS, 4000, "unigram", r"at most \d+ tokens, not 4000; give --vocab-size \d+ or less"),
        (TEXTS, 4000, "bpe", "tokens, not 4000"),
        (TEXTS, 5, "unigram", "cannot train 5 tokens"),
        ([], 50, "unigram", "no transcript"),
        ([*TEXTS, "▁THE ▁QU ICK"], 50, "unigram", "^the text '▁THE ▁QU ICK' contains ▁, .*; give words instead"),
        (TEXTS, None, "unigram", "need a vocabulary size"),
        (TEXTS, 50, "phone", "unknown token type 'phone'"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing(
    tmp_path: Path, texts: list[str], size: int, unit: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        bpe.train(texts, tmp_path / "lang", size, unit)
    assert not list(tmp_path.rglob("*.model")) and not list(tmp_path.rglob("*.txt"))


def test_text_that_ends_too_early_is_told_as_such(tmp_path: Path) -> None:
    """The error is that of the text, not the one that sentencepiece makes of it."""

    def texts() -> Iterator[str]:
        yield from TEXTS
        raise UserError("text.gz cannot be read", "give UTF-8 text")

    with pytest.raises(UserError, match="^text.gz cannot be read; give UTF-8 text$"):
        bpe.train(texts(), tmp_path / "lang", 50, "unigram")


def test_a_checkpoint_of_another_model_is_refused(tokenizer: bpe.Tokenizer, tmp_path: Path) -> None:
    tokenizer.check_matches(tokenizer.describe())
    smaller = bpe.train(TEXTS, tmp_path / "small", 50, "unigram")
    with pytest.raises(UserError, match="60 tokens but exp/teacher has 50"):
        tokenizer.check_matches(smaller.describe(), "exp/teacher")
    other = bpe.train([text + " ZEBRA" for text in TEXTS], tmp_path / "other", 60, "unigram")
    with pytest.raises(UserError, match="is not the model of exp/teacher; give the --lang-dir"):
        tokenizer.check_matches(other.describe(), "exp/teacher")


def test_broken_directories_are_named(tokenizer: bpe.Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bpe.model does not exist"):
        bpe.Tokenizer(tmp_path)
    model = (tokenizer.lang_dir / "bpe.model").read_bytes()
    (tmp_path / "bpe.model").write_bytes(model[: len(model) // 2])
    with pytest.raises(UserError, match="is not a sentencepiece model"):
        bpe.Tokenizer(tmp_path)
    (tmp_path / "bpe.model").write_bytes(model)
    (tmp_path / "tokens.txt").write_text("<blk> 0\nA 1\n")
    with pytest.raises(UserError, match="tokens.txt does not match"):
        bpe.Tokenizer(tmp_path)


def test_tables_of_other_programs(tokenizer: bpe.Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "bpe.model").write_bytes((tokenizer.lang_dir / "bpe.model").read_bytes())
    table = (tokenizer.lang_dir / "tokens.txt").read_text(encoding="utf-8")
    (tmp_path / "tokens.txt").write_text(table, encoding="utf-8-sig", newline="\r\n")
    assert bpe.Tokenizer(tmp_path).vocab_size == 60
    (tmp_path / "tokens.txt").write_bytes(b"\xc9 0\n")
    with pytest.raises(UserError, match="tokens.txt is not text in UTF-8"):
        bpe.Tokenizer(tmp_path)


def test_disambiguation_symbols_are_allowed(tokenizer: bpe.Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "bpe.model").write_bytes((tokenizer.lang_dir / "bpe.model").read_bytes())
    table = (tokenizer.lang_dir / "tokens.txt").read_text()
    (tmp_path / "tokens.txt").write_text(table + "#0 60\n#1 61\n")
    assert bpe.Tokenizer(tmp_path).vocab_size == 60
