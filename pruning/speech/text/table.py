"""Output tables: the meaning of a network's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Protocol

from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.transcript_form import TranscriptForm

if TYPE_CHECKING:
    import numpy as np


class OutputTable(Protocol):
    """The meaning of each output of a network: tokens, intents, or what a kind of another package defines."""

    @property
    def path(self) -> Path:
        """File from which the table is read."""

    @property
    def vocab_size(self) -> int:
        """Number of outputs."""

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint records of the table."""

    def check_matches(self, recorded: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained with another table.

        Raises:
            UserError: the checkpoint records another table.
        """


class Spelling(OutputTable, Protocol):
    """An output table of tokens that spell words."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files of the tokens, in hexadecimal."""

    @property
    def form(self) -> Optional[TranscriptForm]:
        """How transcripts begin and end, for networks with a decoder that writes text; None: without further tokens."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the words that tokens spell, separated by single spaces."""

    def check_matches(self, recorded: dict[str, Any], name: str = ...) -> None:
        """See `OutputTable.check_matches`; ``name`` is that of the checkpoint in messages."""


class TextTable(Spelling, Protocol):
    """Tokens of a language model, which also turn files of text into training data."""

    @property
    def lang_dir(self) -> Path:
        """Language directory of the tokens."""

    @property
    def unknown_id(self) -> int:
        """Token that stands for what cannot be spelled; -1: everything can."""

    @property
    def boundaries(self) -> tuple[int, int]:
        """Token before a text, and token behind it."""

    @property
    def joint(self) -> Optional[str]:
        """Characters between a text and the one before it, in running text; None: for single sentences only."""

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of many texts."""

    def count_unknown(self, tokens: np.ndarray) -> tuple[int, int]:
        """Return the number of unknown tokens in ``tokens``, and the number of tokens; word marks are not counted."""

    def begins(self) -> np.ndarray:
        """Return whether each token begins a word behind another word, ``(V,)`` bool."""


class CutTable(OutputTable, Protocol):
    """An output table that also turns a cut into training targets."""

    @property
    def speller(self) -> Optional[Tokenizer]:
        """Tokeniser that spells transcripts; None if the targets have no spelling."""

    def targets(self, cut: Any, text: str) -> list[int]:
        """Return the targets of a cut with the transcript ``text``."""
