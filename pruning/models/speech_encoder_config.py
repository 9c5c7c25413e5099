"""Dimensions of speech encoders of the wav2vec2 family, read from a Hugging Face configuration or given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Optional

from torch import nn

from pruning.errors import UserError
from pruning.limits import (
    COUNT,
    FRACTION,
    POSITIVE,
    Count,
    Fraction,
    Limit,
    Natural,
    NonNegative,
    OneOf,
    check,
    check_fields,
)
from pruning.models.layers import Activation, per_layer

WAV2VEC2, HUBERT, WAVLM = KINDS = ("wav2vec2", "hubert", "wavlm")
GROUP_NORM, LAYER_NORM = FRONTEND_NORMS = ("group", "layer")
ACTIVATIONS: dict[str, Activation] = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
    "swish": nn.functional.silu,
}
_UNSUPPORTED = {"add_adapter": "an adapter behind the encoder", "adapter_attn_dim": "adapters in its layers",
                "conv_pos_batch_norm": "batch norm in the positional convolution"}  # fmt: skip


_HF_LIMITS: dict[str, Limit] = {
    **dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                     "num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "num_buckets", "max_bucket_distance",
                     "conv_dim", "conv_kernel", "conv_stride"), COUNT),
    **dict.fromkeys(("do_stable_layer_norm", "conv_bias", "feat_proj_layer_norm"), OneOf((False, True))),
    **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), FRACTION),
    "layer_norm_eps": POSITIVE,
    **dict.fromkeys(("hidden_act", "feat_extract_activation"), OneOf(tuple(ACTIVATIONS))),
}  # fmt: skip
"""Keys of a Hugging Face configuration that shape the network, and what values they may have."""
_HF_LISTS = ("conv_dim", "conv_kernel", "conv_stride")


@dataclass(frozen=True)
class SpeechEncoderConfig:
    """Dimensions of a `pruning.models.speech_encoder.SpeechEncoder`.

    Attributes:
        kind: ``wav2vec2``, ``hubert`` or ``wavlm`` (with gated relative positions, arXiv 2110.13900, section 3.1).
        conv_channels, conv_kernels, conv_strides: of the frontend's convolutions over samples.
        frontend_norm: ``group``: one per-channel group norm behind the first convolution; ``layer``: a layer norm over
            channels behind each.
        conv_bias: whether the frontend's convolutions have biases.
        projection_norm: whether a layer norm stands before the feature projection.
        d_model: dimension of the Transformer.
        num_layers: its layers.
        head_dim: dimension of a head (never derived from ``d_model``).
        original_heads: heads of the dense network; WavLM's gates look at ``d_model / original_heads`` entries each.
        heads: for each layer, or once for all, which of the original heads it has, ascending; none: no attention
            module.
        ffn_dim: hidden units of the feed-forward module, one for all layers or one for each; 0: no such module.
        pos_kernel, pos_groups: of the positional convolution.
        pre_norm: whether a module's norm stands before it (``do_stable_layer_norm``), instead of behind its residual.
        activation, conv_activation: of the feed-forward modules; of the frontend and the positional convolution.
        layer_norm_eps: of all layer norms but the frontend's, whose eps is PyTorch's.
        attention_mask: whether attention leaves out padding. Networks with group norm were trained without: their
            padding is zeros that take part.
        normalise_audio: whether an utterance is brought to mean 0 and variance 1 first.
        dropout, attention_dropout, ffn_dropout, projection_dropout: on the outputs of modules; attention weights;
            hidden units; the projected features.
        buckets, max_distance: of WavLM's relative positions.
        ranks: linear layer -> rank of its factored form; others are dense.
    """

    kind: Annotated[str, OneOf(KINDS)]
    conv_channels: tuple[Count, ...]
    conv_kernels: tuple[Count, ...]
    conv_strides: tuple[Count, ...]
    frontend_norm: Annotated[str, OneOf(FRONTEND_NORMS)]
    d_model: Count
    num_layers: Count
    head_dim: Count
    original_heads: Count
    heads: tuple[tuple[Natural, ...], ...]
    ffn_dim: tuple[Natural, ...]
    pos_kernel: Count
    pos_groups: Count
    conv_bias: bool = False
    projection_norm: bool = True
    pre_norm: bool = False
    activation: Annotated[str, OneOf(tuple(ACTIVATIONS))] = "gelu"
    conv_activation: Annotated[str, OneOf(tuple(ACTIVATIONS))] = "gelu"
    layer_norm_eps: NonNegative = 1e-5
    attention_mask: bool = False
    normalise_audio: bool = False
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    ffn_dropout: Fraction = 0.0
    projection_dropout: Fraction = 0.0
    buckets: Count = 320
    max_distance: Count = 800
    ranks: dict[str, Count] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("conv_channels", "conv_kernels", "conv_strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        of_layers = [tuple(heads) for heads in self.heads]
        object.__setattr__(self, "heads", tuple(of_layers * self.num_layers if len(of_layers) == 1 else of_layers))
        object.__setattr__(self, "ffn_dim", per_layer(self.ffn_dim, self.num_layers, "ffn_dim"))
        if not len(self.conv_channels) == len(self.conv_kernels) == len(self.conv_strides) > 0:
            raise ValueError("conv_channels, conv_kernels and conv_strides differ in length")
        if len(self.heads) != self.num_layers:
            raise ValueError(f"heads has {len(self.heads)} entries for {self.num_layers} layers")
        for heads in self.heads:
            if list(heads) != sorted(set(heads)) or (heads and not 0 <= heads[0] <= heads[-1] < self.original_heads):
                raise ValueError(f"{heads} are not some of {self.original_heads} heads in ascending order")
        if self.relative_positions and self.head_dim * self.original_heads != self.d_model:
            raise ValueError(f"{self.original_heads} heads of {self.head_dim} do not divide d_model {self.d_model}")

        if self.relative_positions and not 0 < self.buckets // 4 < self.max_distance:
            raise ValueError(f"{self.buckets} buckets for distances up to {self.max_distance}")

    @property
    def relative_positions(self) -> bool:
        """Whether attention has gated relative positions."""
        return self.kind == WAVLM

    def frames(self, samples: int) -> list[int]:
        """Frames behind each convolution of the frontend for ``samples`` of audio; the last are the encoder's."""
        counts = []
        for kernel, stride in zip(self.conv_kernels, self.conv_strides):
            samples = max((samples - kernel) // stride + 1, 0)
            counts.append(samples)
        return counts

    @property
    def receptive_field(self) -> int:
        """Samples that one frame is made of: the shortest audio that gives any."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides)):
            samples = (samples - 1) * stride + kernel
        return samples

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SpeechEncoderConfig:
        """The inverse of ``dataclasses.asdict``; an unknown key raises TypeError."""
        return cls(**value)

    @classmethod
    def from_hf(
        cls, values: Mapping[str, Any], preprocessor: Optional[Mapping[str, Any]] = None, source: str = "config.json"
    ) -> SpeechEncoderConfig:
        """The dimensions of a Hugging Face network.

        Args:
            values: its whole configuration, defaults included (``config.to_dict()``).
            preprocessor: what ``preprocessor_config.json`` says of the audio; without it, audio is taken as it is, and
                attention leaves out padding unless the frontend has group norm.
            source: to name in errors.

        Raises:
            UserError: a model type, norm, activation or part that is not known here, or dimensions that do not fit.
        """
        check_hf(values, source)
        preprocessor = {} if preprocessor is None else preprocessor
        heads, layers = int(values["num_attention_heads"]), int(values["num_hidden_layers"])
        norm = values["feat_extract_norm"]
        relative = {"buckets": "num_buckets", "max_distance": "max_bucket_distance"}
        try:
            return cls(
                kind=values["model_type"],
                conv_channels=tuple(values["conv_dim"]),
                conv_kernels=tuple(values["conv_kernel"]),
                conv_strides=tuple(values["conv_stride"]),
                frontend_norm=norm,
                conv_bias=values["conv_bias"],
                projection_norm=values["model_type"] != HUBERT or values.get("feat_proj_layer_norm", True),
                d_model=values["hidden_size"],
                num_layers=layers,
                head_dim=values["hidden_size"] // heads,
                original_heads=heads,
                heads=(tuple(range(heads)),) * layers,
                ffn_dim=(values["intermediate_size"],),
                pos_kernel=values["num_conv_pos_embeddings"],
                pos_groups=values["num_conv_pos_embedding_groups"],
                pre_norm=values["do_stable_layer_norm"],
                activation=values["hidden_act"],
                conv_activation=values["feat_extract_activation"],
                layer_norm_eps=values["layer_norm_eps"],
                attention_mask=bool(preprocessor.get("return_attention_mask", norm == LAYER_NORM)),
                normalise_audio=bool(preprocessor.get("do_normalize", False)),
                dropout=values["hidden_dropout"],
                attention_dropout=values["attention_dropout"],
                ffn_dropout=values["activation_dropout"],
                projection_dropout=values["feat_proj_dropout"],
                **{ours: values[theirs] for ours, theirs in relative.items() if theirs in values},
            )
        except ValueError as error:
            raise UserError(f"{source}: {error}", "give a checkpoint of a standard architecture") from None


def check_hf(values: Mapping[str, Any], source: str) -> None:
    """Check that a Hugging Face configuration is of a network that is known here.

    Raises:
        UserError: it is of another model type, its frontend's norm is unknown, it has parts that are not known here,
            or a value that cannot be.
    """
    kind = values.get("model_type")
    if kind not in KINDS:
        raise UserError(f"{source} is of model type {kind!r}", f"give a checkpoint of {', '.join(KINDS)}")
    norm = values.get("feat_extract_norm", GROUP_NORM)
    if norm not in FRONTEND_NORMS:
        raise UserError(
            f"{source}: the norm of the frontend, feat_extract_norm, is {norm!r}",
            f"give a checkpoint with one of {', '.join(FRONTEND_NORMS)}",
        )
    for name, what in _UNSUPPORTED.items():
        if values.get(name):
            raise UserError(f"{source}: {name} asks for {what}, which is not known here", "give a plain encoder")
    for name in (name for name in _HF_LIMITS if name in values):
        if isinstance(values[name], (list, tuple)) != (name in _HF_LISTS) or values[name] is None:
            raise UserError(f"{source}: {name} is {values[name]!r}", "correct it")
        check(f"{source}: {name}", values[name], _HF_LIMITS[name])
