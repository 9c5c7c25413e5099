"""ONNX files of networks of any kind: traced, with metadata, quantised, written by rename, compared with PyTorch's."""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from pruning.files import PathLike, atomic_path
from pruning.optional import package

OPSET = 17  # the first with layer normalisation
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


def padded(x: Tensor, least: int) -> Tensor:
    """``x (N, L, ...)`` with zeros behind it where it is shorter than ``least``, in operations that can be traced."""
    one = x[0] if x.dim() == 2 else x[0, :, 0]
    length = torch.ones_like(one, dtype=torch.int64).sum()  # where x.shape would be a constant
    longer = torch.cat([x, x.new_zeros(x.shape[0], least, *x.shape[2:])], dim=1)
    return longer[:, : length.clamp(min=least)]


@torch.no_grad()
def write(
    parts: Mapping[str, Part], directory: PathLike, lang_dir: Optional[PathLike] = None, int8: bool = True
) -> list[Path]:
    """Write ``NAME.onnx`` of every part, their int8 forms, and ``tokens.txt``.

    Args:
        parts: by name.
        directory: where to.
        lang_dir: has the tokens; None writes none.
        int8: also write ``NAME.int8.onnx``, matrices quantised dynamically.

    Returns:
        The model files.

    Raises:
        UserError: onnx or onnxruntime is not installed.
    """
    onnx = package("onnx", "ONNX export")
    quantization = package("onnxruntime.quantization", "int8 export") if int8 else None
    written = []
    for name, part in parts.items():
        path, small = (Path(directory) / f"{name}{ending}" for ending in (".onnx", ".int8.onnx"))
        with atomic_path(path) as temporary:
            _trace(part, temporary)
            network = onnx.load(str(temporary))
            for key, value in part.metadata.items():
                entry = network.metadata_props.add()
                entry.key, entry.value = key, value
            onnx.save(network, str(temporary))
            if quantization is not None:  # before matrices are shared: only constants are quantised
                with atomic_path(small) as smaller:
                    _quantise(quantization, temporary, smaller)
            _share_transposed(onnx, network)
            onnx.save(network, str(temporary))
        written += [path] if quantization is None else [path, small]
    if lang_dir is not None:
        with atomic_path(Path(directory) / "tokens.txt") as temporary:
            shutil.copyfile(Path(lang_dir) / "tokens.txt", temporary)
    return written


def _trace(part: Part, path: Path) -> None:
    options: dict[str, Any] = {"dynamo": False} if torch.__version__ >= "2.5" else {}
    axes = {name: dict(value) for name, value in (*part.takes.items(), *part.gives.items())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every shape that it follows
        torch.onnx.export(
            part.module.eval(), part.inputs, str(path), input_names=list(part.takes), output_names=list(part.gives),
            dynamic_axes=axes, opset_version=OPSET, **options,
        )  # fmt: skip


def _share_transposed(onnx: Any, network: Any) -> None:
    """Keep one of two matrices where one is the other transposed (a tied embedding); it is turned when loaded."""
    graph = network.graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer if len(one.dims) == 2}
    gathered = {node.input[0] for node in graph.node if node.op_type == "Gather"} & arrays.keys()
    for table in gathered:
        for one in list(graph.initializer):
            twin = arrays.get(one.name)
            if one.name in gathered or twin is None or twin.shape != arrays[table].shape[::-1]:
                continue
            if (twin == arrays[table].T).all():
                graph.initializer.remove(one)
                graph.node.insert(0, onnx.helper.make_node("Transpose", [table], [one.name], perm=[1, 0]))


def _quantise(quantization: Any, source: Path, target: Path) -> None:
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preparation that changes nothing here
    try:
        quantization.quantize_dynamic(
            str(source), str(target), op_types_to_quantize=["MatMul"], weight_type=quantization.QuantType.QInt8
        )
    finally:
        logging.getLogger().setLevel(level)


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
