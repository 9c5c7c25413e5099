"""Export of an encoder with its head to ONNX: recognition by CTC, or intents, in one file.

`model.onnx` takes ``audio (N, S)`` or ``features (N, T, C)`` and ``lengths (N,)`` int64, in samples or frames; it
normalises audio itself if the network is used to that. For CTC it gives ``log_probs (N, T', V)`` and
``log_probs_lens (N,)``, and `tokens.txt` is beside it; for intents ``logits (N, V)``, and `intents.txt`. Its metadata
say ``task``, ``hears``, what the encoder is, and how many samples or frames are the fewest that give an output.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pruning.core.distillation import frame_mask
from pruning.core.extraction import extract
from pruning.core.structure import Structure
from pruning.deploy import onnx_files
from pruning.deploy.exported import ExportedPart
from pruning.files import PathLike, atomic_path
from pruning.models import encoders
from pruning.models.facts import frames_of
from pruning.models.hf_encoder import HfEncoder
from pruning.models.speech_model import INTENT, SpeechModel
from pruning.models.subsampling import SHORTEST
from pruning.speech.data.batches import Batch
from pruning.speech.text.intents import TABLE

PART = "model"
FORMS = {"float32": f"{PART}.onnx", "int8": f"{PART}.int8.onnx"}
_TRACED_SECONDS = 3.0
_TRACED = 40  # frames of an encoder of samples, about


class ExportedSpeechModel(nn.Module):
    """A network that gives tensors alone."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model, self.least = model, shortest(model)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Any:
        """``(N, S)`` or ``(N, T, C)``, ``(N,)`` -> ``(N, T', V)``, ``(N,)`` or ``(N, V)``."""
        output = self.model(onnx_files.padded(inputs, self.least), lengths)
        if self.model.config.task == INTENT:
            return output.logits
        return output.logits.log_softmax(dim=2), output.encoded.lengths


def shortest(model: SpeechModel) -> int:
    """Samples or frames that give one frame."""
    encoder: Any = model.encoder
    return int(encoder.config.receptive_field) if encoders.hears_samples(encoder) else SHORTEST


def parts(model: SpeechModel) -> dict[str, onnx_files.Part]:
    """The one file, with its metadata."""
    encoder: Any = model.encoder
    generator, config = torch.Generator().manual_seed(0), encoder.config
    if encoders.hears_samples(encoder):
        count = config.receptive_field + _TRACED * math.prod(config.conv_strides)
        name, axes, inputs = "audio", {0: "N", 1: "S"}, torch.randn(2, count, generator=generator)
    else:
        count = frames_of(_TRACED_SECONDS)
        name, axes = "features", {0: "N", 1: "T"}
        inputs = torch.randn(2, count, config.feature_dim, generator=generator)
    n = {0: "N"}
    gives = {"logits": n} if model.config.task == INTENT else {"log_probs": {0: "N", 1: "T_out"}, "log_probs_lens": n}
    facts = {**onnx_files.AUTHOR, "comment": f"pruned encoder with a head for {model.config.task}",
             "task": model.config.task, "hears": name, "model_type": str(model.config.encoder["type"]),
             "outputs": str(model.config.outputs), "shortest": str(shortest(model))}  # fmt: skip
    lengths = torch.tensor([count, count * 3 // 4])
    takes = {name: axes, "lengths": n}
    return {PART: onnx_files.Part(ExportedSpeechModel(model), (inputs, lengths), takes, gives, facts)}


def plain(model: SpeechModel) -> SpeechModel:
    """The same network out of this toolkit's modules alone; those of Hugging Face are not traced."""
    if not isinstance(model.encoder, HfEncoder):
        return model
    found = extract(model, Structure.dense(model.unit_groups()))
    assert isinstance(found, SpeechModel)
    return found


def export_onnx(model: SpeechModel, directory: PathLike, lang_dir: PathLike, int8: bool = True) -> list[Path]:
    """Write ``model.onnx``, its int8 form, and ``tokens.txt`` or ``intents.txt``; see `onnx_files.write`.

    Args:
        model: extracted or dense; irregular layers, removed modules and factored layers are as good as any.
        directory, lang_dir, int8: as there.
    """
    of_intents = model.config.task == INTENT
    written = onnx_files.write(parts(plain(model).eval()), directory, None if of_intents else lang_dir, int8)
    if of_intents:
        with atomic_path(Path(directory) / TABLE) as temporary:
            shutil.copyfile(Path(lang_dir) / TABLE, temporary)
    return written


class Agreement(NamedTuple):
    """How an exported network compares with PyTorch's on the same input.

    Attributes:
        difference: largest difference of outputs on valid frames, relative to the largest output.
        utterances: compared.
        differing: ids of those whose best intent, or best symbol of some frame, differs.
    """

    difference: float
    utterances: int
    differing: list[str]


@torch.no_grad()
def agreement(model: SpeechModel, exported: ExportedPart, batches: Iterable[Batch]) -> Agreement:
    """Compare outputs, batch by batch; infinite where lengths differ."""
    difference, differing, count = onnx_files.Difference(), list[str](), 0
    ours = ExportedSpeechModel(plain(model).eval())
    for batch in batches:
        got = exported(batch.features, batch.lengths)
        count += len(batch.ids)
        if model.config.task == INTENT:
            wanted = ours(batch.features, batch.lengths)
            same = got[0].argmax(dim=1) == wanted.argmax(dim=1)
            difference.add(got[0], wanted)
        else:
            wanted, lengths = ours(batch.features, batch.lengths)
            if not torch.equal(got[1], lengths) or got[0].shape != wanted.shape:
                return Agreement(math.inf, count, list(batch.ids))
            valid = frame_mask(lengths, wanted.shape[1])
            difference.add(got[0][valid], wanted[valid])
            same = ((got[0].argmax(dim=2) == wanted.argmax(dim=2)) | ~valid).all(dim=1)
        differing += [name for name, alike in zip(batch.ids, same.tolist()) if not alike]
    return Agreement(difference.relative, count, differing)
