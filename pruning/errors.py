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


def check_numbers(config: object, *names: str, least: float, below: float = math.inf) -> None:
    """Check numbers of a configuration, one or several under each name.

    Args:
        config: has them as attributes.
        names: of the attributes; None as a value is left alone.
        least: what each number is at least.
        below: what each number is less than.

    Raises:
        ValueError: naming the first that is out of this range, or is no number.
    """
    bounds = f"at least {least:g}" + (f" and below {below:g}" if below < math.inf else "")
    for name in names:
        value = getattr(config, name)
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if not all(number is None or least <= number < below for number in numbers):
            raise ValueError(f"{name} is {value}, which is to be {bounds}")
