"""Export of a transducer: ONNX as sherpa-onnx's offline transducer loads it, and TorchScript.

`encoder.onnx` takes ``x (N, T, C)`` and ``x_lens (N,)`` and gives ``encoder_out (N, T', J)``, projected by the joiner
already, and ``encoder_out_lens``; `decoder.onnx` takes ``y (N, context)`` and gives ``decoder_out (N, J)``;
`joiner.onnx` takes ``encoder_out (N, J)`` and ``decoder_out (N, J)`` and gives ``logit (N, V)``: the names and metadata
of icefall's ``export-onnx.py``.
"""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pruning.core.distillation import frame_mask
from pruning.files import PathLike, atomic_path
from pruning.models.subsampling import SHORTEST
from pruning.models.transducer import Transducer
from pruning.optional import package
from pruning.speech.data import Batch
from pruning.speech.exported import ExportedTransducer
from pruning.speech.greedy import greedy_search
from pruning.training.facts import frames_of

logger = logging.getLogger(__name__)

OPSET = 17  # the first with layer normalisation
_TRACED_SECONDS = 5.0


class ExportedEncoder(nn.Module):
    """Encoder and the joiner's projection of its output."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.encoder, self.projection = model.encoder, model.joiner.encoder_proj

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, T, C)``, ``(N,)`` -> ``(N, T', J)``, ``(N,)``."""
        frames = torch.ones_like(x[0, :, 0], dtype=torch.int64).sum()  # traced, where x.shape would be a constant
        padded = torch.cat([x, x.new_zeros(x.shape[0], SHORTEST, x.shape[2])], dim=1)
        encoded = self.encoder(padded[:, : frames.clamp(min=SHORTEST)], x_lens)
        return self.projection(encoded.output), encoded.lengths


class ExportedDecoder(nn.Module):
    """Decoder and the joiner's projection of its output."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.decoder, self.projection = model.decoder, model.joiner.decoder_proj

    def forward(self, y: Tensor) -> Tensor:
        """Contexts ``(N, context)`` int64 -> ``(N, J)``."""
        return self.projection(self.decoder(y, pad=False)).squeeze(1)


class ExportedJoiner(nn.Module):
    """What is left of the joiner."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.output = model.joiner.output

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """``(N, J)``, ``(N, J)`` -> logits ``(N, V)``."""
        return self.output(torch.tanh(encoder_out + decoder_out))


def _examples(model: Transducer) -> dict[str, tuple[nn.Module, tuple[Tensor, ...], list[str], list[str]]]:
    """Of each part: the module, an input to trace, names of inputs and of outputs; the first axis is dynamic."""
    config = model.config
    frames = frames_of(_TRACED_SECONDS)
    features = torch.randn(2, frames, config.encoder.feature_dim, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([frames, frames * 3 // 4])
    contexts = torch.ones(2, config.context_size, dtype=torch.int64)
    joined = torch.zeros(2, config.joiner_dim)
    return {
        "encoder": (
            ExportedEncoder(model), (features, lengths), ["x", "x_lens"], ["encoder_out", "encoder_out_lens"],
        ),
        "decoder": (ExportedDecoder(model), (contexts,), ["y"], ["decoder_out"]),
        "joiner": (ExportedJoiner(model), (joined, joined), ["encoder_out", "decoder_out"], ["logit"]),
    }  # fmt: skip


def metadata(model: Transducer) -> dict[str, dict[str, str]]:
    """What sherpa-onnx reads from each part, and a few words more."""
    config = model.config
    common = {"model_author": "structured pruning", "version": "1", "comment": "pruned Conformer transducer"}
    return {
        "encoder": {"model_type": "conformer", "feature_dim": str(config.encoder.feature_dim), **common},
        "decoder": {"context_size": str(config.context_size), "vocab_size": str(config.vocab_size), **common},
        "joiner": {"joiner_dim": str(config.joiner_dim), **common},
    }


@torch.no_grad()
def export_onnx(model: Transducer, directory: PathLike, lang_dir: PathLike, int8: bool = True) -> list[Path]:
    """Write ``{encoder,decoder,joiner}.onnx``, their int8 forms, and ``tokens.txt``.

    Args:
        model: an extracted or dense network; irregular layers and removed modules are as good as any.
        directory: where to.
        lang_dir: has the tokens.
        int8: also write ``*.int8.onnx``, matrices quantised dynamically.

    Returns:
        The model files.

    Raises:
        UserError: onnx or onnxruntime is not installed.
    """
    onnx = package("onnx", "ONNX export")
    quantization = package("onnxruntime.quantization", "int8 export") if int8 else None
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    facts, written = metadata(model.eval()), []
    for name, (module, inputs, names_in, names_out) in _examples(model).items():
        path = directory / f"{name}.onnx"
        axes = {names_in[0]: {0: "N", 1: "T"}, names_out[0]: {0: "N", 1: "T"}} if name == "encoder" else {}
        axes = {**{tensor: {0: "N"} for tensor in (*names_in, *names_out)}, **axes}
        with atomic_path(path) as temporary:
            _to_onnx(module.eval(), inputs, temporary, names_in, names_out, axes)
            _add_metadata(onnx, temporary, facts[name])
        written.append(path)
        if quantization is not None:
            small = directory / f"{name}.int8.onnx"
            with atomic_path(small) as temporary:
                _quantise(quantization, path, temporary)
            written.append(small)
    with atomic_path(directory / "tokens.txt") as temporary:
        shutil.copyfile(Path(lang_dir) / "tokens.txt", temporary)
    return written


def _to_onnx(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    names_in: Sequence[str],
    names_out: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> None:
    options: dict[str, Any] = {"dynamo": False} if torch.__version__ >= "2.5" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every shape that it follows
        torch.onnx.export(
            module, inputs, str(path), input_names=list(names_in), output_names=list(names_out),
            dynamic_axes={name: dict(value) for name, value in axes.items()}, opset_version=OPSET, **options,
        )  # fmt: skip


def _add_metadata(onnx: Any, path: Path, values: Mapping[str, str]) -> None:
    network = onnx.load(str(path))
    for key, value in values.items():
        entry = network.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(network, str(path))


def _quantise(quantization: Any, source: Path, target: Path) -> None:
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preparation that changes nothing here
    try:
        quantization.quantize_dynamic(
            str(source), str(target), op_types_to_quantize=["MatMul"], weight_type=quantization.QuantType.QInt8
        )
    finally:
        logging.getLogger().setLevel(level)


class Agreement(NamedTuple):
    """How an exported network compares with PyTorch's on the same features.

    Attributes:
        difference: largest difference of projected encoder outputs on valid frames, relative to the largest output.
        utterances: compared.
        differing: ids of those whose greedy hypotheses differ.
    """

    difference: float
    utterances: int
    differing: list[str]


@torch.no_grad()
def agreement(model: Transducer, exported: ExportedTransducer, batches: Iterable[Batch]) -> Agreement:
    """Compare outputs and greedy hypotheses, batch by batch."""
    largest, reach, differing, count = 0.0, 1e-30, list[str](), 0
    for batch in batches:
        encoded = model.eval()(batch.features, batch.lengths)
        wanted = model.joiner.encoder_proj(encoded.output)
        got = exported.encoder(batch.features, batch.lengths)
        valid = frame_mask(encoded.lengths, wanted.shape[1])
        if valid.any():  # an utterance of fewer than 7 frames has none
            difference = float((got.output[:, : wanted.shape[1]] - wanted)[valid].abs().max())
            largest = max(largest, difference if math.isfinite(difference) else math.inf)  # max() passes over NaN
            reach = max(reach, float(wanted[valid].abs().max()))
        pairs = zip(batch.ids, greedy_search(model, encoded.output, encoded.lengths),
                    greedy_search(exported, got.output, got.lengths))  # type: ignore[arg-type]
        differing += [name for name, ours, theirs in pairs if ours != theirs]
        count += len(batch.ids)
    return Agreement(largest / reach, count, differing)


@torch.no_grad()
def export_torchscript(model: Transducer, directory: PathLike) -> list[Path]:
    """Write ``{encoder,decoder,joiner}.pt``, traced modules with the interface of the ONNX files."""
    written = []
    for name, (module, inputs, _, _) in _examples(model.eval()).items():
        path = Path(directory) / f"{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(module.eval(), inputs)
        with atomic_path(path) as temporary:
            torch.jit.save(traced, str(temporary))
        written.append(path)
    return written
