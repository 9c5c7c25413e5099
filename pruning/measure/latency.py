"""Measuring what kept units cost on this processor: the network with one kind of units cut, against the whole one."""

from __future__ import annotations

import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruning.core.latency import LatencyTable
from pruning.core.structure import Structure
from pruning.core.units import unit_kinds
from pruning.measure import benchmark, timing
from pruning.measure.benchmark import Setting
from pruning.measure.names import PYTORCH
from pruning.models.transducer import Transducer

logger = logging.getLogger(__name__)


def cut_kind(model: Transducer, kind: str, share: float) -> tuple[Transducer, float]:
    """The network with ``share`` of the units of one kind in every group (rounded), fresh weights; and their share."""
    groups = model.unit_groups()
    kept = dict(Structure.dense(groups).groups)
    left = size = 0
    for group in groups:
        if group.kind == kind:
            count = max(group.minimum, round(share * group.size))
            kept[group.name] = kept[group.name].with_kept(range(count))
            left, size = left + count, size + group.size
    small = model.shrink(Structure(kept).resolved(groups)).eval()
    return small, left / size


def curve(shares: Sequence[float], saved: Sequence[float], points: int) -> tuple[float, ...]:
    """Seconds at equally spaced shares of a kind, from what was saved at some shares.

    Args:
        shares: measured, the smallest first, without 1.
        saved: seconds saved at each against the whole; nothing is saved at 1.
        points: of the result. What seems to take longer with fewer units takes as long: noise must not reward it.
    """
    rising = np.maximum.accumulate([-value for value in np.maximum(saved, 0.0)] + [0.0])
    values = np.interp(np.linspace(0, 1, points), [*shares, 1.0], rising)
    return tuple(float(value - values[0]) for value in values)


def _call(model: Transducer, backend: str, setting: Setting, place: Path) -> Callable[[], Any]:
    timed = benchmark.timed(model)
    benchmark.export(timed, place, [backend])
    return benchmark.on_noise(benchmark.encoder_of(timed, place, backend, setting.threads), timed.bins, setting)


@torch.no_grad()
def measure(
    model: Transducer, setting: Setting, backend: str = PYTORCH, points: int = 5, repeats: int = 15
) -> LatencyTable:
    """The table of one network.

    For each kind, networks with 0, 1/(points-1), ... of its units take turns with the whole one; what counts is the
    median of their difference to the whole one in the same round (see `curve`).

    Args:
        model: the dense network; times do not depend on weights.
        setting: threads, utterances and seconds of audio.
        backend: of `pruning.measure.names.BACKENDS`.
        points: of each curve, at least 2.
        repeats: rounds.
    """
    torch.set_num_threads(setting.threads)
    curves: dict[str, tuple[float, ...]] = {}
    dense: list[float] = []
    for kind in unit_kinds(model.unit_groups()):
        with tempfile.TemporaryDirectory() as temporary:
            calls = [_call(model, backend, setting, Path(temporary) / "dense")]
            shares: list[float] = []
            for index in range(points - 1):
                small, share = cut_kind(model, kind, index / (points - 1))
                if share not in shares and share < 1:  # few heads have few shares
                    shares.append(share)
                    calls.append(_call(small, backend, setting, Path(temporary) / f"{index}"))
            rounds = timing.interleaved(calls, repeats)
        dense += rounds[0]
        saved = [statistics.median(d - s for d, s in zip(rounds[0], times)) for times in rounds[1:]]
        curves[kind] = curve(shares, saved, points)
        logger.info("%s: %s ms", kind, " ".join(f"{1000 * value:.2f}" for value in curves[kind]))
    rest = max(0.0, statistics.median(dense) - sum(values[-1] for values in curves.values()))
    facts: Mapping[str, Any] = {**asdict(setting), "backend": backend, "repeats": repeats,
                                "dense_seconds": statistics.median(dense)}  # fmt: skip
    units = {kind: sum(group.size for group in model.unit_groups() if group.kind == kind) for kind in curves}
    return LatencyTable(rest, curves, units, facts)
