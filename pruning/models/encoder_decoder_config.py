"""Configurations of the encoder and the decoder of Whisper (arXiv 2212.04356) and Moonshine (arXiv 2410.15608)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Optional

from pruning.limits import Count, Fraction, Natural, NonNegative, OneOf, Positive, check_fields
from pruning.models.layers import ACTIVATIONS, per_layer
from pruning.models.names import FAMILY_NAMES, MOONSHINE, WHISPER


@dataclass(frozen=True)
class Family:
    """What all networks of a family have in common.

    Attributes:
        kernels, strides: kernel size and stride of each convolution of the front end.
        padding: zeros that each convolution adds before and after its input.
        rotary: whether positions are rotary, or else vectors that are added to the input of the first layer.
        biased: projections of attention that have a bias.
        norm_bias: whether layer norms have a bias.
        gated: whether the feed-forward modules of the decoder are gated.
    """

    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    padding: int
    rotary: bool
    biased: tuple[str, ...]
    norm_bias: bool
    gated: bool

    def frames(self, inputs: int) -> list[int]:
        """Return the number of frames after each convolution for ``inputs`` frames or samples."""
        counts = []
        for kernel, stride in zip(self.kernels, self.strides):
            inputs = max((inputs + 2 * self.padding - kernel) // stride + 1, 0)
            counts.append(inputs)
        return counts


FAMILIES = {
    WHISPER: Family((3, 3), (1, 2), 1, False, ("q_proj", "v_proj", "out_proj"), norm_bias=True, gated=False),
    MOONSHINE: Family((127, 7, 3), (64, 3, 2), 0, True, (), norm_bias=False, gated=True),
}


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Dimensions that the layers of an encoder and of a decoder have in common.

    A per-layer value is a list with one entry for all layers or one entry per layer; 0 leaves the module out.

    Attributes:
        family: ``whisper`` or ``moonshine``.
        d_model: dimension of the residual stream.
        num_layers: number of layers.
        head_dim: dimension of an attention head (never derived from ``d_model``).
        heads: number of heads of self-attention, per layer.
        ffn_dim: number of hidden units of the feed-forward module, per layer.
        positions: number of positions that have a vector, the longest sequence; 0 with rotary positions.
        rotary_dim: entries of a head that rotary positions rotate, an even number; 0 without rotary positions.
        rotary_base: base of the rates at which they rotate (arXiv 2104.09864, section 3.2.2).
        activation: activation of the feed-forward modules.
        dropout, attention_dropout, ffn_dropout: dropout of module outputs, attention weights and hidden units.
    """

    family: Annotated[str, OneOf(FAMILY_NAMES)]
    d_model: Count
    num_layers: Count
    head_dim: Count
    heads: tuple[Natural, ...]
    ffn_dim: tuple[Natural, ...]
    positions: Natural = 0
    rotary_dim: Natural = 0
    rotary_base: Positive = 10000.0
    activation: Annotated[str, OneOf(tuple(ACTIVATIONS))] = "gelu"
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    ffn_dropout: Fraction = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("heads", "ffn_dim"):
            object.__setattr__(self, name, per_layer(getattr(self, name), self.num_layers, name))
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise ValueError(f"rotary_dim must be even and at most head_dim, got {self.rotary_dim} and {self.head_dim}")
        if FAMILIES[self.family].rotary != (self.rotary_dim > 0) or (self.rotary_dim > 0) == (self.positions > 0):
            needed, other = ("rotary_dim", "positions") if FAMILIES[self.family].rotary else ("positions", "rotary_dim")
            raise ValueError(f"{self.family} needs {needed} of at least 1 and no {other}")

    @property
    def common(self) -> Family:
        """What all networks of the family have in common."""
        return FAMILIES[self.family]

    @property
    def attention_heads(self) -> dict[str, tuple[int, ...]]:
        """Heads of each layer by attention module, in the order of the modules in a layer."""
        return {"attention": self.heads}

    @property
    def gated(self) -> bool:
        """Whether the feed-forward modules are gated."""
        return False


@dataclass(frozen=True, kw_only=True)
class AudioEncoderConfig(StackConfig):
    """Dimensions of a `pruning.models.audio_encoder.AudioEncoder`.

    Attributes:
        conv_channels: channels of each convolution but the last, whose outputs are the residual stream.
        bins: bins of the features; 0: the encoder takes samples.
        tail: seconds of silence after a recording in its features, at most up to the last position; None: up to the
            last position, as in training of the published networks.
        ranks: linear layer -> rank of its factored form; layers without an entry are dense.
    """

    conv_channels: tuple[Count, ...]
    bins: Natural = 0
    tail: Optional[NonNegative] = None
    ranks: dict[str, Count] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "conv_channels", tuple(self.conv_channels))
        needed = len(self.common.kernels) - 1
        if len(self.conv_channels) != needed:
            raise ValueError(f"conv_channels of {self.family} must have {needed} entries, got {self.conv_channels}")
        if (self.bins > 0) == self.common.rotary:
            raise ValueError(f"{self.family} needs {'samples: bins must be 0' if self.common.rotary else 'bins'}")
        if self.tail is not None and self.bins == 0:
            raise ValueError(f"{self.family} takes samples, which have no tail, got tail {self.tail}")

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> AudioEncoderConfig:
        """Build a configuration from the output of ``dataclasses.asdict``; an unknown key raises TypeError."""
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class TextDecoderConfig(StackConfig):
    """Dimensions of a `pruning.models.text_decoder.TextDecoder`.

    Attributes:
        vocab_size: number of tokens.
        memory_dim: dimension of the encoder's output.
        cross_heads: number of heads of cross-attention, per layer.
        tied: whether the output layer shares the weights of the embedding.
        start, end: token that a transcript begins with, and token behind its last one.
    """

    vocab_size: Count
    memory_dim: Count
    cross_heads: tuple[Natural, ...]
    tied: bool = True
    start: Natural
    end: Natural

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "cross_heads", per_layer(self.cross_heads, self.num_layers, "cross_heads"))
        for name in ("start", "end"):
            if getattr(self, name) >= self.vocab_size:
                raise ValueError(f"{name} must be below vocab_size {self.vocab_size}, got {getattr(self, name)}")

    @property
    def attention_heads(self) -> dict[str, tuple[int, ...]]:
        """See `StackConfig.attention_heads`."""
        return {**super().attention_heads, "cross_attention": self.cross_heads}

    @property
    def gated(self) -> bool:
        """See `StackConfig.gated`."""
        return self.common.gated


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Dimensions of a `pruning.models.encoder_decoder.EncoderDecoder`.

    Attributes:
        encoder, decoder: dimensions of the two parts.
        ranks: linear layer of either part -> rank of its factored form; layers without an entry are dense.
        tokens_per_second: tokens of a transcript for a second of speech, at which costs of the decoder are counted. The
            default is 100 for 30 s; read English of LibriSpeech has 3.2 to 3.5 of Whisper's tokens, 3.6 to 4.0 of
            Moonshine's.
    """

    encoder: AudioEncoderConfig
    decoder: TextDecoderConfig
    ranks: dict[str, Count] = field(default_factory=dict)
    tokens_per_second: Positive = 10 / 3

    def __post_init__(self) -> None:
        check_fields(self)
        if self.encoder.ranks:
            raise ValueError("encoder.ranks must be empty: give ranks for the whole network")
        if self.encoder.family != self.decoder.family:
            raise ValueError(f"encoder and decoder must be of one family, got {self.encoder.family} and "
                             f"{self.decoder.family}")  # fmt: skip
        if self.decoder.memory_dim != self.encoder.d_model:
            raise ValueError(f"decoder.memory_dim must be encoder.d_model, {self.encoder.d_model}, got "
                             f"{self.decoder.memory_dim}")  # fmt: skip

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.decoder.vocab_size

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> EncoderDecoderConfig:
        """Build a configuration from the output of ``dataclasses.asdict``; an unknown key raises TypeError."""
        parts = dict(value)
        return cls(AudioEncoderConfig(**parts.pop("encoder")), TextDecoderConfig(**parts.pop("decoder")), **parts)
