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
from torch import nn

from pruning import clock
from pruning.core.declare import DeclaredUnits
from pruning.core.declared import DeclaredNetwork
from pruning.core.latency import LatencyTable
from pruning.core.prunable import Prunable
from pruning.core.structure import Structure
from pruning.core.units import unit_kinds
from pruning.measure import benchmark, timing
from pruning.measure.benchmark import Setting
from pruning.measure.names import PYTORCH
from pruning.models.transducer import Transducer

logger = logging.getLogger(__name__)


def cut_kind(model: Prunable, kind: str, share: float) -> tuple[nn.Module, float]:
    """Build the network with ``share`` of the units of one kind in every group, fresh weights.

    Returns:
        The network in evaluation mode, and the share of these units that it really has: counts are whole.
    """
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


def measure_encoder(
    model: Transducer, setting: Setting, backend: str = PYTORCH, points: int = 5, repeats: int = 15
) -> LatencyTable:
    """Measure the encoder of a transducer, see `measure`.

    Args:
        model: the dense network; times do not depend on weights.
        setting: threads, utterances and seconds of audio.
        backend: one of `pruning.measure.names.BACKENDS`.
        points: number of points of each curve, at least 2.
        repeats: number of rounds.
    """

    def call(network: nn.Module, place: Path) -> Callable[[], Any]:
        timed = benchmark.timed(network)
        benchmark.export(timed, place, [backend])
        return benchmark.on_noise(benchmark.encoder_of(timed, place, backend, setting.threads), timed.shape(setting))

    torch.set_num_threads(setting.threads)
    return measure(model, model, call, {**asdict(setting), "backend": backend}, points, repeats)


def measure_latency(
    network: nn.Module,
    units: Sequence[DeclaredUnits],
    example: Sequence[Any],
    threads: int = 1,
    points: int = 5,
    repeats: int = 15,
) -> LatencyTable:
    """Measure a network of any make in PyTorch, on the processor or GPU that it is on, see `measure`.

    Args:
        network: the dense network; times do not depend on weights.
        units: its declared units.
        example: the arguments of ``network`` for one utterance.
        threads: number of threads.
        points: number of points of each curve, at least 2.
        repeats: number of rounds.
    """
    declared = DeclaredNetwork(network, units, example)
    torch.set_num_threads(threads)

    def call(made: nn.Module, _: Path) -> Callable[[], Any]:
        devices = {parameter.device for parameter in made.eval().parameters()}

        def timed() -> None:
            made(*example)
            for device in devices:
                clock.wait(device)

        return timed

    training = network.training
    try:
        return measure(declared, declared, call, {"threads": threads, "backend": PYTORCH}, points, repeats)
    finally:
        network.train(training)


@torch.no_grad()
def measure(
    dense: nn.Module,
    model: Prunable,
    call: Callable[[nn.Module, Path], Callable[[], Any]],
    setting: Mapping[str, Any],
    points: int,
    repeats: int,
) -> LatencyTable:
    """Measure the table of one network.

    For each kind, networks with 0, 1/(points-1), ... of its units take turns with the whole one; what counts is the
    median of their difference to the whole one in the same round (see `curve`).

    Args:
        dense: the whole network.
        model: the same, as what declares its units.
        call: makes of a network, and of a folder for files, what is timed.
        setting: how it is measured, for people.
        points: number of points of each curve, at least 2.
        repeats: number of rounds.
    """
    curves: dict[str, tuple[float, ...]] = {}
    whole: list[float] = []
    for kind in unit_kinds(model.unit_groups()):
        with tempfile.TemporaryDirectory() as temporary:
            calls = [call(dense, Path(temporary) / "dense")]
            shares: list[float] = []
            for index in range(points - 1):
                small, share = cut_kind(model, kind, index / (points - 1))
                if share not in shares and share < 1:  # few heads have few shares
                    shares.append(share)
                    calls.append(call(small, Path(temporary) / f"{index}"))
            rounds = timing.interleaved(calls, repeats)
        whole += rounds[0]
        saved = [statistics.median(d - s for d, s in zip(rounds[0], times)) for times in rounds[1:]]
        curves[kind] = curve(shares, saved, points)
        logger.info("%s: %s ms", kind, " ".join(f"{1000 * value:.2f}" for value in curves[kind]))
    rest = max(0.0, statistics.median(whole) - sum(values[-1] for values in curves.values()))
    facts = {**setting, "repeats": repeats, "dense_seconds": statistics.median(whole)}
    units = {kind: sum(group.size for group in model.unit_groups() if group.kind == kind) for kind in curves}
    return LatencyTable(rest, curves, units, facts)
