"""Output tables: the meaning of a network's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Protocol

from pruning.speech.text.bpe import Tokenizer


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


class CutTable(OutputTable, Protocol):
    """An output table that also turns a cut into training targets."""

    @property
    def speller(self) -> Optional[Tokenizer]:
        """Tokeniser that spells transcripts; None if the targets have no spelling."""

    def targets(self, cut: Any, text: str) -> list[int]:
        """Return the targets of a cut with the transcript ``text``."""
