"""Convert what older versions wrote to the form of today. No other module knows the old forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOVED = {"gating": "l0", "calibration_batches": "low_rank.calibration_batches"}
"""Old key of a configuration -> the key that replaced it."""
ADDED = {"model.encoder.dense_dim": ("d_model", 0)}
"""New key of an optional part of a configuration -> a key that this part always has, and the value that older versions
had without the new key. Keys of parts that are not optional have their defaults."""


def configuration(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plain configuration with the keys of today.

    Args:
        values: plain values, as YAML gives them; they are not changed.

    Raises:
        ValueError: an old key and the key that replaced it are both there.
    """
    result = dict(values)
    for old, new in MOVED.items():
        if old not in result:
            continue
        *sections, key = new.split(".")
        place = result
        for section in sections:
            place[section] = dict(place.get(section) or {})
            place = place[section]
        if key in place:
            raise ValueError(f"{old!r} is the old name of {new!r}, and both are given")
        place[key] = result.pop(old)
    for new, (sign, value) in ADDED.items():
        *sections, key = new.split(".")
        result = _with_added(result, sections, key, sign, value)
    return result


def _with_added(values: dict[str, Any], sections: Sequence[str], key: str, sign: str, value: object) -> dict[str, Any]:
    """Return values that have ``key`` in the part under ``sections``, if that part is there, which ``sign`` shows."""
    if not sections:
        return {**values, key: value} if sign in values and key not in values else values
    part = values.get(sections[0])
    if not isinstance(part, Mapping):
        return values
    return {**values, sections[0]: _with_added(dict(part), sections[1:], key, sign, value)}


def setting(text: str) -> str:
    """Return a setting ``KEY=VALUE`` with the key of today."""
    for old, new in MOVED.items():
        if text.startswith((f"{old}.", f"{old}=")):
            return new + text[len(old) :]
    return text
