"""Write ONNX files of networks of any kind: traced, with metadata and int8 forms."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning.errors import UserError
from pruning.files import PathLike, atomic_path
from pruning.kinds.exports import AUTHOR, Part
from pruning.kinds.forms import FORMS
from pruning.optional import package

OPSET = 17  # the first with layer normalisation
_LARGEST = 2**31 - 2**24  # bytes; the form of the files, protobuf, holds less than 2 GiB


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
        UserError: onnx or onnxruntime is not installed, or a part is too large for a file.
    """
    for name, part in parts.items():
        _check_size(name, part)
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
            twins = _twins(onnx, network)
            if quantization is not None:  # before matrices are shared: only constants can be quantised
                with atomic_path(small) as smaller:
                    _quantise(quantization, temporary, smaller, part.per_channel)
                    quantised = onnx.load(str(smaller))
                    _share_quantised(onnx, quantised, twins)
                    onnx.save(quantised, str(smaller))
            _share_transposed(onnx, network, twins)
            onnx.save(network, str(temporary))
        written += [path] if quantization is None else [path, small]
    return written


def parts_in(directory: PathLike) -> set[str]:
    """Return the names of the parts in a directory whose ONNX files this package wrote, in any form.

    Raises:
        UserError: onnx is not installed.
    """
    onnx = package("onnx", "ONNX export")
    return {path.name.removesuffix(FORMS["int8"]).removesuffix(FORMS["float32"])
            for path in Path(directory).glob(f"*{FORMS['float32']}") if _is_ours(onnx, path)}  # fmt: skip


def _is_ours(onnx: Any, path: Path) -> bool:
    try:
        network = onnx.load(str(path), load_external_data=False)
    except Exception:  # not an ONNX file; protobuf has its own types of errors
        return False
    found = {one.key: one.value for one in network.metadata_props}
    return all(found.get(key) == value for key, value in AUTHOR.items())


def _check_size(name: str, part: Part) -> None:
    """Check that a part fits a file; a tied embedding is traced twice.

    Raises:
        UserError: it does not.
    """
    weights = {id(one): one for one in (*part.module.parameters(), *part.module.buffers())}
    tables = [one.weight for one in part.module.modules() if isinstance(one, nn.Embedding)]
    size = sum(one.numel() * one.element_size() for one in (*weights.values(), *tables))
    if size >= _LARGEST:
        raise UserError(f"{name} has {size / 2**30:.1f} GiB of float32 weights, and an ONNX file holds less than 2 GiB",
                        "prune more of it, or export a Hugging Face directory")  # fmt: skip


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


def _twins(onnx: Any, network: Any) -> dict[str, str]:
    """Return the tables of tied embeddings, with the matrix of the output layer that is the transpose of each."""
    graph = network.graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer if len(one.dims) == 2}
    rows = {node.input[0] for node in graph.node if node.op_type == "Gather" and not _axis(node)}
    read_else = {name for node in graph.node if node.op_type != "Gather" for name in node.input}
    tables = (rows - read_else) & arrays.keys()
    return {
        table: name
        for table in sorted(tables)
        for name, array in arrays.items()
        if name not in tables and array.shape == arrays[table].shape[::-1] and (array == arrays[table].T).all()
    }


def _axis(node: Any) -> int:
    """Return the axis of a Gather."""
    return next((int(one.i) for one in node.attribute if one.name == "axis"), 0)


def _share_transposed(onnx: Any, network: Any, twins: Mapping[str, str]) -> None:
    """Store only one of two matrices that are transposes of each other, see `_twins`; transpose it on loading."""
    graph = network.graph
    for table, twin in twins.items():
        _remove(graph, twin)
        graph.node.insert(0, onnx.helper.make_node("Transpose", [table], [twin], perm=[1, 0]))


def _share_quantised(onnx: Any, network: Any, twins: Mapping[str, str]) -> None:
    """Read tied embeddings from the int8 matrix of the output layer, each row times its scale, instead of floats."""
    graph, make = network.graph, onnx.helper.make_node
    constants = {one.name: one for one in graph.initializer}
    for table, twin in twins.items():
        matrix, scale, zero = (f"{twin}_{part}" for part in ("quantized", "scale", "zero_point"))
        if matrix not in constants or onnx.numpy_helper.to_array(constants[zero]).any():
            continue  # the output layer was not quantised, or not symmetrically
        by_row, rows = list(constants[scale].dims) == constants[table].dims[:1], f"{table}_rows"
        nodes = [make("Transpose", [matrix], [rows], perm=[1, 0])]
        for node in graph.node:
            if node.op_type != "Gather" or node.input[0] != table:
                nodes.append(node)
                continue
            ids, out = node.input[1], node.output[0]
            nodes += [make("Gather", [rows, ids], [f"{out}_int8"]),
                      make("Cast", [f"{out}_int8"], [f"{out}_cast"], to=onnx.TensorProto.FLOAT)]  # fmt: skip
            factor = scale
            if by_row:
                factor, last = f"{out}_factor", f"{out}_last"
                graph.initializer.append(onnx.helper.make_tensor(last, onnx.TensorProto.INT64, (1,), [-1]))
                nodes += [make("Gather", [scale, ids], [f"{out}_scale"]),
                          make("Unsqueeze", [f"{out}_scale", last], [factor])]  # fmt: skip
            nodes.append(make("Mul", [f"{out}_cast", factor], [out]))
        del graph.node[:]
        graph.node.extend(nodes)
        _remove(graph, table)


def _remove(graph: Any, name: str) -> None:
    """Remove a constant."""
    graph.initializer.remove(next(one for one in graph.initializer if one.name == name))


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
