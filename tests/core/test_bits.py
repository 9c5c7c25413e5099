"""Test `Bits`: behaves like a list of indices, and survives conversion to text."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning.core.bits import Bits


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_bits_are_ascending_indices(values: list[bool]) -> None:
    bits, indices = Bits(torch.tensor(values)), [index for index, value in enumerate(values) if value]
    assert list(bits) == indices and len(bits) == len(indices)
    if indices:
        assert (bits[0], bits[-1]) == (indices[0], indices[-1])
    again = Bits.from_text(bits.to_text(), len(values))
    assert again == bits and hash(again) == hash(bits)


def test_a_text_of_something_else_is_refused() -> None:
    text = Bits(torch.ones(9)).to_text()
    for wrong, size in ((text, 8), (text, 20), ("no text", 9), ("bm8=", 9)):
        with pytest.raises(ValueError):
            Bits.from_text(wrong, size)


def test_no_more_is_unpacked_than_there_are_units() -> None:
    text = Bits(torch.zeros(80_000_000)).to_text()
    tracemalloc.start()
    with pytest.raises(ValueError, match="do not encode 8 units"):
        Bits.from_text(text, 8)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
