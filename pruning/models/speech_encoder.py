"""Speech encoders of the wav2vec2 family (wav2vec2 arXiv 2006.11477, HuBERT 2106.07447, WavLM 2110.13900).

They consist of a convolutional front end over samples, a projection, a positional convolution, and a Transformer. All
dimensions are set per layer. Parameters have the names of Hugging Face, with two exceptions: the positional convolution
has no weight norm, and WavLM's table of relative positions belongs to the encoder and not to its first layer, which may
lose its attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Optional

import torch
from torch import Tensor, nn

from pruning.compat import attention, with_contiguous_gradient
from pruning.core import low_rank
from pruning.core.cost import CostTerm
from pruning.core.distillation import frame_mask
from pruning.core.precision import at_least_float32
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.models import speech_encoder_units as units
from pruning.models.conformer import EncoderOutput
from pruning.models.encoder import Encoder
from pruning.models.layers import ACTIVATIONS
from pruning.models.speech_encoder_config import GROUP_NORM, SpeechEncoderConfig

_PROBED = 8000  # samples per probe utterance


class WaveformEncoder(Encoder):
    """Base class of Hugging Face's encoders and ours: the forward pass over audio, and the declaration of units.

    A subclass has the modules ``feature_extractor`` and ``encoder`` under Hugging Face's names.
    """

    convolutions = "feature_extractor"
    config: SpeechEncoderConfig
    feature_extractor: nn.Module

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def bins(self) -> int:
        """Always 0, because the encoder takes samples."""
        return 0

    @property
    def stride(self) -> int:
        """Number of samples from one frame to the next."""
        return math.prod(self.config.conv_strides)

    @property
    def shortest(self) -> int:
        """Minimum number of samples that gives a frame."""
        return int(self.config.receptive_field)

    def encode(self, inputs: Tensor, lengths: Tensor) -> EncoderOutput:
        """See `forward`."""
        return self(inputs, lengths)

    def projected(self, features: Tensor) -> Tensor:
        """Project the output of the front end ``(N, T, C)`` to the dimension of the Transformer, ``(N, T, D)``."""
        raise NotImplementedError

    def transformed(self, x: Tensor, valid: Optional[Tensor]) -> list[Tensor]:
        """Return the input of each layer and the output, ``num_layers + 1`` tensors ``(N, T, D)``, for ``x (N, T, D)``.

        ``valid (N, T)`` bool is False on padding; None: padding takes part in attention.
        """
        raise NotImplementedError

    def forward(self, audio: Tensor, lengths: Tensor) -> EncoderOutput:
        """Encode audio.

        Args:
            audio: ``(N, S)`` samples.
            lengths: ``(N,)`` int64 valid samples; later samples are padding, whatever their values.

        Returns:
            Outputs ``(N, T, D)``, their lengths ``(N,)``, and the hidden states as Hugging Face defines them: the input
            of each layer, then the output.
        """
        lacking = self.config.receptive_field - audio.shape[1]
        if lacking > 0:  # gives one frame, which is padding
            audio = nn.functional.pad(audio, (0, int(lacking)))
        features = with_contiguous_gradient(self.feature_extractor(self.prepared(audio, lengths))).transpose(1, 2)
        lengths = self.frame_lengths(lengths)
        valid = frame_mask(lengths, features.shape[1]) if self.config.attention_mask else None
        layers = self.transformed(at_least_float32(self.projected(features)), valid)
        return EncoderOutput(layers[-1], lengths, layers)

    def prepared(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Zero the padding of ``audio (N, S)``, and normalise the audio if the configuration says so."""
        valid = frame_mask(lengths, audio.shape[1]).to(audio)
        audio = audio * valid
        if self.config.normalise_audio:
            count = lengths.to(audio).clamp(min=1)[:, None]
            centred = (audio - audio.sum(dim=1, keepdim=True) / count) * valid
            audio = centred / (centred.square().sum(dim=1, keepdim=True) / count + 1e-7).sqrt()
        return audio

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return the number of frames ``(N,)`` for ``lengths (N,)`` samples."""
        for kernel, stride in zip(self.config.conv_kernels, self.config.conv_strides):
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths.clamp(min=0)

    def unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups of front end and Transformer; with factored layers, only their components.

        Raises:
            UserError: ``width`` is asked for and layers are factored, or the encoder is a WavLM.
        """
        if self.config.ranks:
            low_rank.refuse_width(width)
            return low_rank.component_groups(self)
        return units.unit_groups(self.config, width)

    def cost_terms(self, frames: int, width: bool = False) -> list[CostTerm]:
        """Return the cost terms of the whole encoder, for ``frames`` samples of one utterance."""
        if width and not self.config.ranks:
            return units.cost_terms(self.config, frames, width)
        return low_rank.cost_terms(self, units.unit_groups(self.config), units.cost_terms(self.config, frames),
                                   self.linear_layers(frames))  # fmt: skip

    def linear_layers(self, frames: int) -> list[low_rank.LinearLayer]:
        """Return the linear layers that may be factored, for ``frames`` samples."""
        return units.linear_layers(self.config, frames)

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the outputs ``(frames, D)`` for two utterances of noise."""
        samples = max(_PROBED, 2 * self.config.receptive_field)
        audio = torch.randn(2, samples, generator=generator)
        return self(audio, torch.full((2,), samples)).output.flatten(0, 1)

    def shrink(self, structure: Structure) -> SpeechEncoder:
        """Return a new `SpeechEncoder` with the shapes that ``structure`` leaves."""
        if self.config.ranks:
            return self.with_ranks(low_rank.shrunk_ranks(self, structure))
        return SpeechEncoder(units.shrink(self.config, structure))

    def with_ranks(self, ranks: Mapping[str, int]) -> SpeechEncoder:
        """Return a new `SpeechEncoder` with the layers of ``ranks`` factored; its weights are not set."""
        return SpeechEncoder(replace(self.config, ranks=dict(ranks)))


class FrameConvolution(nn.Conv1d):
    """A convolution of data with channels-last memory layout, ``(N, C, T) -> (N, C', T')``.

    Norms over channels need this layout. Transposing to the other layout between them took two thirds of a training
    step of the front end on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, T) -> (N, C', T')``."""
        x, weight = (part[:, :, None].contiguous(memory_format=torch.channels_last) for part in (x, self.weight))
        return nn.functional.conv2d(x, weight, self.bias, (1, self.stride[0]))[:, :, 0]


class ConvolutionLayer(nn.Module):
    """One convolution of the front end with its norm, if it has one, ``(N, C, T) -> (N, C', T')``."""

    def __init__(self, config: SpeechEncoderConfig, index: int) -> None:
        super().__init__()
        channels = config.conv_channels[index]
        inputs = config.conv_channels[index - 1] if index else 1
        kernel, stride = config.conv_kernels[index], config.conv_strides[index]
        convolution = nn.Conv1d
        self.layer_norm: Optional[nn.Module] = None
        if units.has_norm(config, index):
            per_channel = config.frontend_norm == GROUP_NORM
            self.layer_norm = nn.GroupNorm(channels, channels) if per_channel else nn.LayerNorm(channels)
            convolution = nn.Conv1d if per_channel else FrameConvolution
        self.conv = convolution(inputs, channels, kernel, stride, bias=config.conv_bias)
        self.activation = ACTIVATIONS[config.conv_activation]

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, T) -> (N, C', T')``."""
        x = self.conv(x)
        if isinstance(self.layer_norm, nn.LayerNorm):
            x = self.layer_norm(at_least_float32(x.transpose(1, 2)))  # torch 1.13 has no bfloat16 norm on CPUs
            return with_contiguous_gradient(self.activation(x)).transpose(1, 2)
        if self.layer_norm is not None:
            x = self.layer_norm(at_least_float32(x))
        return self.activation(x)


class Frontend(nn.Module):
    """Convolutional front end over samples, ``(N, S) -> (N, C, T)``."""

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(ConvolutionLayer(config, index) for index in range(len(config.conv_channels)))

    def forward(self, audio: Tensor) -> Tensor:
        """``(N, S) -> (N, C, T)``."""
        x = audio[:, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x


class FeatureProjection(nn.Module):
    """Projection from front-end channels to the dimension of the Transformer, ``(N, T, C) -> (N, T, D)``."""

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        channels = config.conv_channels[-1]
        self.layer_norm = nn.LayerNorm(channels, eps=config.layer_norm_eps) if config.projection_norm else None
        self.projection = nn.Linear(channels, config.d_model)
        self.dropout = nn.Dropout(config.projection_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, C) -> (N, T, D)``."""
        return self.dropout(self.projection(x if self.layer_norm is None else self.layer_norm(at_least_float32(x))))


class PositionalConvolution(nn.Module):
    """Positional embedding by a wide grouped convolution, ``(N, T, D) -> (N, T, D)`` (arXiv 1904.11660, section 2)."""

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.conv = nn.Conv1d(config.d_model, config.d_model, config.pos_kernel, groups=config.pos_groups)
        self.padding = (config.pos_kernel // 2, (config.pos_kernel - 1) // 2)
        self.activation = ACTIVATIONS[config.conv_activation]

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, D) -> (N, T, D)``."""
        x = self.activation(self.conv(nn.functional.pad(x.transpose(1, 2), self.padding)))
        return with_contiguous_gradient(x).transpose(1, 2)


class HeadAttention(nn.Module):
    """Multi-head self-attention with some of the heads of a dense network, and with WavLM's gates for ``wavlm``.

    The h-th kept head owns the contiguous rows ``h head_dim ... (h + 1) head_dim - 1`` of each projection.
    """

    kept: Tensor

    def __init__(self, config: SpeechEncoderConfig, index: int) -> None:
        super().__init__()
        d, heads = config.d_model, config.heads[index]
        self.num_heads, self.head_dim, self.original_heads = len(heads), config.head_dim, config.original_heads
        self.dropout = config.attention_dropout
        inner = self.num_heads * config.head_dim
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(d, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, d)
        self.register_buffer("kept", torch.tensor(heads), persistent=False)
        if config.relative_positions:
            self.gru_rel_pos_const = nn.Parameter(torch.ones(1, self.num_heads, 1, 1))
            self.gru_rel_pos_linear = nn.Linear(config.head_dim, units.GATE_OUTPUTS)

    def forward(self, x: Tensor, bias: Optional[Tensor], positions: Optional[Tensor]) -> Tensor:
        """Apply self-attention.

        Args:
            x: input, ``(N, T, D)``.
            bias: ``(N, 1, 1, T)`` that is added to the scores: very negative for padding; None: no bias.
            positions: WavLM's position bias, ``(original heads, T, T)``, which is gated and added to the scores; None
                for other networks.

        Returns:
            ``(N, T, D)``.
        """
        shape = (x.shape[0], x.shape[1], self.num_heads, self.head_dim)
        query, key, value = (part(x).reshape(shape).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj))
        if positions is not None:
            if self.num_heads < self.original_heads:
                positions = positions.index_select(0, self.kept)
            gated = self.gates(x) * positions  # (N, H, T, T)
            bias = gated if bias is None else gated + bias
        context = attention(query, key, value, bias, self.dropout if self.training else 0.0)  # (N, H, T, D_h)
        return self.out_proj(context.transpose(1, 2).flatten(2))

    def gates(self, x: Tensor) -> Tensor:
        """Return the gates of the position bias for each frame (arXiv 2110.13900, section 3.1), ``(N, H, T, 1)``.

        The gate of a head reads its own part of the *input* ``x (N, T, D)``, which is split by the heads of the dense
        network.
        """
        parts = x.reshape(x.shape[0], x.shape[1], self.original_heads, self.head_dim)
        if self.num_heads < self.original_heads:
            parts = parts.index_select(2, self.kept)
        halves = self.gru_rel_pos_linear(parts.transpose(1, 2)).chunk(2, dim=-1)  # (N, H, T, 4), twice
        update, reset = (torch.sigmoid(half.sum(dim=-1, keepdim=True)) for half in halves)
        return update * (reset * self.gru_rel_pos_const - 1.0) + 2.0


class HiddenLayers(nn.Module):
    """A feed-forward module with Hugging Face's names, ``(N, T, D) -> (N, T, D)``."""

    def __init__(self, config: SpeechEncoderConfig, hidden: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.d_model, hidden)
        self.output_dense = nn.Linear(hidden, config.d_model)
        self.dropout = nn.Dropout(config.ffn_dropout)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, D) -> (N, T, D)``."""
        return self.output_dense(self.dropout(self.activation(self.intermediate_dense(x))))


class SpeechLayer(nn.Module):
    """Self-attention and feed-forward module, each with its residual; a module without units does not exist.

    A norm before a module is removed with it; a norm after the residual stays if the module is removed.
    """

    def __init__(self, config: SpeechEncoderConfig, index: int) -> None:
        super().__init__()

        def norm(exists: bool) -> Optional[nn.LayerNorm]:
            needed = exists or not config.pre_norm
            return nn.LayerNorm(config.d_model, eps=config.layer_norm_eps) if needed else None

        heads, hidden = config.heads[index], config.ffn_dim[index]
        self.pre_norm = config.pre_norm
        self.attention = HeadAttention(config, index) if heads else None
        self.layer_norm = norm(bool(heads))
        self.feed_forward = HiddenLayers(config, hidden) if hidden else None
        self.final_layer_norm = norm(bool(hidden))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Optional[Tensor], positions: Optional[Tensor]) -> Tensor:
        """``(N, T, D) -> (N, T, D)``; for ``bias`` and ``positions`` see `HeadAttention.forward`."""
        if self.attention is not None:
            x = x + self.dropout(self.attention(self._before(x, self.layer_norm), bias, positions))
        x = self._behind(x, self.layer_norm)
        if self.feed_forward is not None:
            x = x + self.dropout(self.feed_forward(self._before(x, self.final_layer_norm)))
        return self._behind(x, self.final_layer_norm)

    def _before(self, x: Tensor, norm: Optional[nn.LayerNorm]) -> Tensor:
        return norm(x) if norm is not None and self.pre_norm else x

    def _behind(self, x: Tensor, norm: Optional[nn.LayerNorm]) -> Tensor:
        return norm(x) if norm is not None and not self.pre_norm else x


class RelativePositions(nn.Embedding):
    """WavLM's position bias for each bucket of distances and each head of the dense network.

    The buckets are those of T5 (arXiv 1910.10683, section 2.1).
    """

    near: Tensor

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__(config.buckets, config.original_heads)
        self.one_way = config.buckets // 2
        exact = self.one_way // 2
        distances = torch.arange(config.max_distance + 1)
        ratio = torch.log(distances.clamp(min=1).float() / exact) / math.log(config.max_distance / exact)
        far = (exact + ratio * (self.one_way - exact)).long().clamp(max=self.one_way - 1)
        # precomputed, so that the logarithm of another runtime cannot assign a distance to another bucket
        self.register_buffer("near", torch.where(distances < exact, distances, far), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:  # type: ignore[override]
        """Return the biases of each head between ascending positions ``frames (T,)``: ``(original heads, T, T)``."""
        distances = frames[None, :] - frames[:, None]  # from queries to keys
        buckets = self.near[distances.abs().clamp(max=len(self.near) - 1)] + (distances > 0).long() * self.one_way
        return super().forward(buckets).permute(2, 0, 1)


class SpeechTransformer(nn.Module):
    """Positional convolution, layers, and a norm, which comes after the layers with ``pre_norm`` and else before."""

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.pos_conv_embed = PositionalConvolution(config)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.rel_attn_embed = RelativePositions(config) if config.relative_positions else None
        self.layers = nn.ModuleList(SpeechLayer(config, index) for index in range(config.num_layers))

    def forward(self, x: Tensor, valid: Optional[Tensor]) -> list[Tensor]:
        """See `WaveformEncoder.transformed`."""
        bias = None
        if valid is not None:
            x = x * valid[:, :, None].to(x)
            lowest = torch.finfo(x.dtype).min
            bias = torch.zeros_like(valid, dtype=x.dtype).masked_fill(~valid, lowest)[:, None, None]  # (N, 1, 1, T)
        x = x + self.pos_conv_embed(x)
        x = self.dropout(x if self.pre_norm else self.layer_norm(x))
        positions = None
        if self.rel_attn_embed is not None:
            positions = self.rel_attn_embed(torch.arange(x.shape[1], device=x.device))
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], bias, positions))
        if self.pre_norm:
            states[-1] = self.layer_norm(states[-1])
        return states


class SpeechEncoder(WaveformEncoder):
    """An encoder of the wav2vec2 family with arbitrary dimensions per layer."""

    form = "speech_encoder"

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__(config)
        self.feature_extractor = Frontend(config)
        self.feature_projection = FeatureProjection(config)
        self.encoder = SpeechTransformer(config)
        self._initialise()
        low_rank.install(self, config.ranks)

    def _initialise(self) -> None:
        """Initialise as fairseq: small normal weights in the Transformer, fan-in scaled convolutions, zero biases."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv1d) and name.startswith("feature_extractor"):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Conv1d):
                nn.init.normal_(module.weight, std=2 / math.sqrt(self.config.pos_kernel * self.config.d_model))
            if isinstance(module, (nn.Linear, nn.Conv1d)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def described(self) -> dict[str, Any]:
        """Return the configuration as plain values."""
        return asdict(self.config)

    def projected(self, features: Tensor) -> Tensor:
        """See `WaveformEncoder.projected`."""
        return self.feature_projection(features)

    def transformed(self, x: Tensor, valid: Optional[Tensor]) -> list[Tensor]:
        """See `WaveformEncoder.transformed`."""
        return self.encoder(x, valid)
