"""Rotary positions (arXiv 2104.09864): the rates at which they rotate, and the rotation.

The operations are those of Hugging Face, so that the angles are equal bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Optional

import torch
from torch import Tensor

from pruning.limits import Count, OneOf, Positive, check_fields

LINEAR, LLAMA3 = SCALINGS = ("linear", "llama3")


@dataclass(frozen=True)
class RotaryScaling:
    """How the rates of rotary positions are changed for contexts longer than those of pre-training.

    Attributes:
        form: ``linear``: all rates are divided by ``factor`` (arXiv 2306.15595); ``llama3``: only slow ones, see
            `scaled` (arXiv 2407.21783).
        factor: what rates are divided by.
        slow, fast: for ``llama3``, turns per ``positions`` below which a rate is divided, and above which it is not.
        positions: for ``llama3``, number of positions in pre-training.
    """

    form: Annotated[str, OneOf(SCALINGS)] = LINEAR
    factor: Positive = 1.0
    slow: Positive = 1.0
    fast: Positive = 4.0
    positions: Count = 8192

    def __post_init__(self) -> None:
        check_fields(self)
        if self.form == LLAMA3 and self.slow >= self.fast:
            raise ValueError(f"slow must be below fast, got {self.slow} and {self.fast}")


def rates(size: int, base: float, device: Optional[torch.device] = None) -> Tensor:
    """Return the angles per position of the ``size / 2`` pairs that rotate, float32 (section 3.2.2)."""
    exponents = torch.arange(0, size, 2, device=device, dtype=torch.float32) / size
    return 1.0 / (base**exponents)


def scaled(rates: Tensor, scaling: Optional[RotaryScaling]) -> Tensor:
    """Return ``rates (R,)`` changed for longer contexts.

    In the form ``llama3``, rates of at most ``slow`` turns in ``positions`` are divided by the factor, those of at
    least ``fast`` turns stay, and in between both are mixed, linearly in the number of turns (transformers'
    ``modeling_rope_utils.py``).
    """
    if scaling is None:
        return rates
    if scaling.form != LLAMA3:
        return rates / scaling.factor
    turns = scaling.positions / (2 * math.pi / rates)
    share = (turns - scaling.slow) / (scaling.fast - scaling.slow)
    mixed = (1 - share) * rates / scaling.factor + share * rates
    slowed = torch.where(turns < scaling.slow, rates / scaling.factor, rates)
    return torch.where((turns < scaling.slow) | (turns > scaling.fast), slowed, mixed)


def turns(positions: Tensor, rates: Tensor) -> Tensor:
    """Return cosine and sine of ``positions (P,)`` times ``rates (R,)``, the angle per position, ``(2, P, R)``."""
    angles = positions[:, None].float() * rates[None, :]
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate ``x (..., head_dim)`` by angles whose ``cosine`` and ``sine`` broadcast against half of ``head_dim``."""
    first, second = x.chunk(2, dim=-1)
    cosine, sine = cosine.to(x), sine.to(x)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def rotated_neighbours(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate pairs of neighbouring entries of ``x (..., head_dim)`` (arXiv 2104.09864, equation 34).

    The angles, whose ``cosine`` and ``sine`` have R entries, rotate the first 2 R entries; the others stay.
    """
    cosine, sine = cosine.to(x), sine.to(x)
    size = 2 * cosine.shape[-1]
    first, second = x[..., :size:2], x[..., 1:size:2]
    pairs = torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-1).flatten(-2)
    return torch.cat([pairs, x[..., size:]], dim=-1)
