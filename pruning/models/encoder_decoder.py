"""Whisper and Moonshine: an encoder of audio and a decoder of text that are pruned together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, NamedTuple, Optional

import torch
from torch import Tensor, nn

from pruning.core import low_rank
from pruning.core.cost import CostTerm
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, UnitGroup, prefixed
from pruning.models import encoder_decoder_units as units
from pruning.models.audio_encoder import AudioEncoder
from pruning.models.conformer import EncoderOutput
from pruning.models.encoder_decoder_config import EncoderDecoderConfig
from pruning.models.facts import FRAMES_PER_SECOND, SAMPLES_PER_SECOND
from pruning.models.module_units import read_by
from pruning.models.text_decoder import TextDecoder

_PROBED = 12  # tokens per probe utterance


class SpokenLength(int):
    """Number of feature frames or samples of an utterance, which knows the number of tokens of its transcript.

    The number of tokens does not follow from that of frames, since Whisper's features also cover silence.

    Args:
        inputs: frames or samples.
        tokens: tokens of the transcript.
    """

    tokens: int

    def __new__(cls, inputs: int, tokens: int) -> SpokenLength:
        """Make the number."""
        made = super().__new__(cls, inputs)
        made.tokens = tokens
        return made


class Hidden(NamedTuple):
    """What an `EncoderDecoder` computes before its output layer.

    Attributes:
        encoded: output of the encoder, with its layers.
        states: the input of each layer of the decoder and the input of the output layer, each ``(N, U, D)``.
    """

    encoded: EncoderOutput
    states: list[Tensor]


class EncoderDecoder(nn.Module):
    """An `AudioEncoder` and a `TextDecoder` that reads its outputs."""

    kind: ClassVar[str] = "encoder_decoder"

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config.encoder)
        self.decoder = TextDecoder(config.decoder)
        low_rank.install(self, config.ranks)

    def forward(self, inputs: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits of the next token after each prefix of the transcripts.

        Args:
            inputs: ``(N, T, C)`` features, or ``(N, S)`` samples.
            lengths: ``(N,)`` int64 valid frames or samples.
            tokens: ``(N, U)`` int64, beginning with the start of a transcript; padding may follow the transcripts.

        Returns:
            ``(N, U, V)``.

        Raises:
            UserError: there are more frames or tokens than positions.
        """
        return self.decoder.logits(self.hidden(inputs, lengths, tokens).states[-1])

    def hidden(self, inputs: Tensor, lengths: Tensor, tokens: Tensor) -> Hidden:
        """Return all layers; for the arguments see `forward`."""
        encoded = self.encoder(inputs, lengths)
        return Hidden(encoded, self.decoder.states(tokens, self.decoder.memory(encoded)))

    @property
    def residual_width(self) -> int:
        """Number of channels of the encoder's residual stream; the decoder has its own."""
        return self.config.encoder.d_model

    def unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups of encoder and decoder, whose layers are numbered after those of the encoder.

        With factored layers, only their components. With ``width``, also the residual width of both parts. The decoder
        reads that of the encoder by the keys and values of its cross-attention.

        Raises:
            UserError: ``width`` is asked for and layers are factored.
        """
        if self.config.ranks:
            low_rank.refuse_width(width)
            return low_rank.component_groups(self)
        return self._unit_groups(width)

    def _unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups of the network without factored layers."""
        readers = [f"{units.DECODER}{name}" for name in units.memory_readers(self.config.decoder)]
        of_encoder = [prefixed(group, units.ENCODER) for group in units.encoder_groups(self.config.encoder, width)]
        of_decoder = units.decoder_groups(self.config.decoder, self.config.encoder.num_layers, width)
        return [*(read_by(group, readers) if group.kind == WIDTH else group for group in of_encoder),
                *(prefixed(group, units.DECODER) for group in of_decoder)]  # fmt: skip

    def cost_terms(self, frames: int, width: bool = False, tokens: Optional[int] = None) -> list[CostTerm]:
        """Return the cost terms of the whole network for one utterance.

        Args:
            frames: feature frames, or samples, of the utterance.
            width: whether the terms depend on the residual width.
            tokens: tokens of its transcript; None: as `tokens_for` says.
        """
        tokens = self.tokens_for(frames) if tokens is None else tokens
        outputs = self.config.encoder.common.frames(frames)[-1]
        terms = [*units.encoder_terms(self.config.encoder, frames, width, units.ENCODER),
                 *units.decoder_terms(self.config.decoder, outputs, tokens, width)]  # fmt: skip
        if width and not self.config.ranks:
            return terms
        return low_rank.cost_terms(self, self._unit_groups(), terms, self.linear_layers(frames, tokens))

    def tokens_for(self, frames: int) -> int:
        """Return the number of tokens at which costs are counted for an utterance of ``frames`` frames or samples.

        They are those of a `SpokenLength`, else those of an utterance that is spoken from end to end.
        """
        if isinstance(frames, SpokenLength):
            return frames.tokens
        rate = FRAMES_PER_SECOND if self.config.encoder.bins else SAMPLES_PER_SECOND
        return self.tokens_of(frames / rate)

    def tokens_of(self, seconds: float) -> int:
        """Return the number of tokens at which costs are counted for ``seconds`` of speech, rounded up."""
        return math.ceil(round(seconds * self.config.tokens_per_second, 6))

    def linear_layers(self, frames: int, tokens: Optional[int] = None) -> list[low_rank.LinearLayer]:
        """Return the linear layers that may be factored, which the output layer is not; see `cost_terms`."""
        tokens = self.tokens_for(frames) if tokens is None else tokens
        outputs = self.config.encoder.common.frames(frames)[-1]
        return [*units.encoder_linears(self.config.encoder, frames, units.ENCODER),
                *units.decoder_linears(self.config.decoder, outputs, tokens)]  # fmt: skip

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the logits ``(tokens, V)`` for two utterances of noise and random transcripts."""
        inputs, lengths = self.encoder.noise(generator)
        length = min(_PROBED, self.config.decoder.positions or _PROBED)
        tokens = torch.randint(self.config.decoder.vocab_size, (2, length), generator=generator)
        return self(inputs, lengths, tokens).flatten(0, 1)

    def shrink(self, structure: Structure) -> EncoderDecoder:
        """Return a new network with the shapes that ``structure`` leaves."""
        if self.config.ranks:
            return self.with_ranks(low_rank.shrunk_ranks(self, structure))
        encoder = units.shrunk_encoder(self.config.encoder, structure, units.ENCODER)
        decoder = units.shrunk_decoder(self.config.decoder, structure)
        return EncoderDecoder(replace(self.config, encoder=encoder, decoder=decoder))

    def with_tail(self, tail: float) -> EncoderDecoder:
        """Return the same network with another tail of its window, in seconds, see `AudioEncoder.with_tail`.

        Raises:
            UserError: the encoder has no window.
        """
        model = EncoderDecoder(replace(self.config, encoder=self.encoder.with_tail(tail).config))
        model.load_state_dict(self.state_dict(), strict=True)
        return model.train(self.training)

    def with_tokens_per_second(self, rate: float) -> EncoderDecoder:
        """Return the same network with costs at another number of tokens for a second of speech."""
        model = EncoderDecoder(replace(self.config, tokens_per_second=rate))
        model.load_state_dict(self.state_dict(), strict=True)
        return model.train(self.training)

    def with_ranks(self, ranks: Mapping[str, int]) -> EncoderDecoder:
        """Return a new network with the layers of ``ranks`` factored; its weights are not set."""
        return EncoderDecoder(replace(self.config, ranks=dict(ranks)))
