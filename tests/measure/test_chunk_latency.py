"""The time of a chunk is that of a chunk."""

from __future__ import annotations

import pytest

from pruning.measure import chunk_latency
from pruning.models.chunk import Chunk
from pruning.models.zipformer_stream import ZipformerStream
from tests.models.zipformers import small


def test_the_median_of_chunks_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr(chunk_latency.clock, "now", lambda device: float(next(now)))
    stream = ZipformerStream(small(causal=True), Chunk(8, 16))
    assert chunk_latency.seconds_per_chunk(stream) == 1.0
