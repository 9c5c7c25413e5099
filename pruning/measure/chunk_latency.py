"""Time a stream chunk by chunk, as a recogniser would encode it while its speaker talks."""

from __future__ import annotations

import statistics

import torch

from pruning import clock
from pruning.models.zipformer_stream import ZipformerStream

_CHUNKS, _WARM_UP = 20, 3


@torch.no_grad()
def seconds_per_chunk(stream: ZipformerStream) -> float:
    """Return the median seconds that a chunk of one stream takes in PyTorch, on noise."""
    parameter = next(stream.encoder.parameters())
    taken, _ = stream.feature_frames
    chunk = torch.randn(1, taken, stream.encoder.config.feature_dim).to(parameter)
    state, seconds = stream.start(1), []
    for _ in range(_WARM_UP + _CHUNKS):
        began = clock.now(parameter.device)
        _, state = stream.step(chunk, state)
        seconds.append(clock.now(parameter.device) - began)
    return statistics.median(seconds[_WARM_UP:])
