"""A network in the form that decoding uses."""

from __future__ import annotations

from typing import NamedTuple, Optional

from torch import nn

from pruning.speech.data.sources import Source


class Recogniser(NamedTuple):
    """A network that recognises words.

    Attributes:
        network: network with an encoder, and with decoder and joiner or a CTC head.
        hears: what the network takes as input.
        feature_dim: bins per frame; None if the network takes samples.
        silence: frames of silence that follow an utterance, for networks that say late what they heard.
    """

    network: nn.Module
    hears: Source
    feature_dim: Optional[int]
    silence: int = 0
