"""Run exported files by onnxruntime or TorchScript in place of PyTorch modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.kinds.exports import Part
from pruning.kinds.forms import FORMS
from pruning.optional import package


class ExportedPart:
    """One exported network, called with tensors and returning tensors.

    Args:
        path: ONNX or TorchScript (``.pt``) file.
        threads: number of threads of onnxruntime.

    Raises:
        UserError: the file is missing or broken, or, when it is called, does not take the inputs.
    """

    def __init__(self, path: Path, threads: int) -> None:
        if not path.is_file():
            raise UserError(f"{path} does not exist", "export it: python -m pruning.bin.export --help")
        self.path = path
        self._session: Any = None
        if path.suffix == ".pt":
            try:
                self._script = torch.jit.load(str(path)).eval()  # written by us: TorchScript, not pickled objects
            except RuntimeError:
                raise UserError(f"{path} cannot be loaded", "export it again") from None
            return
        onnxruntime = package("onnxruntime", "an ONNX export")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # otherwise its threads keep spinning for some 20 ms on the processors of the next measurement
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a different type for each way to be broken
            raise UserError(f"{path} cannot be loaded ({type(error).__name__})", "export it again") from None
        self._names = [value.name for value in self._session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        if self._session is None:
            outputs = self._script(*inputs)
            return list(outputs) if isinstance(outputs, tuple) else [outputs]
        feeds = {name: value.numpy() for name, value in zip(self._names, inputs)}
        try:
            return [torch.from_numpy(value) for value in self._session.run(None, feeds)]
        except Exception as error:  # onnxruntime has a different type for each reason
            raise UserError(f"{self.path} cannot compute what it is given ({str(error).splitlines()[0]})",
                            "give the network and the options that it was exported with") from error  # fmt: skip

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the ONNX file; for TorchScript, of the ONNX file in the same directory."""
        if self._session is None:
            return ExportedPart(self.path.with_suffix(".onnx"), 1).metadata
        return dict(self._session.get_modelmeta().custom_metadata_map)


def read_parts(directory: PathLike, names: Sequence[str], form: str, threads: int = 1) -> dict[str, ExportedPart]:
    """Load exported files of a directory, by the names of their parts.

    Args:
        directory: directory of the export.
        names: names of the parts.
        form: one of `pruning.kinds.forms.FORMS`.
        threads: number of threads of onnxruntime; TorchScript uses torch's setting.

    Raises:
        UserError: a file is missing or broken, or the form is unknown.
    """
    if form not in FORMS:
        raise UserError(f"unknown form of export {form!r}", f"choose from {', '.join(FORMS)}")
    return {name: ExportedPart(Path(directory) / f"{name}{FORMS[form]}", threads) for name in names}


def check_described(calls: Mapping[str, ExportedPart], parts: Mapping[str, Part]) -> None:
    """Check that the metadata of exported files are those of a network, before their outputs are compared.

    Args:
        calls: exported files, by name.
        parts: what the export of the network consists of.

    Raises:
        UserError: a file is of another kind of network, of other dimensions, or of a stream of other chunks.
    """
    for name, part in parts.items():
        found = calls[name].metadata
        for key, wanted in part.metadata.items():
            if found.get(key) != wanted:
                says = f"says {key}: {found[key]}" if key in found else f"says nothing about {key}"
                raise UserError(f"{calls[name].path} {says}, but for this network and these options it is {wanted}",
                                "give the network, and the --chunk-size and --left-context-frames, that it was "
                                "exported with, or leave out --check to export again")  # fmt: skip
