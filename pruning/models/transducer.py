"""Transducer with a stateless decoder, an auxiliary CTC head and projections for the pruned-range loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Optional, Union

import torch
from torch import Tensor, nn

from pruning.core import low_rank
from pruning.core.precision import at_least_float32
from pruning.errors import UserError
from pruning.limits import Count, Natural, check_fields
from pruning.models.conformer import PROBE_FRAMES, ConformerConfig, EncoderOutput
from pruning.models.encoder import Encoder
from pruning.models.encoder_network import PREFIX, EncoderNetwork
from pruning.models.icefall_encoder import IcefallEncoder, IcefallModules
from pruning.models.prunable_conformer import PrunableConformer
from pruning.models.prunable_zipformer import PrunableZipformer
from pruning.models.subsampling import beyond
from pruning.models.zipformer_config import ZipformerConfig

BLANK = 0


@dataclass(frozen=True)
class TransducerConfig:
    """Dimensions of a `Transducer`.

    Attributes:
        encoder: configuration of the encoder if it is a Conformer.
        vocab_size: number of BPE tokens, blank (0) included; 0 in a file means "from the lang dir".
        decoder_dim: embedding dimension of the stateless decoder.
        context_size: number of tokens that the decoder takes as input.
        joiner_dim: dimension in which encoder and decoder outputs are added.
        joiner_hidden: dimension of a second joiner layer, with ReLU; 0: no such layer (as in networks of icefall's
            ``pruned_transducer_stateless``).
        decoder_proj: whether the joiner projects the decoder output; if not, ``decoder_dim`` must equal ``joiner_dim``.
        decoder_relu: whether ReLU is applied to the decoder output.
        blank_embedding: whether blank has an embedding; if not, it is 0, like the padding before the first token.
        ctc: whether there is a CTC head.
        icefall: location of the encoder's classes if it is icefall's own; None: the encoder is a `ConformerEncoder`.
        ranks: linear layer of the encoder -> rank of its factored form; layers without an entry are dense.
        zipformer: configuration of the encoder if it is a Zipformer, instead of ``encoder``.
        decoder_group: number of channels of the decoder that its convolution mixes.
    """

    encoder: Optional[ConformerConfig] = None
    vocab_size: Natural = 0
    decoder_dim: Count = 512
    context_size: Count = 2
    joiner_dim: Count = 512
    joiner_hidden: Natural = 0
    decoder_proj: bool = True
    decoder_relu: bool = True
    blank_embedding: bool = False
    ctc: bool = True
    icefall: Optional[IcefallModules] = None
    ranks: dict[str, Count] = field(default_factory=dict)
    zipformer: Optional[ZipformerConfig] = None
    decoder_group: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.encoder is None) == (self.zipformer is None):
            raise ValueError("give exactly one of encoder (a Conformer) and zipformer")
        if self.decoder_dim % self.decoder_group:
            raise ValueError(f"decoder_dim {self.decoder_dim} is not a multiple of decoder_group {self.decoder_group}")

    @property
    def dimensions(self) -> Union[ConformerConfig, ZipformerConfig]:
        """Configuration of the encoder."""
        found = self.zipformer or self.encoder
        assert found is not None
        return found

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TransducerConfig:
        """Build a configuration from the output of ``dataclasses.asdict``; an unknown key raises TypeError."""
        modules = value.get("icefall")
        icefall = None if modules is None else IcefallModules(**modules)
        conformer, zipformer = value.get("encoder"), value.get("zipformer")
        encoders = {"encoder": None if conformer is None else ConformerConfig(**conformer),
                    "zipformer": None if zipformer is None else ZipformerConfig(**zipformer)}  # fmt: skip
        return cls(**{**value, **encoders, "icefall": icefall})

    def of_dimensions(self, encoder: Union[ConformerConfig, ZipformerConfig]) -> TransducerConfig:
        """Return the configuration of the same transducer with an encoder of ours with other dimensions."""
        return self._with(asdict(encoder))

    def with_encoder(self, encoder: Encoder) -> TransducerConfig:
        """Return the configuration of the same transducer with an encoder like ``encoder``, of the same type."""
        return self._with(encoder.described())

    def _with(self, dimensions: Mapping[str, Any]) -> TransducerConfig:
        place = "encoder" if self.zipformer is None else "zipformer"
        return self.from_dict({**asdict(self), "icefall": None, place: dimensions})


class StatelessDecoder(nn.Module):
    """Embedding and one convolution over the last ``context_size`` tokens (arXiv 2002.09479).

    The convolution is depthwise, or mixes ``group`` neighbouring channels.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        context_size: int,
        relu: bool = True,
        blank_embedding: bool = False,
        group: int = 1,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_size = context_size
        self.blank_id = BLANK
        self.relu = relu
        self.embedding = nn.Embedding(vocab_size, dim, padding_idx=None if blank_embedding else BLANK)
        self.conv = None
        if context_size > 1:
            self.conv = nn.Conv1d(dim, dim, context_size, groups=dim // group, bias=False)

    def forward(self, tokens: Tensor, pad: bool = True) -> Tensor:
        """Embed a history.

        Args:
            tokens: ``(N, U)`` int64, beginning with blank; ids below 0 are before the first token and have embedding 0.
            pad: whether to prepend ``context_size - 1`` blanks, so that there is an output for every token (training);
                if not, the tokens are exactly the contexts.

        Returns:
            ``(N, U, dim)`` with padding, ``(N, U - context_size + 1, dim)`` without.
        """
        x = self.embedding(tokens.clamp(min=0))
        if self.embedding.padding_idx is None:
            x = x * (tokens >= 0).unsqueeze(2).to(x)
        if self.conv is not None:
            x = x.transpose(1, 2)  # (N, dim, U)
            if pad:
                x = nn.functional.pad(x, (self.context_size - 1, 0))
            x = self.conv(x).transpose(1, 2)
        return torch.relu(x) if self.relu else x


class Joiner(nn.Module):
    """``tanh`` of the sum of both projections, a layer with ReLU if ``hidden`` is not 0, then the output layer."""

    def __init__(
        self,
        encoder_dim: int,
        decoder_dim: int,
        joiner_dim: int,
        vocab_size: int,
        hidden: int = 0,
        decoder_proj: bool = True,
    ) -> None:
        super().__init__()
        self.encoder_proj: nn.Module = nn.Linear(encoder_dim, joiner_dim)
        self.decoder_proj: nn.Module = nn.Linear(decoder_dim, joiner_dim) if decoder_proj else nn.Identity()
        self.hidden = nn.Linear(joiner_dim, hidden) if hidden else None
        self.output = nn.Linear(hidden or joiner_dim, vocab_size)

    def forward(self, encoder_out: Tensor, decoder_out: Tensor, project: bool = True) -> Tensor:
        """Return logits ``(..., V)`` for ``encoder_out (..., C)`` and ``decoder_out (..., C)``, which are broadcast.

        Args:
            encoder_out: output of the encoder, projected or not.
            decoder_out: output of the decoder, projected or not.
            project: whether to apply ``encoder_proj`` and ``decoder_proj`` first.
        """
        if project:
            encoder_out, decoder_out = self.encoder_proj(encoder_out), self.decoder_proj(decoder_out)
        x = torch.tanh(encoder_out + decoder_out)
        return self.output(x if self.hidden is None else torch.relu(self.hidden(x)))


class Transducer(EncoderNetwork):
    """Encoder, decoder and joiner, with a CTC head and two projections for the pruned-range loss (arXiv 2206.13236).

    Only the encoder, subsampling included, is pruned; the rest is small and is copied from the teacher.
    """

    kind: ClassVar[str] = "transducer"
    config: TransducerConfig

    def __init__(self, config: TransducerConfig) -> None:
        super().__init__()
        if config.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2 (blank and one token), got {config.vocab_size}")
        if not config.decoder_proj and config.decoder_dim != config.joiner_dim:
            dims = f"decoder_dim {config.decoder_dim} and joiner_dim {config.joiner_dim}"
            raise ValueError(f"{dims} must be equal if decoder_proj is false")
        self.config = config
        d = config.dimensions.d_model
        self.encoder = _encoder(config)
        self.decoder = StatelessDecoder(
            config.vocab_size,
            config.decoder_dim,
            config.context_size,
            config.decoder_relu,
            config.blank_embedding,
            config.decoder_group,
        )
        self.joiner = Joiner(
            d, config.decoder_dim, config.joiner_dim, config.vocab_size, config.joiner_hidden, config.decoder_proj
        )
        self.simple_am = nn.Linear(d, config.vocab_size)
        self.simple_lm = nn.Linear(config.decoder_dim, config.vocab_size)
        self.ctc_head = nn.Linear(d, config.vocab_size) if config.ctc else None
        low_rank.install(self, config.ranks)

    def ctc(self, encoder_out: Tensor) -> Tensor:
        """Return CTC log-probabilities ``(N, T', V)`` for ``encoder_out (N, T', D)``, in at least float32; blank is 0.

        Raises:
            UserError: the network has no CTC head.
        """
        if self.ctc_head is None:
            raise UserError("the network has no CTC head", "set loss.ctc_weight and distillation.ctc_weight to 0, "
                            "and use a transducer decoding method")  # fmt: skip
        with torch.autocast(encoder_out.device.type, enabled=False):
            return self.ctc_head(at_least_float32(encoder_out)).log_softmax(dim=-1)

    def forward(self, features: Tensor, lengths: Tensor, return_layers: bool = False) -> EncoderOutput:
        """Run the encoder, see `ConformerEncoder.forward`."""
        return self.encoder(features, lengths, return_layers)

    def existing_layers(self, counts: Mapping[str, float]) -> list[bool]:
        """Return whether each layer of the encoder still computes anything, see `Encoder.existing_layers`."""
        own = {name[len(PREFIX) :]: count for name, count in counts.items() if name.startswith(PREFIX)}
        return self.encoder.existing_layers(own)

    def readers(self) -> list[str]:
        """Return the names of the linear layers of joiner and heads that read the encoder's output."""
        return ["joiner.encoder_proj", "simple_am", *(["ctc_head"] if self.config.ctc else [])]

    def around(self, encoder: Encoder) -> Transducer:
        """Return a new transducer with an encoder of this toolkit that is described as ``encoder`` is."""
        return Transducer(self.config.with_encoder(encoder))

    def plain(self) -> Transducer:
        """Return a transducer that computes the same with an encoder of this toolkit; itself if it already has one."""
        if self.config.icefall is None:
            return self
        model = Transducer(replace(self.config, icefall=None)).to(next(self.parameters()).device)
        model.load_state_dict(self.plain_state())
        return model.train(self.training)

    def with_ranks(self, ranks: Mapping[str, int]) -> Transducer:
        """Return a new transducer with the layers of ``ranks`` factored; its weights are not set."""
        return Transducer(replace(self.config, ranks=dict(ranks), icefall=None))

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the encoder outputs ``(frames, D)`` for two utterances of noise, one of them padded."""
        features = torch.randn(2, PROBE_FRAMES, self.encoder.bins, generator=generator)
        lengths = torch.tensor([PROBE_FRAMES, PROBE_FRAMES * 2 // 3])
        encoded = self.encoder(features, lengths)
        return encoded.output[~beyond(encoded.lengths, encoded.output.shape[1])]


def _encoder(config: TransducerConfig) -> Encoder:
    """Build the encoder."""
    if config.zipformer is not None:
        return PrunableZipformer(config.zipformer)
    assert config.encoder is not None
    return (
        PrunableConformer(config.encoder) if config.icefall is None else IcefallEncoder(config.icefall, config.encoder)
    )
