"""How busy the machine was while times were measured: a loaded machine makes every network slow."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Optional

from pruning.experiments.measurement import Measurement
from pruning.reports.document import WIDTH

_SLACK = 0.5
"""Processes beyond the number of processors that a quiet machine may have: the load counts those that pass by."""
BUSY = " (busy)"
"""Mark of a time that was measured on a busy machine."""
_ADVICE = """\
Those marked *busy* had more running processes than processors: they are too high, and differences between them say
nothing about the networks. Compare times by `python -m pruning.bin.benchmark`, which measures networks in turns."""


def mark(measured: Iterable[Measurement]) -> str:
    """Return `BUSY` if one of the measurements had more running processes than processors, else nothing."""
    loads = [(load, processors) for load, processors in map(_load, measured) if load is not None]
    return BUSY if any(load > processors + _SLACK for load, processors in loads) else ""


def note(measured: Iterable[Measurement], times: str = "RTFs") -> str:
    """Return under what load times were measured, in Markdown; ``times`` is what the table calls them."""
    measured = list(measured)
    loads: dict[int, list[float]] = {}
    for load, processors in map(_load, measured):
        if load is not None:
            loads.setdefault(processors, []).append(load)
    if not loads:
        return f"The load of the machine while {times} were measured is not known."
    at = [f"{_range(of)} on {count} processor{'s' if count > 1 else ''}" for count, of in sorted(loads.items())]
    said = f"{times} were measured with a load average (running processes, over one minute) of {' and '.join(at)}."
    return textwrap.fill(f"{said} {_ADVICE}" if mark(measured) else said, WIDTH)


def _load(of: Measurement) -> tuple[Optional[float], int]:
    """Return the load average and the number of processors; measurements of old versions may lack them."""
    load, processors = of.provenance.get("load_average"), of.provenance.get("processors")
    return (None, 0) if load is None or processors is None else (float(load), int(processors))


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"
