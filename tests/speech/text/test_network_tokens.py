"""Tokens of a pre-trained network: equal to the library's, checked against checkpoints, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.errors import UserError
from pruning.files import read_json, write_json
from pruning.importers import small_network
from pruning.importers.small_network import SmallConfig
from pruning.speech.text import network_tokens
from pruning.speech.text.network_tokens import FORM, TOKENIZER, NetworkTokens
from pruning.speech.text.transcript_form import TranscriptForm

tokenizers = pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
TEXTS = ["Hello world.", "It isn't much, is it?", "Seventy-one birds."]


def made(place: Path, family: str = "moonshine") -> NetworkTokens:
    small_network.write(place / "source", TEXTS * 5, SmallConfig(family, 16, 1, 300))
    values = read_json(place / "source" / "config.json")
    start, end = values["decoder_start_token_id"], values["eos_token_id"]
    form = TranscriptForm(values["vocab_size"], (start,), end, (7,), (end,), " " if family == "whisper" else "")
    return network_tokens.write(place / "lang", place / "source" / TOKENIZER, form)


@pytest.mark.parametrize("family", ["moonshine", "whisper"])
@pytest.mark.parametrize("text", [*TEXTS, "Ünseen wörds €5"])
def test_texts_come_back(tmp_path: Path, family: str, text: str) -> None:
    tokens = made(tmp_path, family)
    found = tokens.encode(text)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "source" / TOKENIZER))
    assert found == library.encode(tokens.form.before + text, add_special_tokens=False).ids
    assert tokens.decode(tokens.form.whole(found)) == text, "without the tokens around it"
    assert tokens.targets(None, text) == found and max(found) < tokens.vocab_size
    assert tokens.decode([*found, tokens.vocab_size + 5, -1]) == text, "tokens of no text are left out"


def test_a_symbol_of_a_special_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the text 'Hello </s>' contains the symbol </s>; remove it"):
        made(tmp_path).encode("Hello </s>")


def test_a_checkpoint_names_its_tokens(tmp_path: Path) -> None:
    tokens = made(tmp_path)
    tokens.check_matches(tokens.describe())
    tokens.check_matches({"vocab_size": tokens.vocab_size})
    with pytest.raises(UserError, match=f"is for {tokens.vocab_size} tokens but the checkpoint has 7"):
        tokens.check_matches({"vocab_size": 7})
    write_json(tmp_path / "lang" / FORM, {**read_json(tmp_path / "lang" / FORM), "start": [0]})
    other = NetworkTokens(tmp_path / "lang")
    with pytest.raises(UserError, match="are not those of the checkpoint; give the lang dir"):
        other.check_matches(tokens.describe())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": []}, "start must have at least one token"),
        ({"end": 100000}, "token 100000 is not below vocab_size"),
        ({"end": -1}, "end must be at least 0, got -1"),
        ({"prompt": 1}, "unexpected keyword argument 'prompt'"),
        ({"vocab_size": 200}, "token"),
    ],
)
def test_broken_directories_are_refused(tmp_path: Path, values: dict[str, object], message: str) -> None:
    made(tmp_path)
    write_json(tmp_path / "lang" / FORM, {**read_json(tmp_path / "lang" / FORM), **values})
    with pytest.raises(UserError, match=message):
        NetworkTokens(tmp_path / "lang")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"transcripts.json does not exist; import the network again"):
        NetworkTokens(tmp_path)
    made(tmp_path)
    (tmp_path / "lang" / TOKENIZER).write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read by tokenizers [0-9.]+ \("):
        NetworkTokens(tmp_path / "lang")
    (tmp_path / "lang" / TOKENIZER).unlink()
    with pytest.raises(UserError, match=r"tokenizer.json does not exist; give a directory"):
        NetworkTokens(tmp_path / "lang")


def changed(place: Path, **changes: object) -> NetworkTokens:
    """Return the tokens of a directory whose ``tokenizer.json`` was changed."""
    made(place)
    write_json(place / "lang" / TOKENIZER, {**read_json(place / "lang" / TOKENIZER), **changes})
    return NetworkTokens(place / "lang")


def test_settings_that_shorten_or_fill_up_texts_are_left_out(tmp_path: Path) -> None:
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    filled = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
              "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip
    expected = made(tmp_path / "as it was").encode_all(TEXTS)
    assert changed(tmp_path / "changed", truncation=cut, padding=filled).encode_all(TEXTS) == expected
    assert max(map(len, expected)) > 3


def test_merges_of_newer_files_are_read(tmp_path: Path) -> None:
    """The library writes a merge as two symbols from version 0.20 on."""
    tokens = made(tmp_path / "as it was")
    model = read_json(tmp_path / "as it was" / "lang" / TOKENIZER)["model"]
    pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    assert pairs
    newer = changed(tmp_path / "newer", model={**model, "merges": pairs})
    older = changed(tmp_path / "older", model={**model, "merges": [" ".join(pair) for pair in pairs]})
    assert newer.encode_all(TEXTS) == older.encode_all(TEXTS) == tokens.encode_all(TEXTS)


@pytest.mark.parametrize("family", ["moonshine", "whisper"])
def test_words_may_be_added(tmp_path: Path, family: str) -> None:
    """Added tokens that are not special are text; time stamps of Whisper are not, although they are not marked."""
    made(tmp_path, family)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "source" / TOKENIZER))
    library.add_tokens(["t\u00fcr", "<|1.02|>"])
    library.save(str(tmp_path / "source" / TOKENIZER))
    size = library.get_vocab_size()
    form = TranscriptForm(size, (1,), 2, (), (), " " if family == "whisper" else "")
    tokens = network_tokens.write(tmp_path / "more", tmp_path / "source" / TOKENIZER, form)
    found = tokens.encode("The t\u00fcr is here.")
    assert size - 2 in found and tokens.decode(found) == "The t\u00fcr is here."
    assert tokens.symbols()[size - 2] == "t\u00fcr" and size - 1 not in tokens.symbols()
    if family == "whisper":
        assert tokens.pieces()[size - 2] == "t\u00fcr".encode()
    with pytest.raises(UserError, match=r"contains the symbol <\|1.02\|>"):
        tokens.encode("Here <|1.02|>")


def test_tokens_of_another_network_are_not_overwritten(tmp_path: Path) -> None:
    tokens = made(tmp_path)
    assert made(tmp_path).fingerprint == tokens.fingerprint, "the same tokens again"
    other = TranscriptForm(tokens.vocab_size, (0,), tokens.form.end)
    with pytest.raises(UserError, match="lang has the tokens of another network, or of other settings; give another"):
        network_tokens.write(tmp_path / "lang", tmp_path / "source" / TOKENIZER, other)
    assert NetworkTokens(tmp_path / "lang").fingerprint == tokens.fingerprint
