"""Export of an encoder with its CTC or intent head to one ONNX file.

`model.onnx` takes ``audio (N, S)`` or ``features (N, T, C)`` and ``lengths (N,)`` int64, in samples or frames; it
normalises audio itself if the network was trained on normalised audio. For CTC it returns ``log_probs (N, T', V)`` and
``log_probs_lens (N,)``, with `tokens.txt` in the same directory; for intents ``logits (N, V)``, with `intents.txt`.
Its metadata contain ``task``, ``hears``, the type of the encoder, and the smallest number of samples or frames that
gives an output; for Whisper's features also their ``window``, the largest number of frames, and the ``tail`` of silence
in seconds that the network expects (empty: up to the end of the window).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from pruning.core.distillation import frame_mask
from pruning.kinds.exports import AUTHOR, Agreement, Calls, Difference, ExportedCall, Exports, Part, padded
from pruning.kinds.transducer_export import batches_of, noise
from pruning.kinds.zipformer_streaming_export import streaming_ctc
from pruning.models.chunk import Chunk
from pruning.models.encoder import Encoder
from pruning.models.facts import FRAMES_PER_SECOND, SAMPLES_PER_SECOND, frames_of
from pruning.models.prunable_zipformer import PrunableZipformer
from pruning.models.speech_model import INTENT, SpeechModel
from pruning.speech.data import manifests
from pruning.speech.data.batches import Batch, evaluation_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.data.sources import Source
from pruning.speech.text.intents import TABLE

PART = "model"
_TRACED_SECONDS = 3.0
_COMPARED_SECONDS = (2.0, 7.0, 3.3)
_TRACED = 40  # approximate number of output frames in the trace of an encoder that takes samples


def encoder_head_exports(model: SpeechModel, source: Source) -> Exports:
    """Describe the export of an encoder with its head.

    Args:
        model: network to export; Hugging Face modules are replaced by equivalent modules of this package.
        source: what the network takes as input.
    """
    ours = model.plain()

    def agree(calls: Calls, cuts: Optional[Path], max_batches: int) -> Agreement:
        batches: Iterable[Batch] = [_heard_noise(model)]
        if cuts is not None:
            data = DataConfig(max_duration=100.0, num_workers=0)
            found = evaluation_batches(data, manifests.check_exists([cuts]), source=source)
            batches = itertools.islice(found, max_batches)
        same = agreement(ours, calls[PART], batches)
        return Agreement(same.difference, f"largest relative difference of outputs {same.difference:.1e}; "
                                          f"best outputs differ for {len(same.differing)} of "
                                          f"{same.utterances} utterances")  # fmt: skip

    table = TABLE if model.config.task == INTENT else "tokens.txt"
    return Exports(parts(ours.eval()), PART, (table,), agree)


def encoder_head_streams(model: SpeechModel, chunk: Chunk) -> Exports:
    """Describe the export of a causal Zipformer with a CTC head as a stream.

    Raises:
        UserError: the network cannot compute such streams.
    """
    return streaming_ctc(model, chunk, partial(batches_of, model.encoder.bins))


def _heard_noise(model: SpeechModel) -> Batch:
    """Return a batch like `noise`, in the form that the network's encoder takes."""
    if model.encoder.bins:
        longest = _longest(model.encoder)
        return noise(model.encoder.bins, [min(seconds, longest) for seconds in _COMPARED_SECONDS])
    one = noise(round(SAMPLES_PER_SECOND / frames_of(1.0)))
    return replace(one, features=one.features.flatten(1), lengths=one.lengths * one.features.shape[2])


def _longest(encoder: Encoder) -> float:
    """Return the seconds of the longest features that an encoder takes."""
    return math.inf if encoder.window is None else encoder.window.frames / FRAMES_PER_SECOND


class ExportedSpeechModel(nn.Module):
    """A network that returns only tensors."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model, self.least = model, model.encoder.shortest

    def forward(self, inputs: Tensor, lengths: Tensor) -> Any:
        """``(N, S)`` or ``(N, T, C)``, ``(N,)`` -> ``(N, T', V)``, ``(N,)`` or ``(N, V)``."""
        output = self.model(padded(inputs, self.least), lengths)
        if self.model.config.task == INTENT:
            return output.logits
        return output.logits.log_softmax(dim=2), output.encoded.lengths


def parts(model: SpeechModel) -> dict[str, Part]:
    """Describe the one file, with its metadata."""
    encoder, generator, n = model.encoder, torch.Generator().manual_seed(0), {0: "N"}
    if encoder.bins:
        count = frames_of(min(_TRACED_SECONDS, _longest(encoder)))
        name, axes, inputs = "features", {0: "N", 1: "T"}, torch.randn(2, count, encoder.bins, generator=generator)
    else:
        count = encoder.shortest + _TRACED * encoder.stride
        name, axes, inputs = "audio", {0: "N", 1: "S"}, torch.randn(2, count, generator=generator)
    gives = {"logits": n} if model.config.task == INTENT else {"log_probs": {0: "N", 1: "T_out"}, "log_probs_lens": n}
    facts = {**AUTHOR, "comment": f"pruned encoder with a head for {model.config.task}",
             "task": model.config.task, "hears": name, "model_type": str(model.config.encoder["type"]),
             "outputs": str(model.config.outputs), "shortest": str(encoder.shortest)}  # fmt: skip
    if encoder.window is not None:
        tail = "" if encoder.window.tail is None else f"{encoder.window.tail:g}"
        facts |= {"features": "whisper", "window": str(encoder.window.frames), "tail": tail}
    lengths = torch.tensor([count, count * 3 // 4])
    zipformer = model.config.encoder["type"] == PrunableZipformer.form
    return {PART: Part(ExportedSpeechModel(model), (inputs, lengths), {name: axes, "lengths": n}, gives, facts,
                       zipformer)}  # fmt: skip


class HeadAgreement(NamedTuple):
    """How an exported network compares with PyTorch's on the same input.

    Attributes:
        difference: largest difference of outputs on valid frames, relative to the largest output.
        utterances: number of utterances that were compared.
        differing: ids of utterances whose best intent, or best symbol of some frame, differs.
    """

    difference: float
    utterances: int
    differing: list[str]


@torch.no_grad()
def agreement(model: SpeechModel, exported: ExportedCall, batches: Iterable[Batch]) -> HeadAgreement:
    """Compare outputs, batch by batch; the difference is infinite if lengths differ."""
    difference, differing, count = Difference(), list[str](), 0
    ours = ExportedSpeechModel(model.plain().eval())
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
                return HeadAgreement(math.inf, count, list(batch.ids))
            valid = frame_mask(lengths, wanted.shape[1])
            difference.add(got[0][valid], wanted[valid])
            same = ((got[0].argmax(dim=2) == wanted.argmax(dim=2)) | ~valid).all(dim=1)
        differing += [name for name, alike in zip(batch.ids, same.tolist()) if not alike]
    return HeadAgreement(difference.relative, count, differing)
