"""Configuration of speech encoders of the wav2vec2 family, given directly or read from Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Optional

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
from pruning.models.layers import ACTIVATIONS, per_layer

WAV2VEC2, HUBERT, WAVLM = KINDS = ("wav2vec2", "hubert", "wavlm")
GROUP_NORM, LAYER_NORM = FRONTEND_NORMS = ("group", "layer")
_UNSUPPORTED = {"add_adapter": "an adapter after the encoder", "adapter_attn_dim": "adapters in its layers",
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
"""Keys of a Hugging Face configuration that define the network, and their allowed values."""
_HF_LISTS = ("conv_dim", "conv_kernel", "conv_stride")


@dataclass(frozen=True)
class SpeechEncoderConfig:
    """Dimensions of a `pruning.models.speech_encoder.SpeechEncoder`.

    Attributes:
        kind: ``wav2vec2``, ``hubert`` or ``wavlm`` (with gated relative positions, arXiv 2110.13900, section 3.1).
        conv_channels, conv_kernels, conv_strides: channels, kernel size and stride of each front-end convolution.
        frontend_norm: ``group``: one per-channel group norm after the first convolution; ``layer``: a layer norm over
            channels after each convolution.
        conv_bias: whether the front-end convolutions have biases.
        projection_norm: whether a layer norm precedes the feature projection.
        d_model: dimension of the Transformer.
        num_layers: number of Transformer layers.
        head_dim: dimension of a head (never derived from ``d_model``).
        original_heads: number of heads in the dense network; each of WavLM's gates reads ``d_model / original_heads``
            entries.
        heads: indices, ascending, of the original heads that each layer has; one entry for all layers or one per layer.
            An empty entry leaves the attention module out.
        ffn_dim: number of hidden units of the feed-forward module, one value for all layers or one per layer; 0 leaves
            the module out.
        pos_kernel, pos_groups: kernel size and number of groups of the positional convolution.
        pre_norm: whether the norm of a module comes before it (``do_stable_layer_norm``) instead of after its residual.
        activation: activation of the feed-forward modules.
        conv_activation: activation of the front end and the positional convolution.
        layer_norm_eps: eps of all layer norms except those of the front end, which have PyTorch's default.
        attention_mask: whether attention leaves out padding. Networks with group norm were trained without a mask:
            their padding consists of zeros that take part.
        normalise_audio: whether each utterance is first normalised to mean 0 and variance 1.
        dropout, attention_dropout, ffn_dropout, projection_dropout: dropout of module outputs, attention weights,
            hidden units, and projected features.
        buckets, max_distance: number of buckets and largest distance of WavLM's relative positions.
        ranks: linear layer -> rank of its factored form; layers without an entry are dense.
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
            raise ValueError("conv_channels, conv_kernels and conv_strides must have the same length, at least 1")
        if len(self.heads) != self.num_layers:
            raise ValueError(f"heads has {len(self.heads)} entries for {self.num_layers} layers; give one, or one per "
                             "layer")  # fmt: skip
        for heads in self.heads:
            if list(heads) != sorted(set(heads)) or (heads and not 0 <= heads[0] <= heads[-1] < self.original_heads):
                raise ValueError(f"heads must be ascending indices below {self.original_heads}, got {heads}")
        if self.relative_positions and self.head_dim * self.original_heads != self.d_model:
            raise ValueError(f"{self.original_heads} heads of size {self.head_dim} do not fill d_model {self.d_model}")

        if self.relative_positions and not 0 < self.buckets // 4 < self.max_distance:
            raise ValueError("buckets must be at least 4 and max_distance above a quarter of it, "
                             f"got {self.buckets} and {self.max_distance}")  # fmt: skip

    @property
    def relative_positions(self) -> bool:
        """Whether attention has gated relative positions."""
        return self.kind == WAVLM

    def frames(self, samples: int) -> list[int]:
        """Return the number of frames after each front-end convolution for ``samples``; the last is the encoder's."""
        counts = []
        for kernel, stride in zip(self.conv_kernels, self.conv_strides):
            samples = max((samples - kernel) // stride + 1, 0)
            counts.append(samples)
        return counts

    @property
    def receptive_field(self) -> int:
        """Number of samples that one frame depends on, which is the shortest audio that gives a frame."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides)):
            samples = (samples - 1) * stride + kernel
        return samples

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SpeechEncoderConfig:
        """Build a configuration from the output of ``dataclasses.asdict``; an unknown key raises TypeError."""
        return cls(**value)

    @classmethod
    def from_hf(
        cls, values: Mapping[str, Any], preprocessor: Optional[Mapping[str, Any]] = None, source: str = "config.json"
    ) -> SpeechEncoderConfig:
        """Build the configuration of a Hugging Face network.

        Args:
            values: the complete Hugging Face configuration, defaults included (``config.to_dict()``).
            preprocessor: content of ``preprocessor_config.json``; without it, audio is not normalised, and attention
                leaves out padding unless the front end has group norm.
            source: name of the source in error messages.

        Raises:
            UserError: a model type, norm, activation or part is not supported, or dimensions do not fit.
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
    """Check that a Hugging Face configuration is that of a supported network.

    Raises:
        UserError: the model type, the norm of the front end, a part or a value is not supported.
    """
    kind = values.get("model_type")
    if kind not in KINDS:
        raise UserError(f"{source}: unsupported model_type {kind!r}", f"give a checkpoint of {', '.join(KINDS)}")
    norm = values.get("feat_extract_norm", GROUP_NORM)
    if norm not in FRONTEND_NORMS:
        raise UserError(
            f"{source}: unsupported feat_extract_norm {norm!r}",
            f"give a checkpoint with one of {', '.join(FRONTEND_NORMS)}",
        )
    for name, what in _UNSUPPORTED.items():
        if values.get(name):
            raise UserError(f"{source}: {name} requests {what}, which is not supported", "give a plain encoder")
    for name in (name for name in _HF_LIMITS if name in values):
        if isinstance(values[name], (list, tuple)) != (name in _HF_LISTS) or values[name] is None:
            raise UserError(f"{source}: invalid value of {name}, {values[name]!r}", "correct it")
        check(f"{source}: {name}", values[name], _HF_LIMITS[name])
