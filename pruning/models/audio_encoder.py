"""Encoder of Whisper and of Moonshine: convolutions over features or samples, and Transformer layers.

All dimensions are set per layer. It belongs to an encoder-decoder network, and can be combined with a head instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Optional

import torch
from torch import Tensor, nn

from pruning.compat import with_contiguous_gradient
from pruning.core import low_rank
from pruning.core.cost import CostTerm
from pruning.core.distillation import frame_mask
from pruning.core.precision import at_least_float32
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.errors import UserError
from pruning.models import encoder_decoder_units as units
from pruning.models.attention_stack import EncoderLayer, initialise, rotation_of
from pruning.models.conformer import EncoderOutput
from pruning.models.encoder import Encoder, Window
from pruning.models.encoder_decoder_config import AudioEncoderConfig
from pruning.models.layers import layer_norm
from pruning.models.utterance_norm import UtteranceNorm

_PROBED = {True: 8000, False: 60}
"""Samples, or frames of features, per probe utterance."""


def sinusoids(positions: int, d_model: int) -> Tensor:
    """Return Whisper's positions of an encoder, ``(positions, d_model)``: sines, then cosines.

    Source: ``sinusoids`` in ``whisper/model.py`` of openai/whisper.
    """
    half = d_model // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10000.0) / max(half - 1, 1)))
    angles = torch.arange(positions)[:, None] * rates[None, :]
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, d_model % 2))


def is_padded(lengths: Tensor, frames: int) -> bool:
    """Return whether any of ``lengths (N,)`` is below ``frames``; a trace, which must serve any lengths, says yes."""
    return torch.jit.is_tracing() or bool((lengths < frames).any())


def padding_bias(lengths: Tensor, frames: int, dtype: torch.dtype) -> Tensor:
    """Return what leaves padding out of attention, ``(N, 1, 1, frames)``: very negative at and after ``lengths``."""
    valid = frame_mask(lengths, frames)
    return torch.zeros_like(valid, dtype=dtype).masked_fill(~valid, torch.finfo(dtype).min)[:, None, None]


class ConvolutionFrontEnd(nn.Module):
    """Front end of convolutions, ``(N, C, T) -> (N, D, T')``.

    GELU follows each convolution, but tanh and an `UtteranceNorm` follow the first one over samples.
    """

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.family = family = config.common
        inputs = (config.bins or 1, *config.conv_channels)
        outputs = (*config.conv_channels, config.d_model)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs[i], outputs[i], kernel, stride, family.padding, bias=units.conv_bias(config, i))
            for i, (kernel, stride) in enumerate(zip(family.kernels, family.strides))
        )
        self.norm = UtteranceNorm(outputs[0]) if units.has_norm(config) else None

    def lengths(self, lengths: Tensor) -> list[Tensor]:
        """Return the valid frames ``(N,)`` after each convolution, for ``lengths (N,)`` frames or samples."""
        found = []
        for kernel, stride in zip(self.family.kernels, self.family.strides):
            lengths = lengths + 2 * self.family.padding - kernel
            lengths = (torch.div(lengths, stride, rounding_mode="floor") + 1).clamp(min=0)
            found.append(lengths)
        return found

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """``x (N, C, T)`` with ``lengths (N,)`` valid frames or samples -> ``(N, D, T')``."""
        for index, (convolution, behind) in enumerate(zip(self.convolutions, self.lengths(lengths))):
            x = convolution(x.masked_fill(~frame_mask(lengths, x.shape[2])[:, None], 0.0))  # (N, C', T')
            if self.norm is not None and index == 0:
                x = self.norm(torch.tanh(x), frame_mask(behind, x.shape[2]))
            else:
                x = nn.functional.gelu(x)
            lengths = behind
        return x


class AudioEncoder(Encoder):
    """Encoder of Whisper or Moonshine with arbitrary dimensions per layer.

    Whisper expects features of 30 s. Fewer frames are encoded with the first positions only, and padding takes no
    part, so that the end of the features that the caller gives is the window.
    """

    form = "audio_encoder"
    convolutions = "front_end"
    config: AudioEncoderConfig

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.front_end = ConvolutionFrontEnd(config)
        self.positions = nn.Embedding(config.positions, config.d_model) if config.positions else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config, index) for index in range(config.num_layers))
        self.norm = layer_norm(config.d_model, config.common.norm_bias)
        initialise(self)
        if self.positions is not None:
            self.positions.weight.requires_grad_(False)
            self.positions.weight.copy_(sinusoids(config.positions, config.d_model))
        low_rank.install(self, config.ranks)

    @property
    def bins(self) -> int:
        """Number of bins per feature frame; 0 if the encoder takes samples."""
        return self.config.bins

    @property
    def stride(self) -> int:
        """Number of feature frames, or samples, from one output frame to the next."""
        return math.prod(self.config.common.strides)

    @property
    def shortest(self) -> int:
        """Minimum number of feature frames, or samples, that gives one output frame."""
        family, needed = self.config.common, 1
        for kernel, stride in zip(reversed(family.kernels), reversed(family.strides)):
            needed = (needed - 1) * stride + kernel - 2 * family.padding
        return max(needed, 1)

    @property
    def window(self) -> Optional[Window]:
        """See `Encoder.window`."""
        return Window(self.stride * self.config.positions, self.config.tail) if self.bins else None

    def with_tail(self, tail: float) -> AudioEncoder:
        """See `Encoder.with_tail`."""
        if self.window is None:
            raise UserError(f"{self.config.family} takes samples, so that its recordings have no tail",
                            "leave out the tail")  # fmt: skip
        encoder = AudioEncoder(replace(self.config, tail=tail))
        encoder.load_state_dict(self.state_dict(), strict=True)
        return encoder.train(self.training)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return the number of output frames ``(N,)`` for ``lengths (N,)`` feature frames or samples."""
        return self.front_end.lengths(lengths)[-1]

    def encode(self, inputs: Tensor, lengths: Tensor) -> EncoderOutput:
        """See `forward`."""
        return self(inputs, lengths)

    def forward(self, inputs: Tensor, lengths: Tensor) -> EncoderOutput:
        """Encode features or audio.

        Args:
            inputs: ``(N, T, C)`` features, or ``(N, S)`` samples.
            lengths: ``(N,)`` int64 valid frames or samples; later ones are padding, whatever their values.

        Returns:
            Outputs ``(N, T', D)``, their lengths ``(N,)``, and the input of each layer, then the output.

        Raises:
            UserError: there are more frames than positions.
        """
        lacking = self.shortest - inputs.shape[1]
        if lacking > 0:  # gives one frame, which is padding
            inputs = nn.functional.pad(inputs, (0, lacking) if self.bins == 0 else (0, 0, 0, lacking))
        return self.transformed(self.convolved(inputs, lengths), self.frame_lengths(lengths))

    def convolved(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Apply the front end, ``(N, T, C)`` features or ``(N, S)`` samples to ``(N, T', D)``."""
        x = inputs[:, None] if self.bins == 0 else inputs.transpose(1, 2)
        return with_contiguous_gradient(self.front_end(x, lengths)).transpose(1, 2)

    def transformed(self, x: Tensor, lengths: Tensor) -> EncoderOutput:
        """Apply positions and layers to the front end's output ``(N, T', D)`` with ``lengths (N,)`` valid frames.

        Raises:
            UserError: there are more frames than positions.
        """
        x = at_least_float32(x)
        if self.positions is not None:
            self._check_room(x.shape[1])
            x = x + self.positions.weight[: x.shape[1]]
        x = self.dropout(x)
        bias = padding_bias(lengths, x.shape[1], x.dtype) if is_padded(lengths, x.shape[1]) else None
        turned = rotation_of(self.config, torch.arange(x.shape[1], device=x.device))
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], bias, turned))
        states[-1] = self.norm(states[-1])
        return EncoderOutput(states[-1], lengths, states)

    def _check_room(self, frames: int) -> None:
        most = self.config.positions
        if frames > most:
            raise UserError(f"features of {frames * self.stride} frames are too long for {most} positions, which are "
                            f"enough for {most * self.stride}", "cut the recordings into shorter ones")  # fmt: skip

    def set_feature_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Not supported: samples and Whisper's features are taken as they are.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"an encoder of {self.config.family} does not normalise its input")

    def described(self) -> dict[str, Any]:
        """Return the configuration as plain values."""
        return asdict(self.config)

    def unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups of front end and layers; with factored layers, only their components.

        Raises:
            UserError: ``width`` is asked for and layers are factored.
        """
        if self.config.ranks:
            low_rank.refuse_width(width)
            return low_rank.component_groups(self)
        return units.encoder_groups(self.config, width)

    def cost_terms(self, frames: int, width: bool = False) -> list[CostTerm]:
        """Return the cost terms of the whole encoder, for ``frames`` feature frames or samples of one utterance."""
        if width and not self.config.ranks:
            return units.encoder_terms(self.config, frames, width)
        return low_rank.cost_terms(self, units.encoder_groups(self.config), units.encoder_terms(self.config, frames),
                                   self.linear_layers(frames))  # fmt: skip

    def linear_layers(self, frames: int) -> list[low_rank.LinearLayer]:
        """Return the linear layers that may be factored, for ``frames`` feature frames or samples."""
        return units.encoder_linears(self.config, frames)

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the outputs ``(frames, D)`` for two utterances of noise."""
        inputs, lengths = self.noise(generator)
        return self(inputs, lengths).output.flatten(0, 1)

    def noise(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return two utterances of noise as input, and their lengths."""
        size = max(_PROBED[self.bins == 0], 2 * self.shortest)
        if self.config.positions:
            size = min(size, self.stride * self.config.positions)
        shape = (2, size) if self.bins == 0 else (2, size, self.bins)
        return torch.randn(shape, generator=generator), torch.full((2,), size)

    def shrink(self, structure: Structure) -> AudioEncoder:
        """Return a new encoder with the shapes that ``structure`` leaves."""
        if self.config.ranks:
            return self.with_ranks(low_rank.shrunk_ranks(self, structure))
        return AudioEncoder(units.shrunk_encoder(self.config, structure))

    def with_ranks(self, ranks: Mapping[str, int]) -> AudioEncoder:
        """Return a new encoder with the layers of ``ranks`` factored; its weights are not set."""
        return AudioEncoder(replace(self.config, ranks=dict(ranks)))
