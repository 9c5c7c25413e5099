"""Tokens and transcripts of a Whisper or a Moonshine of Hugging Face, as a language directory of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from pruning.errors import UserError
from pruning.files import PathLike, read_json
from pruning.importers.hf_directory import CONFIG
from pruning.importers.hf_source import GENERATION
from pruning.models.encoder_decoder_config import WHISPER, EncoderDecoderConfig
from pruning.speech.text.network_tokens import TOKENIZER, NetworkTokens, read_tokenizer, write
from pruning.speech.text.transcript_form import TranscriptForm

FILES = (CONFIG, TOKENIZER, GENERATION)
"""Files of a checkpoint in addition to its weights."""
_STAMPS = 1501
"""Time stamps of Whisper from 0 to 30 s, which older files of tokens lack."""
_MULTILINGUAL = 51865
"""Smallest vocabulary of a Whisper of several languages (``is_multilingual`` in ``whisper/model.py`` of openai)."""
_NO_STAMPS = "<|notimestamps|>"


@dataclass(frozen=True)
class Speech:
    """What a Whisper of several languages is asked for.

    Attributes:
        language: code of the language, such as ``en``.
        task: ``transcribe`` or ``translate``, which is to English.
    """

    language: str = "en"
    task: str = "transcribe"


def write_lang_dir(
    directory: Path, config: EncoderDecoderConfig, lang_dir: PathLike, speech: Optional[Speech] = None
) -> NetworkTokens:
    """Write the language directory of a network.

    Args:
        directory: of the checkpoint, with ``tokenizer.json`` and, unless the network chooses any token, with
            ``generation_config.json``.
        config: configuration of the network.
        lang_dir: directory to write.
        speech: what to ask a Whisper of several languages for; None: English transcripts.

    Raises:
        UserError: files are missing or broken, the tokens are not those of the network, or the network has no tokens
            for ``speech``.
    """
    tokenizer, decoder = read_tokenizer(directory / TOKENIZER), config.decoder
    family, size, found = decoder.family, decoder.vocab_size, tokenizer.get_vocab_size()
    if found not in ((size, size - _STAMPS) if family == WHISPER else (size,)):
        raise UserError(f"{directory / TOKENIZER} has {found} tokens, but the network has {size}",
                        "give the directory with the network's own tokenizer.json")  # fmt: skip
    settings = _settings(directory)
    start: Sequence[int] = (decoder.start,)
    if family == WHISPER:
        start = [decoder.start, *(_token(tokenizer, symbol, directory) for symbol in _prompt(size, settings, speech))]
    elif speech is not None:
        raise UserError(f"{directory} has one language and one task", "leave out --language and --task")
    form = TranscriptForm(size, tuple(start), decoder.end, _tokens(settings, "suppress_tokens"),
                          _tokens(settings, "begin_suppress_tokens"), " " if family == WHISPER else "")  # fmt: skip
    return write(lang_dir, directory / TOKENIZER, form)


def _settings(directory: Path) -> dict[str, Any]:
    """Return the settings of decoding, which older checkpoints have in the configuration of the network."""
    found: dict[str, Any] = {}
    for name in (CONFIG, GENERATION):
        if (directory / name).is_file():
            values = read_json(directory / name, "copy it again from the network's source")
            if not isinstance(values, dict):
                raise UserError(f"{directory / name} does not contain a configuration", "copy it again")
            found.update(values)
    return found


def _tokens(settings: dict[str, Any], name: str) -> tuple[int, ...]:
    """Return a list of tokens in settings."""
    tokens = settings.get(name) or ()
    if not isinstance(tokens, (list, tuple)) or not all(isinstance(token, int) for token in tokens):
        raise UserError(f"{name} of the network is not a list of tokens", f"correct it in {GENERATION}")
    return tuple(token for token in tokens if token >= 0)  # -1 stood for symbols that are listed themselves


def _prompt(size: int, settings: dict[str, Any], speech: Optional[Speech]) -> list[str]:
    """Return the symbols behind Whisper's start of a transcript."""
    several = settings.get("is_multilingual")
    if several if isinstance(several, bool) else size >= _MULTILINGUAL:
        speech = speech or Speech()
        return [f"<|{speech.language}|>", f"<|{speech.task}|>", _NO_STAMPS]
    if speech not in (None, Speech()):
        raise UserError("the network only transcribes English", "leave out --language and --task")
    return [_NO_STAMPS]


def _token(tokenizer: Any, symbol: str, directory: Path) -> int:
    token: Optional[int] = tokenizer.token_to_id(symbol)
    if token is None:
        raise UserError(f"{directory / TOKENIZER} has no token {symbol}", "give a language and a task of the network")
    return token
