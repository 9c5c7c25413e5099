"""The context of causal encoders in training, drawn for each batch, and in validation."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Optional

from pruning.errors import UserError
from pruning.limits import Natural, check_fields
from pruning.models.chunk import Chunk
from pruning.models.encoder import Encoder
from pruning.training.task import StepInfo


@dataclass(frozen=True)
class ChunkConfig:
    """Context of a causal encoder, in frames of its front end (50 a second), with the defaults of icefall.

    Attributes:
        sizes: chunk sizes, of which each training batch has one; 0: the whole utterance.
        left_contexts: left contexts, of which each training batch that has chunks has one, rounded down to whole
            chunks, at least one; 0: all earlier frames.
        valid_size, valid_left_context: chunk size and left context in validation, which is a multiple of the size.
    """

    sizes: tuple[Natural, ...] = (16, 32, 64, 0)
    left_contexts: tuple[Natural, ...] = (64, 128, 256, 0)
    valid_size: Natural = 32
    valid_left_context: Natural = 128

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sizes or not self.left_contexts:
            raise ValueError("chunks.sizes and chunks.left_contexts must not be empty")

    def of(self, step: StepInfo) -> Chunk:
        """Return the context of a batch: in training drawn by Python's generator, which the trainer seeds for it."""
        if not step.training:
            return Chunk(self.valid_size, self.valid_left_context)
        return Chunk(random.choice(self.sizes), random.choice(self.left_contexts)).in_whole_chunks()

    def check(self, encoder: Encoder) -> None:
        """Refuse a context that an encoder cannot compute.

        Raises:
            UserError: the encoder is not causal, or sizes do not fit it.
        """
        of_training = (Chunk(*sizes).in_whole_chunks() for sizes in itertools.product(self.sizes, self.left_contexts))
        for chunk in (*of_training, Chunk(self.valid_size, self.valid_left_context)):
            encoder.check_chunk(chunk)


def chunks_for(encoder: Encoder, config: Optional[ChunkConfig]) -> Optional[ChunkConfig]:
    """Return the contexts for an encoder: those of the configuration, by default icefall's; None if it is not causal.

    Raises:
        UserError: chunks are configured and the encoder is not causal, or it cannot compute them.
    """
    if not encoder.causal:
        if config is not None:
            raise UserError("the network is not causal, but the configuration has chunks",
                            "leave out chunks, or train a causal network")  # fmt: skip
        return None
    found = config or ChunkConfig()
    found.check(encoder)
    return found
