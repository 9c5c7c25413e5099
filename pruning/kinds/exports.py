"""What a kind declares about the export of its networks: the files, and their comparison with PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Optional, Protocol

import torch
from torch import Tensor, nn

from pruning.files import PathLike

AUTHOR = {"model_author": "structured pruning", "version": "1"}
"""Metadata of every exported file."""
Axes = Mapping[str, Mapping[int, str]]


class Part(NamedTuple):
    """The part of a network that is exported to one file.

    Attributes:
        module: module that takes and returns tensors.
        inputs: example inputs for tracing the module.
        takes, gives: names of the inputs and outputs, in order -> names of their dynamic axes.
        metadata: metadata of the file.
        per_channel: whether its int8 form has a scale for each output of a matrix instead of one for all.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    takes: Axes
    gives: Axes
    metadata: Mapping[str, str]
    per_channel: bool = False


class ExportedCall(Protocol):
    """An exported file that can be run."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata of the file, if it is an ONNX file."""

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the file on inputs and return its outputs."""


Calls = Mapping[str, ExportedCall]
"""Exported files by the names of their parts."""


class HuggingFaceForm(NamedTuple):
    """A network as Hugging Face writes it.

    Attributes:
        values: content of ``config.json``.
        generation: content of ``generation_config.json``; empty: no file.
        preprocessor: content of ``preprocessor_config.json``; empty: no file.
        tensors: tensors by their names there.
        load: reads the written directory as a network of this package.
    """

    values: dict[str, Any]
    generation: dict[str, Any]
    preprocessor: dict[str, Any]
    tensors: dict[str, Tensor]
    load: Callable[[PathLike], nn.Module]


class Agreement(NamedTuple):
    """How an exported network compares with PyTorch's.

    Attributes:
        difference: the largest difference of outputs, relative to the largest output.
        words: what was compared and the result, in words.
    """

    difference: float
    words: str


@dataclass(frozen=True)
class Exports:
    """How a network is exported.

    Attributes:
        parts: parts of the network that become one file each, by name.
        timed: name of the part that a benchmark of encoders times; empty if none.
        tables: files of the lang dir to copy next to the exported files.
        texts: other text files to write there: name -> content.
        agreement: ``agreement(calls, data, max_batches)`` compares exported files with the PyTorch network on a file of
            data, or on noise or random tokens if ``data`` is None.
    """

    parts: Mapping[str, Part]
    timed: str
    tables: tuple[str, ...]
    agreement: Callable[[Calls, Optional[Path], int], Agreement]
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Difference:
    """Largest difference over all outputs that were added; ``relative`` is relative to the largest output."""

    largest: float = 0.0
    reach: float = 1e-30

    def add(self, got: Tensor, wanted: Tensor) -> None:
        """Compare two tensors; empty ones are ignored, and the difference of other shapes is infinite."""
        if got.shape != wanted.shape:
            self.largest = math.inf
        elif wanted.numel():
            difference = float((got - wanted).abs().max())
            self.largest = max(self.largest, difference if math.isfinite(difference) else math.inf)  # NaN passes max()
            self.reach = max(self.reach, float(wanted.abs().max()))

    @property
    def relative(self) -> float:
        """Relative difference over all outputs that were added."""
        return self.largest / self.reach


def length_of(x: Tensor) -> Tensor:
    """Return L of ``x (N, L, ...)`` as a tensor, in operations that can be traced: x.shape may become a constant."""
    one = x[0] if x.dim() == 2 else x[0, :, 0]
    return torch.ones_like(one, dtype=torch.int64).sum()


def padded(x: Tensor, least: int) -> Tensor:
    """Append zeros to ``x (N, L, ...)`` if it is shorter than ``least``, in operations that can be traced."""
    length = length_of(x)
    longer = torch.cat([x, x.new_zeros(x.shape[0], least, *x.shape[2:])], dim=1)
    return longer[:, : length.clamp(min=least)]
