"""The one kind of error that a user is meant to read."""

from __future__ import annotations


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
