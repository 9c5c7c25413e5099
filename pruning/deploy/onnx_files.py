"""Write ONNX files of networks of any kind: traced, with metadata and int8 forms."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pruning.files import PathLike, atomic_path
from pruning.kinds.exports import Part
from pruning.kinds.forms import FORMS
from pruning.optional import package

OPSET = 17  # the first with layer normalisation


@torch.no_grad()
def write(parts: Mapping[str, Part], directory: PathLike, int8: bool = True) -> list[Path]:
    """Write ``NAME.onnx`` for every part, and the int8 forms.

    Args:
        parts: parts by name.
        directory: output directory.
        int8: also write ``NAME.int8.onnx`` with dynamically quantised matrices.

    Returns:
        The model files.

    Raises:
        UserError: onnx or onnxruntime is not installed.
    """
    onnx = package("onnx", "ONNX export")
    quantization = package("onnxruntime.quantization", "int8 export") if int8 else None
    written = []
    for name, part in parts.items():
        path, small = (Path(directory) / f"{name}{ending}" for ending in (FORMS["float32"], FORMS["int8"]))
        with atomic_path(path) as temporary:
            _trace(part, temporary)
            network = onnx.load(str(temporary))
            for key, value in part.metadata.items():
                entry = network.metadata_props.add()
                entry.key, entry.value = key, value
            _give_biases(onnx, network)
            _keep_inputs(onnx, network, part)
            onnx.save(network, str(temporary))
            if quantization is not None:  # before matrices are shared: only constants can be quantised
                with atomic_path(small) as smaller:
                    _quantise(quantization, temporary, smaller, part.per_channel)
            _share_transposed(onnx, network)
            onnx.save(network, str(temporary))
        written += [path] if quantization is None else [path, small]
    return written


def _trace(part: Part, path: Path) -> None:
    options: dict[str, Any] = {"dynamo": False} if torch.__version__ >= "2.5" else {}
    axes = {name: dict(value) for name, value in (*part.takes.items(), *part.gives.items())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about every shape that it follows
        torch.onnx.export(
            part.module.eval(), part.inputs, str(path), input_names=list(part.takes), output_names=list(part.gives),
            dynamic_axes=axes, opset_version=OPSET, **options,
        )  # fmt: skip


def _keep_inputs(onnx: Any, network: Any, part: Part) -> None:
    """Give the file all inputs of its part, in order, also those that are not read and that the tracer drops."""
    graph = network.graph
    found = {one.name: one for one in graph.input}
    for (name, axes), example in zip(part.takes.items(), part.inputs):
        if name not in found:
            shape = [axes.get(axis, size) for axis, size in enumerate(example.shape)]
            kind = onnx.helper.np_dtype_to_tensor_dtype(example.numpy().dtype)
            found[name] = onnx.helper.make_tensor_value_info(name, kind, shape)
    ordered = [found[name] for name in part.takes]
    del graph.input[:]
    graph.input.extend(ordered)


def _give_biases(onnx: Any, network: Any) -> None:
    """Give layer norms without bias one of zeros, because loading them ends onnxruntime 1.31 by a memory fault."""
    graph = network.graph
    sizes = {one.name: tuple(one.dims) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "LayerNormalization" and not all(node.input[2:3] or [""]):
            scale = node.input[1]
            name, size = f"{scale}.no_bias", sizes[scale]
            if name not in sizes:
                zeros = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, size, [0.0] * size[0])
                graph.initializer.append(zeros)
                sizes[name] = size
            del node.input[2:]
            node.input.append(name)


def _share_transposed(onnx: Any, network: Any) -> None:
    """Store only one of two matrices that are transposes of each other (a tied embedding); transpose it on loading."""
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


def _quantise(quantization: Any, source: Path, target: Path, per_channel: bool) -> None:
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preprocessing step that changes nothing here
    try:
        quantization.quantize_dynamic(
            str(source),
            str(target),
            op_types_to_quantize=["MatMul"],
            per_channel=per_channel,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,  # 7 bits: 8 bits saturate in kernels for processors without VNNI
        )
    finally:
        logging.getLogger().setLevel(level)
