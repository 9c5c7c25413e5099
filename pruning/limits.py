"""What values a configuration or a command line takes: ranges of numbers and choices of words, stated with each field.

A configuration states them as types and checks them when it is made::

    @dataclass(frozen=True)
    class ScheduleConfig:
        warmup_steps: Natural = 0
        betas: tuple[Fraction, ...] = (0.9, 0.98)

        def __post_init__(self) -> None:
            check_fields(self)

An option of a command states them as its type: ``type=COUNT.parse``.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, get_args, get_type_hints

from pruning.errors import UserError


class OutOfRange(UserError, ValueError):
    """A value that its field does not take."""


class Limit(ABC):
    """What the values of a field have in common."""

    @abstractmethod
    def problem(self, value: object) -> str:
        """What is wrong with one value, as in "must be at least 1, got 0"; empty if nothing is."""


@dataclass(frozen=True)
class Range(Limit):
    """Finite numbers within bounds.

    Attributes:
        of: ``int`` or ``float``.
        least: the smallest that is allowed.
        above: the bound below, itself not allowed.
        below: the bound above, itself not allowed.
        most: the largest that is allowed.
    """

    of: type[int] | type[float] = float
    least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf
    most: float = math.inf

    def __str__(self) -> str:
        """The bounds in words: "at least 0 and below 1"."""
        limits = {"at least": self.least, "above": self.above, "below": self.below, "at most": self.most}
        return " and ".join(f"{word} {limit}" for word, limit in limits.items() if math.isfinite(limit)) or "finite"

    def problem(self, value: object) -> str:
        """See `Limit`."""
        kind, called = (Integral, "a whole number") if self.of is int else (Real, "a number")
        if isinstance(value, bool) or not isinstance(value, kind):
            return f"must be {called}, got {value!r}"
        number = float(value)
        within = self.least <= number <= self.most and self.above < number < self.below
        return "" if math.isfinite(number) and within else f"must be {self}, got {value}"

    def parse(self, text: str) -> float:
        """The type of an option of a command.

        Raises:
            argparse.ArgumentTypeError: the text is not a number, or is out of range.
        """
        try:
            value = self.of(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be a {'whole ' if self.of is int else ''}number, got {text!r}"
            ) from None
        problem = self.problem(value)
        if problem:
            raise argparse.ArgumentTypeError(problem)
        return value


@dataclass(frozen=True)
class OneOf(Limit):
    """A word, or a number, out of a few."""

    choices: tuple[object, ...]

    def problem(self, value: object) -> str:
        """See `Limit`."""
        if value in self.choices:
            return ""
        return f"must be one of {', '.join(str(choice) for choice in self.choices)}, got {value!r}"


_KNOWN: dict[type, dict[str, Limit]] = {}

COUNT = Range(int, least=1)
NATURAL = Range(int, least=0)
SEED = Range(int, least=0, below=2**63)  # what torch and NumPy take
NUMBER = Range()
POSITIVE = Range(above=0)
NON_NEGATIVE = Range(least=0)
FRACTION = Range(least=0, below=1)
SHARE = Range(least=0, most=1)

Count = Annotated[int, COUNT]
Natural = Annotated[int, NATURAL]
Seed = Annotated[int, SEED]
Number = Annotated[float, NUMBER]
Positive = Annotated[float, POSITIVE]
NonNegative = Annotated[float, NON_NEGATIVE]
Fraction = Annotated[float, FRACTION]
Share = Annotated[float, SHARE]


def check_fields(config: object) -> None:
    """Check every field of a dataclass against the limits that its type states; None passes.

    Raises:
        OutOfRange: naming the first field whose value is out of its limits.
    """
    for name, limit in limits(type(config)).items():
        check(name, getattr(config, name), limit)


def check(name: str, value: object, limit: Limit) -> None:
    """Check a value, or each of the values that a list, a tuple or a mapping holds; None passes.

    Raises:
        OutOfRange: naming it.
    """
    problem = problem_of(value, limit)
    if problem:
        raise OutOfRange(f"{name} {problem}", "correct it")


def problem_of(value: object, limit: Limit) -> str:
    """What is wrong with a value, or with the first wrong one of those that it holds; empty if nothing is."""
    return next(filter(None, map(limit.problem, _leaves(value))), "")


def check_ascending(name: str, bounds: tuple[float, float]) -> None:
    """Check that a range goes from low to high, or is one point.

    Raises:
        OutOfRange: naming it.
    """
    low, high = bounds
    if low > high:
        raise OutOfRange(f"{name} must go from low to high, got {low:g} to {high:g}", "correct it")


def limits(cls: type) -> dict[str, Limit]:
    """The limits of a dataclass by field: what the type of the field, or of its elements, states."""
    if cls not in _KNOWN:
        hints = get_type_hints(cls, include_extras=True)
        found = {field.name: next(_stated(hints[field.name]), None) for field in dataclasses.fields(cls)}
        _KNOWN[cls] = {name: limit for name, limit in found.items() if limit is not None}
    return _KNOWN[cls]


def ranges(cls: type) -> dict[str, Range]:
    """The ranges of a dataclass's numbers by field, for the options of a command that fills it."""
    return {name: limit for name, limit in limits(cls).items() if isinstance(limit, Range)}


def _stated(hint: object) -> Iterator[Limit]:
    for part in (*getattr(hint, "__metadata__", ()), *get_args(hint)):
        if isinstance(part, Limit):
            yield part
        else:
            yield from _stated(part)


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for element in value:
            yield from _leaves(element)
    elif value is not None:
        yield value
