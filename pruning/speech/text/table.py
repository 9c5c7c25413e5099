"""What says what the outputs of a network mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Protocol

from pruning.speech.text.bpe import Tokenizer


class OutputTable(Protocol):
    """What the outputs of a network stand for: tokens, intents, or what another package's kind has."""

    @property
    def path(self) -> Path:
        """The file that it is read from."""

    @property
    def vocab_size(self) -> int:
        """Number of outputs."""

    def describe(self) -> dict[str, Any]:
        """What a checkpoint records of it."""

    def check_matches(self, recorded: dict[str, Any]) -> None:
        """Refuse a checkpoint that recorded another table.

        Raises:
            UserError: it did.
        """


class CutTable(OutputTable, Protocol):
    """One that also turns a cut into a network's targets."""

    @property
    def speller(self) -> Optional[Tokenizer]:
        """The tokens that spell transcripts; None: its targets are not spelled."""

    def targets(self, cut: Any, text: str) -> list[int]:
        """The targets of a cut with the transcript ``text``."""
