"""One form for everything that is measured: the values of every utterance of a test set under one network.

Decodings, likelihoods, perplexities and intents are written and read in this form, and the results of sweeps use the
same columns. Rates and intervals are not stored: tables compute them from the columns, with one bootstrap.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from pruning import old_forms, provenance
from pruning.errors import UserError
from pruning.files import PathLike, read_json, write_json
from pruning.speech.scoring.word_errors import count_errors, read_transcripts

if TYPE_CHECKING:
    import numpy as np

    from pruning.speech.scoring.bootstrap import Estimate, Sample

logger = logging.getLogger(__name__)
SCHEMA = 1
"""Number of the form of the files; it grows when the form changes, and `pruning.old_forms` converts the form before."""
WORD_ERRORS, LIKELIHOOD, PERPLEXITY, INTENTS = "word_errors", "likelihood", "perplexity", "intents"
BLOCK = 20
"""Number of neighbouring sentences that are counted and drawn together, because they come from the same source."""
Value = Union[int, float, str, None]
_AGAIN = "measure it again"
_MADE = ("command", "commit", "date")


@dataclass(frozen=True)
class Counts:
    """Which columns make a rate: the sum of errors by the sum of what they are counted in.

    Attributes:
        errors: the column that is counted.
        of: the column that it is counted in; empty: each utterance is one.
        right: whether the column counts what is right, so that errors are the rest.
    """

    errors: str = "errors"
    of: str = "words"
    right: bool = False


COUNTS = {WORD_ERRORS: Counts(), LIKELIHOOD: Counts("nll", "tokens"), PERPLEXITY: Counts("word_nll"),
          INTENTS: Counts("correct", "", right=True)}  # fmt: skip
"""The rate of each measure; measures of kinds of networks elsewhere count ``errors`` in ``words``.

Columns, one value per utterance: ``errors`` of words; ``words`` that count (of the reference; of a text, those in the
vocabulary and the sentence's end); ``nll``, the negative log-likelihood of the ``tokens``, in nats; ``word_nll``, that
of the words that count; ``correct``, ``scenario`` and ``action``, 1 where the intent or this part of it is right;
``found``, the intent that was found.
"""


@dataclass(frozen=True)
class Utterances:
    """The utterances of a test set in a fixed order, and whom the bootstrap draws. With the set's name, an id is a key.

    Attributes:
        ids: different in one set; of a text: the numbers of its sentences, from 1, without empty lines.
        speakers: who spoke each utterance; empty: unknown; of a text: the block that the sentence belongs to.

    Raises:
        ValueError: an id occurs twice, or not every utterance has a speaker.
    """

    ids: Sequence[str]
    speakers: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.speakers):
            raise ValueError(f"{len(self.speakers)} speakers of {len(self.ids)} utterances")
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("an utterance occurs twice")

    @classmethod
    def of(cls, speakers: Mapping[str, str]) -> Utterances:
        """The utterances of a mapping from ids to speakers, in the order of ids."""
        return cls(sorted(speakers), [speakers[name] for name in sorted(speakers)])

    @classmethod
    def sentences(cls, count: int, block: int = BLOCK) -> Utterances:
        """The sentences of a text, in blocks of neighbours that are drawn together."""
        return cls([str(number + 1) for number in range(count)], [str(number // block) for number in range(count)])

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Utterances:
        """Read what `to_dict` returned."""
        if "sentences" in value:
            return cls.sentences(value["sentences"], value["block"])
        return cls(value["ids"], value["speakers"])

    def to_dict(self) -> dict[str, Any]:
        """Return ``ids`` and ``speakers``; for a text the number of its ``sentences``, and of those in a ``block``."""
        count = len(self.ids)
        if count and self == Utterances.sentences(count):
            return {"sentences": count, "block": BLOCK}
        return {"ids": list(self.ids), "speakers": list(self.speakers)}

    @property
    def stamp(self) -> str:
        """A short hash of the ids, which ties values to the file that lists the utterances."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()[:16]

    def blocks(self) -> Utterances:
        """Return the blocks of a text, each as one utterance that is drawn alone."""
        names = list(dict.fromkeys(self.speakers))
        return Utterances(names, names)


@dataclass(frozen=True)
class Measurement:
    """What was measured on a test set under one network.

    Attributes:
        what: `WORD_ERRORS`, `LIKELIHOOD`, `PERPLEXITY`, `INTENTS`, or a measure of a kind of network.
        set: name of the test set.
        utterances: the U utterances.
        columns: name -> U values, see `COUNTS`; None: unknown.
        totals: name -> sum over the set, of what is not known for each utterance.
        parameters: what decides whether the set must be measured again: fingerprints and settings.
        facts: what else holds for the whole set, such as seconds of computation.
        provenance: see `pruning.provenance.environment`; the times are in UTC. ``asked``: when it was last asked for.

    Raises:
        ValueError: a column has another number of values than there are utterances.
    """

    what: str
    set: str
    utterances: Utterances
    columns: Mapping[str, Sequence[Value]]
    totals: Mapping[str, Optional[float]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.columns.items():
            if len(values) != len(self.utterances.ids):
                raise ValueError(f"{len(values)} values of {name!r} for {len(self.utterances.ids)} utterances")

    # files

    @classmethod
    def read(cls, path: PathLike, remedy: str = _AGAIN) -> Measurement:
        """Read a measurement; one of an older version is converted.

        Raises:
            UserError: the file is missing, is not a measurement, or is of an older version and lacks what is needed.
        """
        value = read_json(path, remedy)
        try:
            if "schema" not in value:
                value = old_forms.measurement(value, lambda name: _word_errors(Path(path).parent / name))
            check_schema(value, path, remedy)
            return cls(value["what"], value["set"], Utterances.from_dict(value["utterances"]), value["columns"],
                       value["totals"], value["parameters"], value["facts"], value["provenance"])  # fmt: skip
        except KeyError as error:
            raise UserError(f"{path} is not a measurement: it has no {error}", remedy) from None
        except (TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{path} is not a measurement ({error})", remedy) from None

    def write(self, path: PathLike) -> None:
        """Write the file."""
        write_json(path, {
            "schema": SCHEMA, "what": self.what, "set": self.set, "utterances": self.utterances.to_dict(),
            "columns": dict(self.columns), "totals": dict(self.totals), "parameters": dict(self.parameters),
            "facts": dict(self.facts), "provenance": dict(self.provenance),
        })  # fmt: skip

    def compact(self, leave_out: Collection[str] = ()) -> dict[str, Any]:
        """Return the values for a file that has its utterances, and the columns and totals ``leave_out``, elsewhere."""

        def kept(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: of for name, of in values.items() if name not in leave_out}

        totals = {"totals": kept(self.totals)} if kept(self.totals) else {}
        return {"what": self.what, "utterances": self.utterances.stamp, "columns": kept(self.columns), **totals,
                "provenance": {key: self.provenance[key] for key in _MADE if key in self.provenance}}  # fmt: skip

    @classmethod
    def expanded(
        cls, value: Mapping[str, Any], name: str, utterances: Utterances, left_out: Optional[Measurement] = None
    ) -> Measurement:
        """Read what `compact` returned.

        Args:
            value: values of a set.
            name: name of the set.
            utterances: utterances of the set, with the stamp of ``value``.
            left_out: a measurement of only the columns and totals that were left out.
        """
        found = cls(value["what"], name, utterances, value["columns"], value.get("totals", {}),
                    provenance=value["provenance"])  # fmt: skip
        if left_out is None:
            return found
        return dataclasses.replace(found, columns={**left_out.columns, **found.columns},
                                   totals={**left_out.totals, **found.totals})  # fmt: skip

    # values

    def total(self, name: str) -> Optional[float]:
        """Return the sum of a column over the set; None if it is unknown for an utterance."""
        if name in self.totals:
            return self.totals[name]
        total = float(self.column(name).sum())
        return None if math.isnan(total) else total

    def only(self, names: Collection[str]) -> Measurement:
        """Return the measurement with only these columns and totals."""
        columns = {name: of for name, of in self.columns.items() if name in names}
        totals = {name: of for name, of in self.totals.items() if name in names}
        return dataclasses.replace(self, columns=columns, totals=totals)

    def has(self, name: str) -> bool:
        """Return whether a column, or its total, was measured."""
        return name in self.columns or name in self.totals

    def known_totals(self, *names: str) -> tuple[float, ...]:
        """Return the sums of columns over the utterances for which all of them are known."""
        if any(name in self.totals for name in names):
            totals = [self.total(name) for name in names]
            return tuple(0.0 if None in totals or total is None else total for total in totals)
        columns = [self.column(name) for name in names]
        known = sum(columns) == sum(columns)  # NaN differs from itself
        return tuple(float(values[known].sum()) for values in columns)

    def column(self, name: str) -> np.ndarray:
        """Return the values of a column, ``(U,)``; unknown ones are NaN.

        Raises:
            UserError: the measurement does not have this column.
        """
        import numpy as np

        if name not in self.columns:
            raise UserError(f"the measurement of {self.what} on {self.set} has no column {name!r}", _AGAIN)
        return np.array([np.nan if value is None else value for value in self.columns[name]], dtype=float)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return errors and what they are counted in, ``(U,)`` each, see `COUNTS`."""
        import numpy as np

        rate = COUNTS.get(self.what, Counts())
        of = self.column(rate.of) if rate.of else np.ones(len(self.utterances.ids))
        errors = self.column(rate.errors)
        return (of - errors if rate.right else errors), of

    def in_blocks(self) -> Measurement:
        """Return the sums of all columns over the blocks of a text, rounded to three digits."""
        blocks = self.utterances.blocks()
        members: dict[str, list[int]] = {name: [] for name in blocks.ids}
        for index, block in enumerate(self.utterances.speakers):
            members[block].append(index)
        columns = {name: [_sum([values[index] for index in of]) for of in members.values()]
                   for name, values in self.columns.items()}  # fmt: skip
        return dataclasses.replace(self, utterances=blocks, columns=columns)

    # times

    @property
    def asked(self) -> datetime.datetime:
        """When it was last asked for, with its time zone: results may come from several machines."""
        return datetime.datetime.fromisoformat(self.provenance.get("asked", self.provenance["date"])).astimezone()

    def asked_now(self) -> Measurement:
        """Return the measurement, as one that was asked for again, so that it counts as the newest."""
        return dataclasses.replace(self, provenance={**self.provenance, "asked": provenance.today()})


def check_schema(value: Mapping[str, Any], path: PathLike, remedy: str) -> None:
    """Check the number of the form of a file.

    Raises:
        UserError: the file has another form.
    """
    if value["schema"] != SCHEMA:
        raise UserError(f"{path} has form {value['schema']}, and this version reads form {SCHEMA}",
                        f"use the version that wrote it, or {remedy}")  # fmt: skip


def path_of(exp_dir: PathLike, what: str, set_name: str) -> Path:
    """Return the file of a measurement of a set under an experiment's best checkpoint, except that of a decoding."""
    return Path(exp_dir) / what / f"{what}-{set_name}.json"


def is_done(path: Path, parameters: Mapping[str, Any]) -> bool:
    """Return whether there is a measurement with these parameters; one that cannot be read must be made again."""
    found = read_if_possible(path)
    return found is not None and found.parameters == parameters


def read_if_possible(path: Path) -> Optional[Measurement]:
    """Read a measurement; return None if there is none, or, with a warning, if it cannot be read."""
    if not path.is_file():
        return None
    try:
        return Measurement.read(path)
    except UserError as error:
        logger.warning("%s; it is measured again", error.what)
        return None


def sample(measured: Iterable[Measurement]) -> Sample:
    """Return the rate over sets pooled, in percent, with its bootstrap; sentences of a text are drawn in blocks.

    Raises:
        UserError: there is nothing that errors could be counted in.
    """
    rows = _rows(measured)
    return _sample(rows, [row.errors for row in rows])


def difference(first: Iterable[Measurement], second: Iterable[Measurement]) -> Sample:
    """Return the rate of one system minus that of another, in percent, with its paired bootstrap.

    Raises:
        UserError: the two were measured on different utterances or words.
    """
    rows, others = _rows(first), _rows(second)
    if [row.key for row in rows] != [row.key for row in others]:
        raise UserError("two systems were measured on different utterances", "measure both on the same data")
    for one, other in zip(rows, others):
        if one.of != other.of:
            raise UserError(f"two systems were measured on different words of {one.key[0]}", "measure both again")
    return _sample(rows, [one.errors - other.errors for one, other in zip(rows, others)])


def percent_above(first: Measurement, second: Measurement) -> Estimate:
    """Return by how many percent the perplexity per word of one model exceeds another's on the same text.

    Raises:
        UserError: the models were measured on different words.
    """
    from pruning.speech.scoring.bootstrap import Estimate

    return Estimate(*(100 * math.expm1(rate / 100) for rate in difference([first], [second]).interval))


@dataclass(frozen=True)
class _Row:
    """An utterance in a rate: its set and id, its speaker, its errors, and what they are counted in."""

    key: tuple[str, str]
    speaker: str
    errors: float
    of: float


def _rows(measured: Iterable[Measurement]) -> list[_Row]:
    """Return the utterances of all sets in the order of their keys, as every table has it."""
    rows = []
    for one in measured:
        one = one.in_blocks() if one.what == PERPLEXITY else one
        errors, of = one.counts()
        rows += [_Row((one.set, name), speaker, *counts) for name, speaker, *counts in
                 zip(one.utterances.ids, one.utterances.speakers, errors.tolist(), of.tolist())]  # fmt: skip
    return sorted(rows, key=lambda row: row.key)


def _sample(rows: Sequence[_Row], errors: Sequence[float]) -> Sample:
    import numpy as np

    from pruning.speech.scoring.bootstrap import Design

    of = np.array([row.of for row in rows])
    if not of.sum():
        raise UserError("the references contain no words", "give cuts with transcripts")
    return Design.of_sets((*row.key, row.speaker) for row in rows).rate(np.array(errors), of)


def _sum(values: Sequence[Value]) -> Value:
    """Return the sum of numbers, rounded to three digits; None if one is unknown."""
    known = [value for value in values if value is not None]
    return round(sum(known), 3) if len(known) == len(values) else None  # type: ignore[arg-type]  # no words here


def _word_errors(path: Path) -> dict[str, list[Any]]:
    """Return ids, errors and reference words from the transcripts of a decoding that does not record them."""
    transcripts = sorted(read_transcripts(path))
    return {"ids": [one.id for one in transcripts],
            "errors": [count_errors(one)["total"] for one in transcripts],
            "words": [len(one.reference) for one in transcripts]}  # fmt: skip
