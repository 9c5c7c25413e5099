"""The tokens of language models, with those around a text: word pieces of ours, or the own tokens of a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Union

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.network_tokens import TOKENIZER, NetworkTokens
from pruning.speech.text.sentences import boundary_id

_SHOWN = 60
"""Number of characters of a text that error messages show."""


class TextTokens(Protocol):
    """The tokens of a language model, with those around a text."""

    @property
    def start(self) -> Sequence[int]:
        """Tokens before a text, at least one."""

    @property
    def end(self) -> int:
        """Token behind a text."""

    @property
    def takes_context(self) -> bool:
        """Whether texts may follow others."""

    @property
    def joint(self) -> str:
        """What a text that follows another begins with, before it is encoded.

        Raises:
            UserError: the tokens spell running text otherwise than its texts.
        """

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text.

        Raises:
            UserError: the tokens cannot spell it.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the words that tokens spell."""


class SentenceTokens:
    """Word pieces of a language model of single sentences.

    Args:
        tokenizer: the word pieces.
    """

    takes_context = False
    joint = ""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.end = boundary_id(tokenizer)
        self.start = (self.end,)

    def encode(self, text: str) -> list[int]:
        """See `TextTokens`."""
        tokens = self._tokenizer.encode(text)
        if self._tokenizer.count_unknown(tokens)[0]:
            what = f"the hypothesis {text[:_SHOWN]!r} contains characters that the word pieces do not cover"
            raise UserError(what, "write the list in the same form as the training text of the language model")
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """See `TextTokens`."""
        return self._tokenizer.decode(tokens)


class RunningTokens:
    """The own tokens of a language model of running text.

    Args:
        tokens: the tokens, whose form has those before and behind a text.
    """

    takes_context = True

    def __init__(self, tokens: NetworkTokens) -> None:
        self._tokens = tokens
        self.start, self.end = tokens.form.start, tokens.form.end

    @property
    def joint(self) -> str:
        """See `TextTokens`."""
        return self._tokens.joint

    def encode(self, text: str) -> list[int]:
        """See `TextTokens`."""
        return self._tokens.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `TextTokens`."""
        return self._tokens.decode(tokens)


def read_tokens(lang_dir: PathLike) -> Union[Tokenizer, NetworkTokens]:
    """Return the tokens of a language directory: a network's own if it has any, or word pieces.

    Raises:
        UserError: the directory has neither, or they are broken.
    """
    return NetworkTokens(lang_dir) if (Path(lang_dir) / TOKENIZER).is_file() else Tokenizer(lang_dir)


def text_tokens(tokens: Union[Tokenizer, NetworkTokens]) -> TextTokens:
    """Return tokens with those around a text."""
    return RunningTokens(tokens) if isinstance(tokens, NetworkTokens) else SentenceTokens(tokens)
