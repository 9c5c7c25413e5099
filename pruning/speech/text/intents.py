"""Intents of utterances: a table of those that training has, laid out as tokens are, and counting of what is right."""

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
    """What somebody wants: ``alarm``, ``set``."""

    scenario: str
    action: str

    def __str__(self) -> str:
        return f"{self.scenario}_{self.action}"


def intent_of(cut: Any) -> Intent:
    """The intent of a cut, from the ``custom`` of its supervision.

    Raises:
        UserError: it has none.
    """
    custom = (cut.supervisions[0].custom if len(cut.supervisions) == 1 else None) or {}
    if not custom.get("scenario") or not custom.get("action"):
        raise UserError(f"cut {cut.id} has no intent", "give its supervision custom fields scenario and action")
    return Intent(str(custom["scenario"]), str(custom["action"]))


class Intents:
    """The intents that a classifier tells apart, numbered, from ``intents.txt`` of a language directory.

    Attributes:
        table: by number.
        fingerprint: SHA-256 of the table, in hexadecimal.

    Raises:
        UserError: the file is missing or broken.
    """

    def __init__(self, lang_dir: files.PathLike) -> None:
        self.lang_dir = Path(lang_dir)
        path = self.lang_dir / TABLE
        remedy = "make it with local/make_intents.py"
        if not path.is_file():
            raise UserError(f"{path} does not exist", remedy)
        self.table: list[Intent] = []
        for number, line in enumerate(files.read_lines(path), 1):
            words = line.split()
            if len(words) != 3 or words[2] != str(number - 1):
                raise UserError(f"{path} line {number}: {line!r} is not `scenario action {number - 1}`", remedy)
            self.table.append(Intent(words[0], words[1]))
        if len(set(self.table)) != len(self.table) or len(self.table) < 2:
            raise UserError(f"{path} has an intent twice, or less than two", remedy)
        self._numbers = {intent: number for number, intent in enumerate(self.table)}
        self.fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()

    @property
    def path(self) -> Path:
        """Of the table."""
        return self.lang_dir / TABLE

    @property
    def vocab_size(self) -> int:
        """Number of intents."""
        return len(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def number(self, intent: Intent) -> Optional[int]:
        """Of an intent; None where training has none of it."""
        return self._numbers.get(intent)

    def describe(self) -> dict[str, Any]:
        """What a checkpoint records, for `check_matches`."""
        return {"intents": len(self.table), "sha256": self.fingerprint}

    @property
    def speller(self) -> None:
        """Intents are not spelled."""
        return None

    def targets(self, cut: Any, text: str) -> list[int]:
        """The number of a cut's intent; -1: training does not have it.

        Raises:
            UserError: the cut has no intent.
        """
        number = self.number(intent_of(cut))
        return [-1 if number is None else number]

    def check_matches(self, recorded: dict[str, Any], name: str = "the checkpoint") -> None:
        """Check that a checkpoint was trained with this table.

        Raises:
            UserError: it was not.
        """
        if recorded.get("intents") != len(self.table) or recorded.get("sha256") != self.fingerprint:
            what = f"{self.lang_dir / TABLE} is not the table that {name} was trained with"
            raise UserError(what, "give the --lang-dir that it was trained with")


def write_table(intents: Iterable[Intent], lang_dir: files.PathLike) -> Intents:
    """Write the table of the different ``intents``, sorted.

    Raises:
        UserError: there are less than two, or one has a space in it.
    """
    found = sorted(set(intents))
    for intent in found:
        if any(len(word.split()) != 1 for word in intent):
            raise UserError(f"scenario {intent.scenario!r} and action {intent.action!r} are not a word each",
                            "write them without spaces")  # fmt: skip
    if len(found) < 2:
        raise UserError(f"there are {len(found)} different intents", "give cuts with two or more")
    lines = [f"{intent.scenario} {intent.action} {number}\n" for number, intent in enumerate(found)]
    files.write_text(Path(lang_dir) / TABLE, "".join(lines))
    return Intents(lang_dir)


class Accuracy(NamedTuple):
    """What share of utterances is right.

    Attributes:
        utterances: counted.
        scenario, action, intent: shares right; ``intent``: both of them.
        unseen: utterances whose intent training does not have, all of them wrong.
        unseen_intents: these intents, with counts.
    """

    utterances: int
    scenario: float
    action: float
    intent: float
    unseen: int
    unseen_intents: dict[str, int]


def accuracy(wanted: Iterable[Intent], found: Iterable[Intent], known: Intents) -> Accuracy:
    """Compare the intents of utterances with those that were found.

    Raises:
        ValueError: there are none, or not as many of one as of the other.
    """
    pairs = list(zip(wanted, found, strict=True))
    if not pairs:
        raise ValueError("there are no utterances")
    unseen = Counter(str(want) for want, _ in pairs if known.number(want) is None)
    count = len(pairs)
    return Accuracy(
        count,
        sum(want.scenario == have.scenario for want, have in pairs) / count,
        sum(want.action == have.action for want, have in pairs) / count,
        sum(want == have for want, have in pairs) / count,
        sum(unseen.values()),
        dict(unseen.most_common()),
    )
