"""A network as decoding takes it."""

from __future__ import annotations

from typing import NamedTuple, Optional

from torch import nn

from pruning.speech.data.sources import Source


class Recogniser(NamedTuple):
    """A network that recognises words.

    Attributes:
        network: its encoder, and decoder and joiner or CTC head.
        hears: what it takes of a cut.
        feature_dim: bins per frame; None: it hears samples.
    """

    network: nn.Module
    hears: Source
    feature_dim: Optional[int]
