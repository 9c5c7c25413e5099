"""Tokens of a pre-trained encoder-decoder: its ``tokenizer.json`` in a language directory, read by Hugging Face's
library tokenizers, with the form of its transcripts."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning import files
from pruning.errors import UserError
from pruning.optional import package
from pruning.speech.text.byte_level import bytes_of
from pruning.speech.text.transcript_form import TranscriptForm

if TYPE_CHECKING:
    import numpy as np

TOKENIZER, FORM = "tokenizer.json", "transcripts.json"
_REMEDY = "import the network again with pruning.bin.import_hf"
_COPY = "copy it again from the network's source"
_WORD_MARKS = ("\u0120", "\u2581")
"""Symbols of the space before a word: of byte-level word pieces, and of sentencepiece."""
_STAMP = re.compile(r"<\|\d+\.\d\d\|>")
"""Time stamps of Whisper, which are not marked as special."""
_SHOWN = 60
"""Number of characters of a text that error messages show."""


class NetworkTokens:
    """Convert text to token ids and back as a pre-trained network does; case and punctuation are kept.

    Args:
        lang_dir: language directory with ``tokenizer.json`` and ``transcripts.json``, see `write`.

    Attributes:
        form: how transcripts begin and end.
        fingerprint: SHA-256 of both files, in hexadecimal.

    Raises:
        UserError: a file is missing or broken, the tokens are more than those of the network, or the package tokenizers
            is not installed.
    """

    def __init__(self, lang_dir: files.PathLike) -> None:
        self.lang_dir = Path(lang_dir)
        values = files.read_json(self.lang_dir / FORM, _REMEDY)
        try:
            self.form = TranscriptForm(**values)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.lang_dir / FORM} does not describe transcripts ({error})", _REMEDY) from None
        self._tokenizer = read_tokenizer(self.path)
        self._size: int = self._tokenizer.get_vocab_size()
        if self._size > self.form.vocab_size:
            raise UserError(f"{self.path} has {self._size} tokens, but {FORM} allows {self.form.vocab_size}", _REMEDY)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {number: token.content for number, token in added.items()
                         if token.special or _STAMP.fullmatch(token.content)}  # fmt: skip
        self._words = {number: token.content for number, token in added.items() if number not in self._special}
        both = b"".join((self.lang_dir / name).read_bytes() for name in (TOKENIZER, FORM))
        self.fingerprint = hashlib.sha256(both).hexdigest()

    @property
    def path(self) -> Path:
        """Path of the tokens."""
        return self.lang_dir / TOKENIZER

    @property
    def vocab_size(self) -> int:
        """Number of tokens of the network."""
        return self.form.vocab_size

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without those around it.

        Raises:
            UserError: the text contains the symbol of a special token, which cannot occur in a transcript.
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Run `encode` on many texts in parallel."""
        given = [self.form.before + text for text in texts]
        rows = [found.ids for found in self._tokenizer.encode_batch(given, add_special_tokens=False)]
        for text, tokens in zip(texts, rows):
            for token in tokens:
                if token in self._special:
                    raise UserError(f"the text {text[:_SHOWN]!r} contains the symbol {self._special[token]}",
                                    "remove it from the text")  # fmt: skip
        return rows

    @property
    def boundaries(self) -> tuple[int, int]:
        """Token before a text, the last one of the form's start, and token behind it."""
        return self.form.start[-1], self.form.end

    @cached_property
    def joint(self) -> str:
        """Space between a text and the one before it, if the tokens of a text do not begin with one anyway.

        Raises:
            UserError: running text is not spelled as its texts are.
        """
        whole, first, second = self.encode_all(["ab cd", "ab", "cd"])
        for joint in (" ", ""):
            if whole == [*first, *(second if not joint else self.encode(f"{joint}cd"))]:
                return joint
        raise UserError(f"{self.path} spells running text otherwise than its texts", "use texts without context")

    @property
    def speech(self) -> dict[str, str]:
        """What Whisper's start asks for, ``{"language": "de", "task": "transcribe"}``; empty: no such start."""
        symbols = [self._special.get(token, "").strip("<|>") for token in self.form.start[1:3]]
        return dict(zip(("language", "task"), symbols)) if len(self.form.start) > 3 else {}

    @property
    def unknown_id(self) -> int:
        """Token that stands for what cannot be spelled; -1: everything can."""
        symbol = getattr(self._tokenizer.model, "unk_token", None)
        number = None if symbol is None else self._tokenizer.token_to_id(symbol)
        return -1 if number is None else int(number)

    def count_unknown(self, tokens: np.ndarray) -> tuple[int, int]:
        """Return the number of unknown tokens in ``tokens``, and the number of tokens."""
        return int((tokens == self.unknown_id).sum()), len(tokens)

    def begins(self) -> np.ndarray:
        """Return whether each token begins a word behind another word, ``(V,)`` bool."""
        import numpy as np

        found = np.zeros(self.vocab_size, dtype=bool)
        for number, symbol in self._ordinary().items():
            found[number] = symbol.startswith(_WORD_MARKS)
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the words that ``tokens`` spell, separated by single spaces; special tokens are left out."""
        known = [int(token) for token in tokens if 0 <= token < self._size and token not in self._special]
        if not self._words or not self._is_byte_level:
            return " ".join(self._tokenizer.decode(known).split())
        # the library would take the letters of added words for bytes
        parts = (self._words.get(token) for token in known)
        runs = itertools.groupby(zip(known, parts), key=lambda pair: pair[1] is None)
        return " ".join(
            "".join(
                self._tokenizer.decode([token for token, _ in run])
                if ordinary
                else "".join(part or "" for _, part in run)
                for ordinary, run in runs
            ).split()
        )

    def special(self) -> dict[str, int]:
        """Return the numbers of the special tokens by their symbols."""
        return {symbol: number for number, symbol in self._special.items()}

    def pieces(self) -> dict[int, bytes]:
        """Return the bytes that each token stands for, special tokens left out.

        Raises:
            UserError: the tokens are not byte-level word pieces.
        """
        if not self._is_byte_level:
            raise UserError(f"{self.path} has no byte-level word pieces, as a Whisper has", _REMEDY)
        return {number: self._bytes(number, symbol) for number, symbol in self._ordinary().items()}

    def symbols(self) -> dict[int, str]:
        """Return the text of each token, special tokens left out; what cannot be printed has its own symbol."""
        if not self._is_byte_level:
            return self._ordinary()
        found = {}
        for number, symbol in self._ordinary().items():
            text = self._bytes(number, symbol).decode(errors="replace")
            found[number] = text if text.isprintable() and "\ufffd" not in text else symbol
        return found

    def _bytes(self, number: int, symbol: str) -> bytes:
        """Return the bytes of a byte-level word piece, or of a word that was added as it is."""
        return symbol.encode() if number in self._words else bytes_of(symbol)

    @property
    def _is_byte_level(self) -> bool:
        return '"ByteLevel"' in json.dumps(json.loads(self._tokenizer.to_str()).get("decoder"))

    def _ordinary(self) -> dict[int, str]:
        """Return the symbol of each token that is not special."""
        known = {number: symbol for symbol, number in self._tokenizer.get_vocab().items()}
        return {number: symbol for number, symbol in known.items() if number not in self._special}

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint records, for `check_matches`."""
        return {"vocab_size": self.vocab_size, "sha256": self.fingerprint}

    @property
    def speller(self) -> None:
        """None: transcripts need no frame for each token, and every text can be spelled."""
        return None

    def targets(self, cut: object, text: str) -> list[int]:
        """Return the tokens of a transcript, see `encode`."""
        return self.encode(text)

    def check_matches(self, recorded: dict[str, Any], name: str = "the checkpoint") -> None:
        """Check that a checkpoint was made with these tokens.

        Args:
            recorded: result of `describe` when the checkpoint was made; missing keys are not compared.
            name: name of the checkpoint for the error message.

        Raises:
            UserError: the number of tokens or the fingerprint differs.
        """
        remedy = "give the lang dir that pruning.bin.import_hf wrote for the network"
        size, fingerprint = recorded.get("vocab_size"), recorded.get("sha256")
        if size is not None and size != self.vocab_size:
            raise UserError(f"{self.lang_dir} is for {self.vocab_size} tokens but {name} has {size}", remedy)
        if fingerprint is not None and fingerprint != self.fingerprint:
            raise UserError(f"{TOKENIZER} and {FORM} in {self.lang_dir} are not those of {name}", remedy)


def check_exists(path: Path) -> None:
    """Check that there is a ``tokenizer.json``.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return
    remedy = "give a directory that contains the network's tokenizer.json"
    if (path.parent / "vocab.json").is_file():
        remedy = "write it with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
    raise UserError(f"{path} does not exist", remedy)


def read_tokenizer(path: Path) -> Any:
    """Read a ``tokenizer.json``; settings in it that shorten texts or fill them up are left out.

    Raises:
        UserError: the file is missing or broken, or the package tokenizers is not installed.
    """
    library = package("tokenizers", "a network with its own tokens", "hf")
    check_exists(path)
    values: Any = files.read_json(path, _COPY)
    try:
        tokenizer = library.Tokenizer.from_str(json.dumps(_with_joined_merges(values)))
    except Exception as error:  # the library raises Exception itself
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"{path} cannot be read by tokenizers {library.__version__} ({reason})",
                        f"{_COPY}, or install a newer version of tokenizers") from None  # fmt: skip
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _with_joined_merges(values: Any) -> Any:
    """Return the content of a ``tokenizer.json`` with merges as texts, which all versions of the library read.

    From version 0.20 on, the library writes a merge as two symbols, because symbols may contain spaces.
    """
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict):
        return values
    merges = model.get("merges")
    if not isinstance(merges, list) or not all(isinstance(pair, list) for pair in merges):
        return values
    if any(len(pair) != 2 or " " in "".join(map(str, pair)) for pair in merges):
        return values
    return {**values, "model": {**model, "merges": [" ".join(pair) for pair in merges]}}


def write(lang_dir: files.PathLike, tokenizer: Path, form: TranscriptForm) -> NetworkTokens:
    """Write a language directory with a copy of ``tokenizer``; return its tokens.

    Raises:
        UserError: the directory has other tokens, with which experiments may have been made.
    """
    place = Path(lang_dir)
    if (place / TOKENIZER).is_file() and (place / FORM).is_file():
        equal = (place / TOKENIZER).read_bytes() == tokenizer.read_bytes()
        if not equal or NetworkTokens(place).form != form:
            raise UserError(f"{place} has the tokens of another network, or of other settings",
                            "give another directory, or remove it")  # fmt: skip
    with files.atomic_path(place / TOKENIZER) as temporary:
        temporary.write_bytes(tokenizer.read_bytes())
    files.write_json(place / FORM, dataclasses.asdict(form))
    return NetworkTokens(place)
