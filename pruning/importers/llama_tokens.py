"""Tokens of a language model of Hugging Face, as a language directory of ours."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Optional

from pruning.errors import UserError
from pruning.files import PathLike, read_json
from pruning.importers.hf_directory import CONFIG
from pruning.models.transformer_lm_config import LanguageModelConfig
from pruning.speech.text.network_tokens import TOKENIZER, NetworkTokens, read_tokenizer, write
from pruning.speech.text.transcript_form import TranscriptForm

logger = logging.getLogger(__name__)

SETTINGS = "tokenizer_config.json"
FILES = (CONFIG, TOKENIZER, SETTINGS)
"""Files of a checkpoint in addition to its weights."""
_BETWEEN = "<|endoftext|>"
"""Token between the documents of a pre-training text, where a tokenizer has it."""
_PADDING = 0.01
"""Largest share of a network's tokens that its tokenizer may lack: embeddings are padded to round numbers."""


def write_lang_dir(
    directory: Path, config: LanguageModelConfig, lang_dir: PathLike, start: Optional[str] = None
) -> NetworkTokens:
    """Write the language directory of a network.

    A text begins with ``start``. By default that is the token between the documents of the pre-training text,
    ``<|endoftext|>``, if the tokenizer has it, or else the ``bos_token``, or else the ``eos_token``. A network that was
    trained on chats may have another ``bos_token``, behind which plain text is unlikely. A text ends with
    ``<|endoftext|>`` too, or else with the ``eos_token``, or else with ``start``.

    Args:
        directory: of the checkpoint, with ``tokenizer.json``.
        config: configuration of the network.
        lang_dir: directory to write.
        start: token before a text: its number or its symbol; None: by default.

    Raises:
        UserError: files are missing or broken, the tokens are not those of the network, or there is no such token.
    """
    path = directory / TOKENIZER
    tokenizer, size = read_tokenizer(path), config.vocab_size
    numbers = tokenizer.get_vocab(with_added_tokens=True)
    if not size * (1 - _PADDING) <= len(numbers) <= size or max(numbers.values()) >= size:
        raise UserError(f"{path} has {len(numbers)} tokens, but the network has {size}",
                        "give the directory with the network's own tokenizer.json")  # fmt: skip
    settings = _settings(directory)
    named = [_BETWEEN, *(_symbol(settings.get(name)) for name in ("bos_token", "eos_token"))]
    known = [numbers.get(symbol) for symbol in named]
    begin = _first(known) if start is None else _chosen(numbers, start, path)
    if begin is None:
        raise UserError(f"{directory} does not tell which token begins a text", "give --start-token")
    end = _first([known[0], known[2], begin])
    assert end is not None
    symbols = {number: symbol for symbol, number in numbers.items()}
    logger.info("texts begin with token %d, %s", begin, symbols[begin])
    return write(lang_dir, path, TranscriptForm(size, (begin,), end))


def _settings(directory: Path) -> dict[str, Any]:
    if not (directory / SETTINGS).is_file():
        return {}
    values = read_json(directory / SETTINGS, "copy it again from the network's source")
    if not isinstance(values, dict):
        raise UserError(f"{directory / SETTINGS} does not contain settings", "copy it again")
    return values


def _symbol(value: Any) -> str:
    """Return the symbol of a special token, which may be described by a dictionary; empty: there is none."""
    symbol = value.get("content") if isinstance(value, dict) else value
    return symbol if isinstance(symbol, str) else ""


def _first(tokens: list[Optional[int]]) -> Optional[int]:
    return next((token for token in tokens if token is not None), None)


def _chosen(numbers: dict[str, int], start: str, path: Path) -> int:
    """Return the number of a token that is given as a number or as a symbol; digits are a number."""
    chosen = int(start) if start.isdecimal() else numbers.get(start)
    if chosen is not None and chosen in numbers.values():
        return chosen
    raise UserError(f"{path} has no token {start}", "give --start-token as a symbol or a number of the tokenizer")
