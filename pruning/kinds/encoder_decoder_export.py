"""Export of an encoder-decoder to ONNX for sherpa-onnx: its offline formats of Whisper and of Moonshine, by family."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Optional, Protocol

import torch
from torch import Tensor

from pruning.kinds import moonshine_export, whisper_export
from pruning.kinds.exports import Agreement, Calls, Difference, Exports, Part
from pruning.models.encoder_decoder import EncoderDecoder
from pruning.models.encoder_decoder_config import MOONSHINE, WHISPER
from pruning.speech.data import manifests
from pruning.speech.data.batches import evaluation_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.data.sources import Source
from pruning.speech.text.network_tokens import NetworkTokens
from pruning.speech.text.transcript_form import TranscriptForm

_COMPARED_SECONDS, _LONGEST = (2.0, 7.0, 3.3), 40


class ExportedDecoding(Protocol):
    """Exported files, run as sherpa-onnx does."""

    def logits(self, inputs: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits ``(1, U, V)`` behind each of ``tokens (1, U)``."""


class _Format(NamedTuple):
    """The format of a family: what describes the files, the table of tokens, and what runs the files."""

    parts: Callable[[EncoderDecoder, TranscriptForm, dict[str, int]], dict[str, Part]]
    table: Callable[[NetworkTokens], str]
    run: Callable[[Calls], ExportedDecoding]


_FORMATS = {
    WHISPER: _Format(whisper_export.whisper_parts, whisper_export.symbol_table, whisper_export.ExportedWhisper),
    MOONSHINE: _Format(lambda model, form, _: moonshine_export.moonshine_parts(model, form),
                       moonshine_export.symbol_table, moonshine_export.ExportedMoonshine),
}  # fmt: skip


def encoder_decoder_exports(model: EncoderDecoder, source: Source, tokens: Optional[NetworkTokens]) -> Exports:
    """Describe the export of an encoder-decoder.

    Args:
        model: network to export.
        source: what the network takes as input.
        tokens: its tokens; None if only its computation matters.

    Raises:
        UserError: sherpa-onnx does not decode the network, see `moonshine_export.moonshine_parts`.
    """
    config, of = model.config.decoder, _FORMATS[model.config.encoder.family]
    form = TranscriptForm(config.vocab_size, (config.start,), config.end) if tokens is None else tokens.form

    def agree(calls: Calls, cuts: Optional[Path], max_batches: int) -> Agreement:
        inputs = _noise(model) if cuts is None else _utterances(cuts, source, max_batches)
        return agreement(model.eval(), of.run(calls), form, inputs)

    numbers, texts = ({}, {}) if tokens is None else (tokens.special(), {"tokens.txt": of.table(tokens)})
    return Exports(of.parts(model.eval(), form, numbers), "", (), agree, texts)


def _utterances(cuts: Path, source: Source, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the input ``(1, ...)`` and length ``(1,)`` of each utterance of the first batches of a set."""
    data = DataConfig(max_duration=100.0, num_workers=0)
    for batch in itertools.islice(evaluation_batches(data, manifests.check_exists([cuts]), source=source), most):
        for row in range(len(batch.ids)):
            length = batch.lengths[row : row + 1]
            yield batch.features[row : row + 1, : int(length)], length


def _noise(model: EncoderDecoder) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield utterances of noise."""
    generator, bins = torch.Generator().manual_seed(1), model.encoder.bins
    for seconds in _COMPARED_SECONDS:
        size = round(seconds * (100 if bins else 16000))
        size = size if model.encoder.window is None else min(size, model.encoder.window.frames)
        noise = torch.randn((1, size, bins) if bins else (1, size), generator=generator)
        yield noise if bins else 0.1 * noise, torch.tensor([size])


@torch.no_grad()
def agreement(
    model: EncoderDecoder, exported: ExportedDecoding, form: TranscriptForm, inputs: Iterable[tuple[Tensor, Tensor]]
) -> Agreement:
    """Compare logits along the network's own greedy transcripts, with inputs as they are."""
    difference, differing, count = Difference(), 0, 0
    for features, lengths in inputs:
        count += 1
        tokens = _greedy(model, features, lengths, form)
        wanted = model(features, lengths, tokens)
        got = exported.logits(features, lengths, tokens)
        if got.shape != wanted.shape:
            return Agreement(math.inf, f"logits of utterance {count} have another shape")
        difference.add(got, wanted)
        said = slice(len(form.start) - 1, None)
        differing += int(not torch.equal(got[:, said].argmax(dim=2), wanted[:, said].argmax(dim=2)))
    return Agreement(difference.relative, f"largest relative difference of logits {difference.relative:.1e}; best "
                                          f"tokens differ for {differing} of {count} utterances")  # fmt: skip


def _greedy(model: EncoderDecoder, inputs: Tensor, lengths: Tensor, form: TranscriptForm) -> Tensor:
    """Return the most probable transcript with its start, ``(1, U)``, without its end and at most `_LONGEST` tokens."""
    state = model.decoder.start(model.decoder.memory(model.encoder(inputs, lengths)))
    tokens = list(form.start)
    for token in tokens:
        scores, state = model.decoder.step(torch.tensor([token]), state)
    room = model.decoder.room or _LONGEST
    while len(tokens) < min(_LONGEST, room):
        token = int(scores.argmax())
        if token == form.end:
            break
        tokens.append(token)
        scores, state = model.decoder.step(torch.tensor([token]), state)
    return torch.tensor([tokens])
