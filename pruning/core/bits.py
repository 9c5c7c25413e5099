"""Index sets too large for lists: the weights that unstructured pruning keeps."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Bits(Sequence[int]):
    """Ascending indices, stored as ``bits (size,)`` bool on the CPU. Two objects with the same bits are equal."""

    def __init__(self, bits: Tensor) -> None:
        self.bits = bits.detach().bool().cpu().clone()
        self._count = int(self.bits.sum())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(torch.nonzero(self.bits).flatten().tolist())

    def __getitem__(self, place: Any) -> Any:
        found = torch.nonzero(self.bits).flatten()[place]
        return found.tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bits) and torch.equal(self.bits, other.bits)

    def __hash__(self) -> int:
        return hash((len(self.bits), self._count))

    def __repr__(self) -> str:
        return f"Bits({self._count} of {len(self.bits)})"

    def to_text(self) -> str:
        """Return the bits packed, compressed with zlib and encoded in base64."""
        padded = torch.nn.functional.pad(self.bits.to(torch.uint8), (0, -len(self.bits) % 8)).reshape(-1, 8)
        powers = 2 ** torch.arange(8, dtype=torch.uint8)
        packed = bytes((padded * powers).sum(dim=1, dtype=torch.uint8).numpy().tobytes())
        return base64.b64encode(zlib.compress(packed)).decode("ascii")

    @classmethod
    def from_text(cls, text: str, size: int) -> Bits:
        """Parse the output of `to_text`.

        Raises:
            ValueError: the text is malformed or encodes another number of bits.
        """
        try:
            limit = max(0, size + 7) // 8 + 1  # untrusted input: a few bytes may decompress to very many
            packed = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), limit)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        values = torch.frombuffer(bytearray(packed or b"\0"), dtype=torch.uint8)[:, None]
        bits = (values.bitwise_and(2 ** torch.arange(8, dtype=torch.uint8)) != 0).flatten()
        if len(packed) != (size + 7) // 8 or bool(bits[size:].any()):
            raise ValueError(f"{len(packed)} bytes do not encode {size} units")
        return cls(bits[:size])
