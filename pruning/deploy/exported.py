"""An exported transducer as the searches take it: onnxruntime or TorchScript in the place of PyTorch's modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.optional import package

FORMS = {"float32": ".onnx", "int8": ".int8.onnx", "torchscript": ".pt"}
"""Endings of the files of each form of export."""
PARTS = ("encoder", "decoder", "joiner")


class Encoded(NamedTuple):
    """Output of an encoder, projected to the joiner's dimension: ``(N, T', J)`` and ``(N,)``."""

    output: Tensor
    lengths: Tensor


class ExportedPart:
    """One exported network: tensors in, tensors out.

    Args:
        path: ONNX or TorchScript (``.pt``).
        threads: of onnxruntime.

    Raises:
        UserError: the file is missing or broken.
    """

    def __init__(self, path: Path, threads: int) -> None:
        if not path.is_file():
            raise UserError(f"{path} does not exist", "export it: python -m pruning.bin.export --help")
        self.path = path
        self._session: Any = None
        if path.suffix == ".pt":
            try:
                self._script = torch.jit.load(str(path)).eval()  # our own files: TorchScript, not pickled objects
            except RuntimeError:
                raise UserError(f"{path} cannot be loaded", "export it again") from None
            return
        onnxruntime = package("onnxruntime", "an ONNX export")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # else its threads go on turning for some 20 ms, on processors where what is measured next runs
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a type for every way to be broken
            raise UserError(f"{path} cannot be loaded ({type(error).__name__})", "export it again") from None
        self._names = [value.name for value in self._session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        if self._session is None:
            outputs = self._script(*inputs)
            return list(outputs) if isinstance(outputs, tuple) else [outputs]
        feeds = {name: value.numpy() for name, value in zip(self._names, inputs)}
        return [torch.from_numpy(value) for value in self._session.run(None, feeds)]

    @property
    def metadata(self) -> dict[str, str]:
        """Of an ONNX file."""
        return dict(self._session.get_modelmeta().custom_metadata_map)


class _Decoder:
    blank_id = 0

    def __init__(self, part: ExportedPart, context_size: int, vocab_size: int) -> None:
        self._part, self.context_size, self.vocab_size = part, context_size, vocab_size

    def __call__(self, tokens: Tensor, pad: bool) -> Tensor:
        """``(N, U) -> (N, U', J)``, projected already."""
        if pad:
            tokens = torch.nn.functional.pad(tokens, (self.context_size - 1, 0), value=-1)
        contexts = tokens.unfold(1, self.context_size, 1)  # (N, U', context)
        (output,) = self._part(contexts.flatten(0, 1).contiguous())
        return output.view(*contexts.shape[:2], -1)


class _Joiner:
    def __init__(self, part: ExportedPart) -> None:
        self._part = part

    @staticmethod
    def encoder_proj(encoder_out: Tensor) -> Tensor:
        """The exported encoder has it."""
        return encoder_out

    @staticmethod
    def decoder_proj(decoder_out: Tensor) -> Tensor:
        """The exported decoder has it."""
        return decoder_out

    def __call__(self, encoder_out: Tensor, decoder_out: Tensor, project: bool = True) -> Tensor:
        encoder_out, decoder_out = torch.broadcast_tensors(encoder_out, decoder_out)
        width = encoder_out.shape[-1]
        (logits,) = self._part(encoder_out.reshape(-1, width), decoder_out.reshape(-1, width))
        return logits.view(*encoder_out.shape[:-1], -1)


class ExportedTransducer:
    """Encoder, decoder and joiner from the files of an export.

    Args:
        directory: holds them and ``encoder.onnx`` with its metadata, whatever the form.
        form: one of `FORMS`.
        threads: of onnxruntime; TorchScript takes torch's.

    Attributes:
        decoder, joiner: as `pruning.speech.network.TransducerNetwork` has them.
        feature_dim: bins per frame.
        files: the three files.

    Raises:
        UserError: a file is missing or broken, or an unknown form.
    """

    def __init__(self, directory: PathLike, form: str = "float32", threads: int = 1) -> None:
        if form not in FORMS:
            raise UserError(f"there is no form {form!r} of export", f"choose from {', '.join(FORMS)}")
        self.files = [Path(directory) / f"{name}{FORMS[form]}" for name in PARTS]
        self._encoder, decoder, joiner = (ExportedPart(path, threads) for path in self.files)
        described = [part if part.path.suffix == ".onnx" else ExportedPart(Path(directory) / f"{name}.onnx", 1)
                     for name, part in (("encoder", self._encoder), ("decoder", decoder))]  # fmt: skip
        try:
            self.feature_dim = int(described[0].metadata["feature_dim"])
            context_size, vocab_size = (int(described[1].metadata[key]) for key in ("context_size", "vocab_size"))
        except (KeyError, ValueError) as error:
            raise UserError(f"{directory} lacks metadata ({error})", "export it again") from None
        self.decoder, self.joiner = _Decoder(decoder, context_size, vocab_size), _Joiner(joiner)

    def encoder(self, features: Tensor, lengths: Tensor) -> Encoded:
        """``(N, T, C)``, ``(N,)`` -> projected output and lengths."""
        output, frames = self._encoder(features, lengths)
        return Encoded(output, frames)
