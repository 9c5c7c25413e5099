"""Reports of a training run: averaged loss terms, a progress bar or log lines, tensorboard, and ``metrics.jsonl``."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pruning.training.distributed import World

logger = logging.getLogger(__name__)


class TermAverage:
    """Weighted means of loss terms over batches.

    Sums are tensors on the device, so that adding a batch does not wait for a GPU.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of one batch; the value under "weight" (default 1) is the weight of all others."""
        weight = terms.get("weight", torch.ones(())).detach().double()
        for name, value in terms.items():
            if name == "weight":
                continue
            value = value.detach().double() * weight
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._weights[name] = self._weights[name] + weight if name in self._weights else weight

    def means(self, world: World) -> dict[str, float]:
        """Return the means over all processes (some may have had no batch), "loss" first, and reset the sums.

        Terms with a total weight of 0 are left out.
        """
        totals: dict[str, tuple[float, float]] = {}
        for state in world.gather(self.state()):
            for name, (value, weight) in state.items():
                before = totals.get(name, (0.0, 0.0))
                totals[name] = before[0] + value, before[1] + weight
        self._sums, self._weights = {}, {}
        names = sorted(totals, key=lambda name: (name != "loss", name))
        return {name: totals[name][0] / totals[name][1] for name in names if totals[name][1]}

    def state(self) -> dict[str, list[float]]:
        """Return the sums and weights as numbers that JSON stores exactly."""
        return {name: [float(self._sums[name]), float(self._weights[name])] for name in self._sums}

    def load_state(self, state: Mapping[str, list[float]]) -> None:
        """Restore what :meth:`state` returned."""
        self._sums = {name: torch.tensor(pair[0], dtype=torch.float64) for name, pair in state.items()}
        self._weights = {name: torch.tensor(pair[1], dtype=torch.float64) for name, pair in state.items()}


class MetricsFile:
    """``metrics.jsonl``: one JSON object per line; on resume it is truncated to its size when the state was saved."""

    def __init__(self, path: Path, size: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # stays open during the run
        self._stream = open(path, "ab")  # noqa: SIM115
        if self._stream.tell() > size:
            self._stream.truncate(size)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a line; numbers that are not finite are written as null, since JSON cannot represent them."""
        finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in
                  row.items()}  # fmt: skip
        self._stream.write((json.dumps(finite, allow_nan=False) + "\n").encode())
        self._stream.flush()

    @property
    def size(self) -> int:
        """Number of bytes written so far."""
        return os.fstat(self._stream.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class Reporter:
    """Writes the values of a run to the log, ``metrics.jsonl`` and tensorboard.

    Args:
        exp_dir: directory for ``metrics.jsonl`` and ``tensorboard/``.
        step: number of optimiser steps so far; later points of tensorboard are dropped.
        total_steps: number of steps of the run, for the progress bar and the time left; None if unknown.
        metrics_size: size of ``metrics.jsonl`` after these steps, in bytes.
        tensorboard: whether to write tensorboard files.
        active: whether to write anything; only the main process does.
    """

    def __init__(
        self, exp_dir: Path, step: int, total_steps: Optional[int], metrics_size: int, tensorboard: bool, active: bool
    ) -> None:
        self._first_step = step
        self._total_steps = total_steps
        self._began = time.monotonic()
        self._resources = ExitStack()
        self._bar: Optional[tqdm] = None
        self._metrics: Optional[MetricsFile] = None
        self._writer: Any = None
        if not active:
            return
        self._metrics = MetricsFile(exp_dir / "metrics.jsonl", metrics_size)
        self._resources.callback(self._metrics.close)
        if tensorboard:
            self._writer = _summary_writer(exp_dir / "tensorboard", step)
        if sys.stderr.isatty():
            self._resources.enter_context(logging_redirect_tqdm())
            self._bar = tqdm(total=total_steps, initial=step, unit="step", dynamic_ncols=True, smoothing=0.05)
            self._resources.callback(self._bar.close)

    def advance(self) -> None:
        """Count one step."""
        if self._bar is not None:
            self._bar.update()

    def expect(self, total_steps: int) -> None:
        """Set the number of steps of the whole run, once it can be estimated."""
        self._total_steps = total_steps
        if self._bar is not None:
            self._bar.total = total_steps
            self._bar.refresh()

    def report(self, kind: str, position: Mapping[str, int], values: Mapping[str, float]) -> None:
        """Write values (``kind``: "train" or "dev") to the log, ``metrics.jsonl`` and tensorboard."""
        if self._metrics is None:
            return
        self._metrics.write({"kind": kind, **position, **values})
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, position["step"])
        text = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
        logger.info("%s epoch %d, step %s: %s", kind, position["epoch"], self._place(position["step"]), text)
        if self._bar is not None and "loss" in values:
            self._bar.set_postfix_str(f"{kind} loss {_short(values['loss'])}")

    def _place(self, step: int) -> str:
        if self._total_steps is None:
            return str(step)
        made = step - self._first_step
        if self._bar is not None or made <= 0:
            return f"{step}/{self._total_steps}"
        left = (time.monotonic() - self._began) / made * max(0, self._total_steps - step)
        return f"{step}/{self._total_steps}, {_duration(left)} left"

    @property
    def metrics_size(self) -> int:
        """Size of ``metrics.jsonl`` so far, in bytes."""
        return self._metrics.size if self._metrics is not None else 0

    def flush(self) -> None:
        """Write tensorboard's values to disk."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close the files and the progress bar."""
        if self._writer is not None:
            self._writer.close()
        self._resources.close()


def _summary_writer(directory: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        logger.warning("no tensorboard files will be written (%s): pip install tensorboard", error)
        return None
    return SummaryWriter(str(directory), purge_step=step + 1)


def _short(value: float) -> str:
    return f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
