"""Export of a speech encoder to ONNX.

`encoder.onnx` takes ``audio (N, S)`` float32 and ``lengths (N,)`` int64 in samples and gives ``encoder_out (N, T, D)``
and ``encoder_out_lens (N,)``; it normalises the audio itself if the network is used to that. Its metadata says
``model_type`` (``wav2vec2``, ``hubert`` or ``wavlm``), ``d_model``, and in samples ``frame_shift`` and
``receptive_field``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning.core.distillation import frame_mask
from pruning.files import PathLike
from pruning.models.speech_encoder import SpeechEncoder
from pruning.speech.exported import ExportedPart
from pruning.training import onnx_files

PART = "encoder"
_TRACED = 40  # frames, about


class ExportedSpeechEncoder(nn.Module):
    """A speech encoder that gives its outputs alone."""

    def __init__(self, model: SpeechEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, S)``, ``(N,)`` -> ``(N, T, D)``, ``(N,)``."""
        least = self.model.config.receptive_field
        samples = torch.ones_like(audio[0], dtype=torch.int64).sum()  # traced, where audio.shape would be a constant
        padded = torch.cat([audio, audio.new_zeros(audio.shape[0], least)], dim=1)
        encoded = self.model(padded[:, : samples.clamp(min=least)], lengths)
        return encoded.output, encoded.lengths


def parts(model: SpeechEncoder) -> dict[str, onnx_files.Part]:
    """The one file, with its metadata."""
    config = model.config
    shift = math.prod(config.conv_strides)
    samples = config.receptive_field + _TRACED * shift
    audio = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    n, facts = {0: "N"}, {
        **onnx_files.AUTHOR, "comment": "pruned speech encoder", "model_type": config.kind,
        "d_model": str(config.d_model), "frame_shift": str(shift), "receptive_field": str(config.receptive_field),
    }  # fmt: skip
    return {
        PART: onnx_files.Part(
            ExportedSpeechEncoder(model), (audio, torch.tensor([samples, samples * 3 // 4])),
            {"audio": {0: "N", 1: "S"}, "lengths": n}, {"encoder_out": {0: "N", 1: "T"}, "encoder_out_lens": n}, facts,
        )
    }  # fmt: skip


def export_onnx(model: SpeechEncoder, directory: PathLike, int8: bool = True) -> list[Path]:
    """Write ``encoder.onnx`` and its int8 form; see `onnx_files.write`.

    Args:
        model: an extracted or dense encoder; irregular layers, removed modules and factored layers are as good as any.
        directory, int8: as there.
    """
    return onnx_files.write(parts(model.eval()), directory, int8=int8)


@torch.no_grad()
def agreement(model: SpeechEncoder, exported: ExportedPart, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The largest difference of valid outputs for ``audio (N, S)`` and ``lengths (N,)``, relative to the largest.

    Infinite where lengths differ.
    """
    difference = onnx_files.Difference()
    for audio, lengths in batches:
        wanted = model.eval()(audio, lengths)
        output, counts = exported(audio, lengths)
        if not torch.equal(counts, wanted.lengths) or output.shape != wanted.output.shape:
            return math.inf
        valid = frame_mask(counts, output.shape[1])
        difference.add(output[valid], wanted.output[valid])
    return difference.relative
