"""What a kind says of the export of its networks: the files, and how exported ones compare with PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional, Protocol

import torch
from torch import Tensor, nn

AUTHOR = {"model_author": "structured pruning", "version": "1"}
"""Metadata of every file."""
Axes = Mapping[str, Mapping[int, str]]


class Part(NamedTuple):
    """What becomes one file.

    Attributes:
        module: takes and gives tensors.
        inputs: to trace it with.
        takes, gives: names of its inputs and outputs, in order -> names of their dynamic axes.
        metadata: of the file.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    takes: Axes
    gives: Axes
    metadata: Mapping[str, str]


class ExportedCall(Protocol):
    """An exported file that can be run."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Of an ONNX file."""

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Its outputs."""


Calls = Mapping[str, ExportedCall]
"""Exported files by the names of their parts."""


class Agreement(NamedTuple):
    """How an exported network compares with PyTorch's.

    Attributes:
        difference: the largest difference of outputs, relative to the largest output.
        words: what was compared, and what came of it.
    """

    difference: float
    words: str


@dataclass(frozen=True)
class Exports:
    """How a network is exported.

    Attributes:
        parts: what becomes a file, by name.
        timed: the part that a benchmark of encoders times; empty: none is.
        tables: files of the language directory that go with it.
        agreement: ``agreement(calls, data, max_batches)`` compares exported files with PyTorch's network on a file of
            data; on noise or random tokens where ``data`` is None.
    """

    parts: Mapping[str, Part]
    timed: str
    tables: tuple[str, ...]
    agreement: Callable[[Calls, Optional[Path], int], Agreement]


@dataclass
class Difference:
    """The largest difference between outputs that were added, ``relative`` to the largest output."""

    largest: float = 0.0
    reach: float = 1e-30

    def add(self, got: Tensor, wanted: Tensor) -> None:
        """Compare two tensors of one shape; nothing where they are empty."""
        if wanted.numel():
            difference = float((got - wanted).abs().max())
            self.largest = max(self.largest, difference if math.isfinite(difference) else math.inf)  # NaN passes max()
            self.reach = max(self.reach, float(wanted.abs().max()))

    @property
    def relative(self) -> float:
        """Over all that was added."""
        return self.largest / self.reach


def padded(x: Tensor, least: int) -> Tensor:
    """``x (N, L, ...)`` with zeros behind it where it is shorter than ``least``, in operations that can be traced."""
    one = x[0] if x.dim() == 2 else x[0, :, 0]
    length = torch.ones_like(one, dtype=torch.int64).sum()  # where x.shape would be a constant
    longer = torch.cat([x, x.new_zeros(x.shape[0], least, *x.shape[2:])], dim=1)
    return longer[:, : length.clamp(min=least)]
