"""Tokens and transcripts of a Whisper or a Moonshine of Hugging Face, as a language directory of ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from pruning.errors import UserError
from pruning.files import PathLike, read_json
from pruning.importers.hf_directory import CONFIG
from pruning.importers.hf_source import GENERATION
from pruning.models.encoder_decoder_config import WHISPER, EncoderDecoderConfig, TextDecoderConfig
from pruning.speech.text.network_tokens import TOKENIZER, NetworkTokens, read_tokenizer, write
from pruning.speech.text.transcript_form import TranscriptForm

logger = logging.getLogger(__name__)

FILES = (CONFIG, TOKENIZER, GENERATION)
"""Files of a checkpoint in addition to its weights."""
_OWN = "give the directory with the network's own tokenizer.json"
_STAMPS = 1501
"""Time stamps of Whisper from 0 to 30 s, which older files of tokens lack."""
_MULTILINGUAL = 51865
"""Smallest vocabulary of a Whisper of several languages (``is_multilingual`` in ``whisper/model.py`` of openai)."""
_START, _END, _NO_STAMPS = "<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"
_TRANSCRIBE, _TRANSLATE = "transcribe", "translate"
_CODE, _TASK = re.compile("[a-z]{2,3}"), re.compile(f"{_TRANSCRIBE}|{_TRANSLATE}")
FORCED = "forced_decoder_ids"
"""Setting of older checkpoints: tokens that transcripts begin with."""
_PADDING = 0.001
"""Largest share of a Moonshine's tokens that its tokenizer may lack: embeddings are padded to round numbers. Those of
Whisper are not, and the vocabularies of its versions differ by one token."""
_UNSPACED = ("zh", "ja", "th", "lo", "my", "yue")
"""Languages written without spaces between words, whose transcripts do not begin with one (``split_to_word_tokens`` in
``whisper/tokenizer.py`` of openai)."""


@dataclass(frozen=True)
class Speech:
    """What a Whisper of several languages is asked for.

    Attributes:
        language: code of the language, such as ``en``; None: that of the checkpoint's settings, or else English.
        task: ``transcribe`` or ``translate``, which is to English; None: that of the checkpoint's settings, or else
            ``transcribe``.
    """

    language: Optional[str] = None
    task: Optional[str] = None


UNSAID = Speech()
"""What the checkpoint's settings say, or else English transcripts."""


def write_lang_dir(
    directory: Path, config: EncoderDecoderConfig, lang_dir: PathLike, speech: Speech = UNSAID
) -> NetworkTokens:
    """Write the language directory of a network.

    Args:
        directory: of the checkpoint, with ``tokenizer.json`` and, unless the network chooses any token, with
            ``generation_config.json``.
        config: configuration of the network.
        lang_dir: directory to write.
        speech: what to ask a Whisper of several languages for.

    Raises:
        UserError: files are missing or broken, the tokens are not those of the network, or the network has no tokens
            for ``speech``.
    """
    tokenizer, decoder = read_tokenizer(directory / TOKENIZER), config.decoder
    family, size = decoder.family, decoder.vocab_size
    lacking = _lacking(tokenizer, decoder, directory)
    settings = _settings(directory)
    symbols: Sequence[str] = ()
    if family == WHISPER:
        _check_symbols(tokenizer, decoder, settings, directory)
        symbols = _prompt(tokenizer, size, settings, speech)
        logger.info("%s: transcripts begin with %s", directory, " ".join(symbols))
    elif speech != UNSAID:
        raise UserError(f"{directory} has one language and one task", "leave out --language and --task")
    start = (decoder.start, *(_token(tokenizer, symbol, directory) for symbol in symbols))
    unspaced = len(symbols) > 1 and symbols[0].strip("<|>") in _UNSPACED and symbols[1] != f"<|{_TRANSLATE}|>"
    suppressed, first = (_tokens(settings, name, size) for name in ("suppress_tokens", "begin_suppress_tokens"))
    form = TranscriptForm(size, start, decoder.end, (*suppressed, *lacking), first,
                          " " if family == WHISPER and not unspaced else "")  # fmt: skip
    return write(lang_dir, directory / TOKENIZER, form)


def _lacking(tokenizer: Any, decoder: TextDecoderConfig, directory: Path) -> range:
    """Return the numbers of a network's tokens that only pad its embeddings.

    Raises:
        UserError: the tokens are those of another network.
    """
    size, found = decoder.vocab_size, tokenizer.get_vocab_size()
    lacking = range(0)
    if decoder.family != WHISPER and size * (1 - _PADDING) <= found:
        lacking = range(max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1, size)
    if found + len(lacking) != size and not (decoder.family == WHISPER and found == size - _STAMPS):
        raise UserError(f"{directory / TOKENIZER} has {found} tokens, but the network has {size}", _OWN)
    return lacking


def _check_symbols(tokenizer: Any, decoder: TextDecoderConfig, settings: dict[str, Any], directory: Path) -> None:
    """Refuse tokens of another Whisper, in which the network's numbers stand for other symbols."""
    wanted = {decoder.start: _START, decoder.end: _END, settings.get("no_timestamps_token_id"): _NO_STAMPS}
    for number, symbol in wanted.items():
        found = tokenizer.id_to_token(number) if isinstance(number, int) else symbol
        if found != symbol:
            raise UserError(f"{directory / TOKENIZER} has {found} as token {number}, which is {symbol} in the network",
                            _OWN)  # fmt: skip


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


def _tokens(settings: dict[str, Any], name: str, size: int) -> tuple[int, ...]:
    """Return a list of tokens in settings; numbers outside the vocabulary of ``size`` tokens are left out."""
    tokens = settings.get(name) or ()
    if not isinstance(tokens, (list, tuple)) or not all(isinstance(token, int) for token in tokens):
        raise UserError(f"{name} of the network is not a list of tokens", f"correct it in {GENERATION}")
    return tuple(token for token in tokens if 0 <= token < size)  # -1 stood for symbols that are listed themselves


def _forced(tokenizer: Any, settings: dict[str, Any]) -> dict[str, str]:
    """Return language and task of older settings, which name them by their tokens and places behind the start.

    Raises:
        UserError: the setting is broken, or a token of it is no language or no task.
    """
    try:
        tokens = {int(place): int(token) for place, token in settings.get(FORCED) or () if token is not None}
    except (TypeError, ValueError):
        what = f"{FORCED} of the network is not a list of places and tokens"
        raise UserError(what, f"correct it in {GENERATION} or {CONFIG}") from None
    found = {}
    for place, name, known in ((1, "language", _CODE), (2, "task", _TASK)):
        if place in tokens:
            symbol = tokenizer.id_to_token(tokens[place]) if tokens[place] >= 0 else None
            found[name] = str(symbol).strip("<|>")
            if not known.fullmatch(found[name]):
                raise UserError(f"{FORCED} of the network asks for the {name} {symbol}, token {tokens[place]}",
                                f"correct it in {GENERATION} or {CONFIG}")  # fmt: skip
    return found


def _prompt(tokenizer: Any, size: int, settings: dict[str, Any], speech: Speech) -> list[str]:
    """Return the symbols behind Whisper's start of a transcript.

    Raises:
        UserError: another language is asked of a network for English alone, or the settings name a language in words
            instead of by its code, or are broken.
    """
    several = settings.get("is_multilingual")
    if several if isinstance(several, bool) else size >= _MULTILINGUAL:
        settings = {**_forced(tokenizer, settings), **{name: of for name, of in settings.items() if of is not None}}
        language = speech.language or str(settings.get("language") or "en").strip("<|>")
        if speech.language is None and not _CODE.fullmatch(language):
            raise UserError(f"{GENERATION} asks for the language {language!r}",
                            "give its code as --language, such as de for german")  # fmt: skip
        return [f"<|{language}|>", f"<|{speech.task or settings.get('task') or _TRANSCRIBE}|>", _NO_STAMPS]
    if speech.language not in (None, "en") or speech.task not in (None, _TRANSCRIBE):
        raise UserError("the network only transcribes English", "leave out --language and --task")
    return [_NO_STAMPS]


def _token(tokenizer: Any, symbol: str, directory: Path) -> int:
    token: Optional[int] = tokenizer.token_to_id(symbol)
    if token is None:
        remedy = "give a language of the network by its code, such as de, and a task of the network"
        raise UserError(f"{directory / TOKENIZER} has no token {symbol}", remedy)
    return token
