"""Intents of utterances: the numbered table of training intents, and accuracy."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Optional

from pruning import files
from pruning.errors import UserError

TABLE = "intents.txt"


class Intent(NamedTuple):
    """An intent as scenario and action, such as ``alarm`` and ``set``."""

    scenario: str
    action: str

    def __str__(self) -> str:
        return f"{self.scenario}_{self.action}"


def intent_of(cut: Any) -> Intent:
    """Return the intent of a cut, from the ``custom`` fields of its supervision.

    Raises:
        UserError: the cut has no intent.
    """
    custom = (cut.supervisions[0].custom if len(cut.supervisions) == 1 else None) or {}
    if not custom.get("scenario") or not custom.get("action"):
        raise UserError(f"cut {cut.id} has no intent", "add the custom fields scenario and action to its supervision")
    return Intent(str(custom["scenario"]), str(custom["action"]))


class Intents:
    """The numbered intents of a classifier, read from ``intents.txt`` of a language directory.

    Attributes:
        table: intents in order of their numbers.
        fingerprint: SHA-256 of the table, in hexadecimal.

    Raises:
        UserError: the file is missing or broken.
    """

    def __init__(self, lang_dir: files.PathLike) -> None:
        self.lang_dir = Path(lang_dir)
        path = self.lang_dir / TABLE
        remedy = "create it with local/make_intents.py"
        if not path.is_file():
            raise UserError(f"{path} does not exist", remedy)
        self.table: list[Intent] = []
        for number, line in enumerate(files.read_lines(path), 1):
            words = line.split()
            if len(words) != 3 or words[2] != str(number - 1):
                raise UserError(f"{path} line {number}: {line!r} is not `scenario action {number - 1}`", remedy)
            self.table.append(Intent(words[0], words[1]))
        if len(set(self.table)) != len(self.table) or len(self.table) < 2:
            raise UserError(f"{path} has duplicate intents or fewer than two intents", remedy)
        self._numbers = {intent: number for number, intent in enumerate(self.table)}
        self.fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()

    @property
    def path(self) -> Path:
        """Path of the table."""
        return self.lang_dir / TABLE

    @property
    def vocab_size(self) -> int:
        """Number of intents."""
        return len(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def number(self, intent: Intent) -> Optional[int]:
        """Return the number of an intent; None if it does not occur in training."""
        return self._numbers.get(intent)

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint records, for `check_matches`."""
        return {"intents": len(self.table), "sha256": self.fingerprint}

    @property
    def speller(self) -> None:
        """None, since intents have no spelling."""
        return None

    def targets(self, cut: Any, text: str) -> list[int]:
        """Return the number of a cut's intent; -1 if it does not occur in training.

        Raises:
            UserError: the cut has no intent.
        """
        number = self.number(intent_of(cut))
        return [-1 if number is None else number]

    def check_matches(self, recorded: dict[str, Any], name: str = "the checkpoint") -> None:
        """Check that a checkpoint was trained with this table.

        Raises:
            UserError: the checkpoint was trained with another table.
        """
        if recorded.get("intents") != len(self.table) or recorded.get("sha256") != self.fingerprint:
            what = f"{self.lang_dir / TABLE} is not the table that {name} was trained with"
            raise UserError(what, "give the --lang-dir that it was trained with")


def write_table(intents: Iterable[Intent], lang_dir: files.PathLike) -> Intents:
    """Write the table of the distinct ``intents``, sorted.

    Raises:
        UserError: there are fewer than two intents, or a name contains a space.
    """
    found = sorted(set(intents))
    for intent in found:
        if any(len(word.split()) != 1 for word in intent):
            raise UserError(f"scenario {intent.scenario!r} and action {intent.action!r} must be one word each",
                            "write them without spaces")  # fmt: skip
    if len(found) < 2:
        raise UserError(f"found {len(found)} distinct intents, need at least 2", "give cuts with two or more intents")
    lines = [f"{intent.scenario} {intent.action} {number}\n" for number, intent in enumerate(found)]
    files.write_text(Path(lang_dir) / TABLE, "".join(lines))
    return Intents(lang_dir)


def compared(wanted: Iterable[Intent], found: Iterable[Intent]) -> dict[str, list[int]]:
    """Compare the reference intents of utterances with the predicted ones: 1 where they agree.

    Returns:
        For each utterance whether ``scenario``, ``action`` and both, ``correct``, are right.

    Raises:
        ValueError: the two lists differ in length.
    """
    pairs = list(zip(wanted, found, strict=True))
    return {
        "correct": [int(want == have) for want, have in pairs],
        "scenario": [int(want.scenario == have.scenario) for want, have in pairs],
        "action": [int(want.action == have.action) for want, have in pairs],
    }


def unseen(wanted: Iterable[Intent], known: Intents) -> dict[str, int]:
    """Return the intents that do not occur in training, with their numbers of utterances, which all count as wrong."""
    return dict(Counter(str(want) for want in wanted if known.number(want) is None).most_common())
