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
    with pytest.raises(UserError, match=r"tokenizer.json is not a tokenizer \("):
        NetworkTokens(tmp_path / "lang")
    (tmp_path / "lang" / TOKENIZER).unlink()
    with pytest.raises(UserError, match=r"tokenizer.json does not exist; give a directory"):
        NetworkTokens(tmp_path / "lang")
