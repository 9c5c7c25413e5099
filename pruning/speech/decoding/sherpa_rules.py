"""The rules by which sherpa-onnx (read at 1.13.4, run with 2.0.1) decodes Whisper and Moonshine.

With them, a network in PyTorch finds the tokens that sherpa-onnx finds with an export of it. They differ from those of
`own_decoder`: no token is suppressed, and transcripts have at most 6 tokens a second. Features of a Whisper begin half
a frame later, end with zeros instead of silence, and have no frames beyond 29.5 s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.speech.data.whisper_features import HOP, RATE, SPAN, mel_filters
from pruning.speech.decoding.own_decoder import Bounds, greedy_tokens
from pruning.speech.interfaces import EncoderDecoderNetwork
from pruning.speech.text.transcript_form import TranscriptForm

TOKENS_PER_SECOND = 6
TAIL, WINDOW, LEAST_TAIL = 1000, 3000, 50
"""Frames of zeros behind the features, largest number of frames with them, and how many of these are always zeros."""
MOONSHINE_START, MOONSHINE_END = 1, 2
_STRIDE = 384
"""Samples from one frame of Moonshine's encoder to the next."""


def features(audio: Tensor, bins: int) -> tuple[Tensor, int]:
    """Return what sherpa-onnx gives a Whisper for ``audio (S,)``, ``(T, bins)``, and the frames before the zeros.

    Frames are centred in their step of 160 samples and mirror the audio at its ends (kaldi-native-fbank with
    ``snip_edges=false``), where Whisper's own begin with the middle of a frame on the first sample.
    """
    count = (len(audio) + HOP // 2) // HOP
    places = torch.arange(count)[:, None] * HOP + (HOP - SPAN) // 2 + torch.arange(SPAN)[None]  # (T, SPAN)
    places = torch.where(places < 0, -places - 1, places)
    places = torch.where(places >= len(audio), 2 * len(audio) - 1 - places, places).clamp(0, len(audio) - 1)
    spectrum = torch.fft.rfft(audio.float()[places] * torch.hann_window(SPAN), dim=1)
    power = spectrum.abs().square()
    kept = min(count, WINDOW - LEAST_TAIL)
    logs = (power @ mel_filters(bins).t())[:kept].clamp(min=1e-10).log10()
    logs = (torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0
    return torch.nn.functional.pad(logs, (0, 0, 0, min(TAIL, WINDOW - kept))), kept


def most_tokens(frames: int, room: int) -> int:
    """Return the largest number of tokens of a transcript.

    Args:
        frames: frames of a Whisper's features without the zeros, or of the output of a Moonshine's encoder.
        room: positions of the decoder; 0 for a Moonshine.
    """
    if room:
        return min(int(frames / 100 * TOKENS_PER_SECOND), room // 2)
    return int(frames * _STRIDE / RATE * TOKENS_PER_SECOND)


@torch.no_grad()
def rules_tokens(model: EncoderDecoderNetwork, audio: Tensor, form: TranscriptForm) -> list[int]:
    """Return the tokens that sherpa-onnx finds in ``audio (S,)`` with a network, of which ``form`` gives the start."""
    bins, room = model.encoder.bins, model.decoder.room
    inputs, frames = features(audio, bins) if bins else (audio, 0)
    window = model.encoder.window
    inputs = inputs if window is None else inputs[: window.frames]
    encoded = model.encoder(inputs[None], torch.tensor([len(inputs)]))
    most = most_tokens(frames if bins else int(encoded.lengths), room)
    plain = TranscriptForm(form.vocab_size, form.start, form.end)
    return greedy_tokens(model, encoded.output, encoded.lengths, Bounds(plain, [most]))[0]
