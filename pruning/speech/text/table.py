"""Output tables: the meaning of a network's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Protocol

from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.transcript_form import TranscriptForm


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


class CutTable(OutputTable, Protocol):
    """An output table that also turns a cut into training targets."""

    @property
    def speller(self) -> Optional[Tokenizer]:
        """Tokeniser that spells transcripts; None if the targets have no spelling."""

    def targets(self, cut: Any, text: str) -> list[int]:
        """Return the targets of a cut with the transcript ``text``."""
