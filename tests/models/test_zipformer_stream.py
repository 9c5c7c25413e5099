"""Test streams: chunk by chunk, with caches, they give what one forward pass in chunks gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pruning.core.extraction import extract
from pruning.errors import UserError
from pruning.models.chunk import Chunk
from pruning.models.prunable_zipformer import PrunableZipformer
from pruning.models.zipformer_stream import AHEAD, ZipformerStream
from pruning.models.zipformer_units import MODULE_KINDS, UNIT_KINDS
from tests.models.test_zipformer_units import random_structure
from tests.models.zipformers import small


def networks() -> list[PrunableZipformer]:
    """A dense one, and an irregular one that was cut out of it, without some modules and layers."""
    dense = small(causal=True, norm_widths=(18, 24, 22)).double()
    kinds = (*UNIT_KINDS, *MODULE_KINDS, "width")
    cut = extract(dense, random_structure(dense.unit_groups(width=True), 4, kinds, 0.75))
    assert isinstance(cut, PrunableZipformer)
    assert not all(cut.config.present) or 0 in cut.config.value1_dim
    return [dense, cut]


@pytest.mark.parametrize("chunk", [Chunk(8, 8), Chunk(4, 16), Chunk(16, 48)])
@torch.no_grad()
def test_a_stream_equals_one_pass_in_chunks(chunk: Chunk) -> None:
    for model in networks():
        stream, count = ZipformerStream(model, chunk), 5
        taken, ahead = stream.feature_frames
        x = torch.randn(2, ahead * count + AHEAD, 20, dtype=torch.float64)
        lengths = torch.full((2,), x.shape[1])
        whole = model(x, lengths, chunk=chunk).output
        state = stream.start(2)
        for index in range(count):
            output, state = stream.step(x[:, index * ahead : index * ahead + taken], state)
            assert output.shape[1] == chunk.size // 2
            place = slice(index * chunk.size // 2, (index + 1) * chunk.size // 2)
            assert torch.allclose(output, whole[:, place], atol=1e-9), index
        assert state.processed.tolist() == [count * chunk.size] * 2


@torch.no_grad()
def test_streams_may_begin_at_different_times() -> None:
    model = networks()[0]
    stream = ZipformerStream(model, Chunk(8, 16))
    taken, ahead = stream.feature_frames
    x = torch.randn(2, 3 * ahead + AHEAD, 20, dtype=torch.float64)
    _, first = stream.step(x[:1, :taken], stream.start(1))
    fresh = stream.start(1)
    both: Any = first._replace(
        processed=torch.cat([first.processed, fresh.processed]),
        front=torch.cat([first.front, fresh.front]),
        layers=[{name: torch.cat([old[name], new[name]]) for name in old}
                for old, new in zip(first.layers, fresh.layers)],
    )  # fmt: skip
    chunks = torch.cat([x[:1, ahead : ahead + taken], x[1:, :taken]])
    output, _ = stream.step(chunks, both)
    alone, _ = stream.step(chunks[:1], first)
    new, _ = stream.step(chunks[1:], fresh)
    assert torch.allclose(output, torch.cat([alone, new]), atol=1e-9)


def test_streams_that_the_network_cannot_encode_are_refused() -> None:
    for model, chunk, message in (
        (small(), Chunk(8, 8), "not causal"),
        (small(causal=True), Chunk(8, 0), "give multiples of 4 above 0"),
        (small(causal=True), Chunk(0, 8), "give multiples of 4 above 0"),
        (small(causal=True), Chunk(8, 12), "a left context of 12 frames is not a multiple of the chunk of 8 frames"),
        (small(causal=True), Chunk(6, 8), "a multiple of 4"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            ZipformerStream(model, chunk)
        assert "\n" not in str(raised.value)
