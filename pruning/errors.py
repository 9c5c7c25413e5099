"""The one kind of error that a user is meant to read, and what checks numbers of configurations."""

from __future__ import annotations

import math


class UserError(Exception):
    """Bad input: says what is wrong, naming the file or item, and what to do about it, on one line.

    Args:
        what: the thing that is wrong, with its name, e.g. ``"exp/teacher/best.safetensors does not exist"``.
        remedy: what to do, e.g. ``"run stage 4 first"``.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}".replace("\n", " "))
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        """Both parts travel when the error comes from another process."""
        return UserError, (self.what, self.remedy)


class OutOfRange(UserError, ValueError):
    """A number that means nothing where it stands; configurations read from a file add its name and the key."""


def check_numbers(
    config: object,
    *names: str,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> None:
    """Check that numbers of a configuration, one or several under each name, are finite and within a range.

    Args:
        config: has them as attributes.
        names: of the attributes; None as a value is left alone.
        least: what each number is at least.
        above: what each number is more than.
        below: what each number is less than.
        most: what each number is at most.

    Raises:
        OutOfRange: naming the first that is out of this range, or is not finite.
    """
    limits = {"at least": least, "above": above, "below": below, "at most": most}
    bounds = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
    for name in names:
        value = getattr(config, name)
        numbers = value if isinstance(value, (list, tuple)) else [value]
        for number in numbers:
            if number is None:
                continue
            if not (math.isfinite(number) and least <= number <= most and above < number < below):
                raise OutOfRange(f"{name} must be {bounds or 'a finite number'}, got {value}", "correct it")
