"""Errors that are shown to the user."""

from __future__ import annotations


class UserError(Exception):
    """An error in the user's input: one line that says what is wrong, with the file or item, and what to do about it.

    Args:
        what: what is wrong, with the name of the thing, e.g. ``"exp/teacher/best.safetensors does not exist"``.
        remedy: what to do, e.g. ``"run stage 4 first"``.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}".replace("\n", " "))
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        """Keep both parts when the error is pickled to another process."""
        return UserError, (self.what, self.remedy)
