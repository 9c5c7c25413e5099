"""Convert what older versions wrote to the form of today. No other module knows the old forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOVED = {"gating": "l0", "calibration_batches": "low_rank.calibration_batches"}
"""Old key of a configuration -> the key that replaced it."""

NEEDED_BY = {"distillation.loss": ("distillation", "layers")}
"""Key whose default has changed -> place of the key without which it has no effect."""


def without_effect(key: str, config: Mapping[str, Any]) -> bool:
    """Return whether a run with ``config`` is the same with another value of ``key``, whose default has changed."""
    if key not in NEEDED_BY:
        return False
    section, needed = NEEDED_BY[key]
    return not (config.get(section) or {}).get(needed)


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
    return result


def setting(text: str) -> str:
    """Return a setting ``KEY=VALUE`` with the key of today."""
    for old, new in MOVED.items():
        if text.startswith((f"{old}.", f"{old}=")):
            return new + text[len(old) :]
    return text
