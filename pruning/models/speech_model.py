"""Encoders with a head: CTC over frames, or the intent of an utterance; works with any encoder, pruned or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pruning.core import low_rank
from pruning.core.distillation import frame_mask
from pruning.core.precision import at_least_float32
from pruning.limits import Count, Fraction, Natural, OneOf, check_fields
from pruning.models import encoder_types as encoders
from pruning.models.conformer import EncoderOutput
from pruning.models.encoder import Encoder
from pruning.models.encoder_network import PREFIX, EncoderNetwork

CTC, INTENT = "ctc", "intent"
TASKS = (CTC, INTENT)
POOLINGS = ("mean", "attention")


@dataclass(frozen=True)
class SpeechModelConfig:
    """Configuration of an encoder and its head.

    Attributes:
        encoder: description ``{"type": ..., "config": {...}}``, see `pruning.models.encoder_types`.
        task: ``ctc``: symbols over frames, blank 0; ``intent``: one class per utterance.
        outputs: number of symbols or classes; 0: the size of the output table in the lang dir.
        mix: whether the head reads a learned weighted sum of all layers (SUPERB, arXiv 2105.01051, section 3.2) instead
            of only the last layer.
        hidden: dimension of a layer with ReLU before pooling or output; 0: no such layer.
        pooling: pooling of ``intent``: ``mean`` over frames, or ``attention`` with learned weights (arXiv 1803.10963,
            section 3.1).
        dropout: dropout before the head.
        ranks: for encoders whose own configuration has no ranks (Conformer, Zipformer): linear layer of the encoder,
            with ``encoder.`` before its name -> rank of its factored form; layers without an entry are dense.
    """

    encoder: dict[str, Any] = field(default_factory=dict)
    task: Annotated[str, OneOf(TASKS)] = CTC
    outputs: Natural = 0
    mix: bool = True
    hidden: Natural = 0
    pooling: Annotated[str, OneOf(POOLINGS)] = "attention"
    dropout: Fraction = 0.1
    ranks: dict[str, Count] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def vocab_size(self) -> int:
        """Number of outputs, under the name that other networks' configurations use."""
        return self.outputs


class SpeechOutput(NamedTuple):
    """Output of a `SpeechModel`.

    Attributes:
        logits: ``(N, T, V)`` for ``ctc``, ``(N, V)`` for ``intent``; at least float32.
        encoded: output of the encoder.
    """

    logits: Tensor
    encoded: EncoderOutput


class LayerMix(nn.Module):
    """Weighted sum of layers with learned softmax weights, which are equal at first."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Sum ``layers``, each ``(N, T, D)``; returns ``(N, T, D)``."""
        shares = self.weights.softmax(dim=0)
        return torch.stack([share * layer for share, layer in zip(shares, layers)]).sum(dim=0)


class Head(nn.Module):
    """Head that maps the layers of the encoder to logits."""

    def __init__(self, config: SpeechModelConfig, dim: int, layers: int) -> None:
        super().__init__()
        self.mix = LayerMix(layers) if config.mix else None
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(dim, config.hidden) if config.hidden else None
        dim = config.hidden or dim
        self.task = config.task
        self.attention = nn.Linear(dim, 1) if config.task == INTENT and config.pooling == "attention" else None
        self.output = nn.Linear(dim, config.outputs)

    def forward(self, encoded: EncoderOutput) -> Tensor:
        """Return logits ``(N, T, V)`` for ``ctc``, ``(N, V)`` for ``intent``, which ignores padding frames."""
        x = encoded.output if self.mix is None else self.mix(encoded.layers)
        x = self.dropout(at_least_float32(x))
        if self.hidden is not None:
            x = torch.relu(self.hidden(x))
        if self.task == INTENT:
            x = self._pooled(x, encoded.lengths)
        return self.output(x)

    def _pooled(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Pool over valid frames, ``(N, T, D) -> (N, D)``."""
        valid = frame_mask(lengths.clamp(min=1), x.shape[1])
        scores = x.new_zeros(x.shape[:2]) if self.attention is None else self.attention(x)[:, :, 0]
        shares = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(dim=1)
        return (shares[:, :, None] * x).sum(dim=1)


class SpeechModel(EncoderNetwork):
    """An encoder and a head. Only the encoder is pruned, because the head is small.

    Raises:
        ValueError: the number of outputs is below 2, or ranks are not possible.
        UserError: the description of the encoder is not valid.
    """

    kind: ClassVar[str] = "speech_model"
    config: SpeechModelConfig

    def __init__(self, config: SpeechModelConfig) -> None:
        super().__init__()
        if config.outputs < 2:
            raise ValueError(f"model.outputs must be at least 2, got {config.outputs}")
        self.config = config
        self.encoder = encoders.build(config.encoder)
        self.head = Head(config, self.encoder.width, self.encoder.depth + 1)
        if config.ranks and self.encoder.holds_ranks:
            raise ValueError("model.ranks must be empty: an encoder of this type has ranks of its own, in its config")
        low_rank.install(self, config.ranks)

    @property
    def blank_id(self) -> int:
        """Output index of blank, for ``ctc``."""
        return 0

    def forward(self, inputs: Tensor, lengths: Tensor) -> SpeechOutput:
        """Encode and classify.

        Args:
            inputs: ``(N, T, C)`` features or ``(N, S)`` samples, depending on the encoder.
            lengths: ``(N,)`` valid frames or samples.
        """
        encoded = self.encoder.encode(inputs, lengths)
        with torch.autocast(inputs.device.type, enabled=False):
            return SpeechOutput(self.head(encoded), encoded)

    def readers(self) -> list[str]:
        """Return the names of the linear layers of the head that read the encoder's output."""
        if self.head.hidden is not None:
            return ["head.hidden"]
        return ["head.output"] if self.head.attention is None else ["head.attention", "head.output"]

    def around(self, encoder: Encoder) -> SpeechModel:
        """Return a new model with an encoder of the same description as ``encoder``."""
        return SpeechModel(replace(self.config, encoder=encoders.describe(encoder)))

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return the outputs of the encoder for noise."""
        return self.encoder.probe(generator)

    def plain(self) -> SpeechModel:
        """Return the same network made of this toolkit's modules; itself if it already is."""
        encoder = self.encoder.plain()
        if encoder is self.encoder:
            return self
        model = self.around(encoder).to(next(self.parameters()).device)
        model.load_state_dict(self.plain_state(), strict=True)
        return model.train(self.training)

    def with_ranks(self, ranks: Mapping[str, int]) -> SpeechModel:
        """Return a new model with the layers of ``ranks`` factored in the encoder; its weights are not set."""
        if not self.encoder.holds_ranks:
            return SpeechModel(replace(self.config, ranks=dict(ranks)))
        own = {name[len(PREFIX) :]: rank for name, rank in ranks.items()}
        return self.around(self.encoder.with_ranks(own))


class CtcRecogniser(nn.Module):
    """A `SpeechModel` for ``ctc`` with the interface that decoding expects: ``encoder`` and ``ctc``.

    Args:
        model: the speech model.
    """

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model

    def encoder(self, inputs: Tensor, lengths: Tensor) -> EncoderOutput:
        """Return log-probabilities ``(N, T, V)`` as the encoder output, because the head may read all layers."""
        output: SpeechOutput = self.model(inputs, lengths)
        return output.encoded._replace(output=output.logits.log_softmax(dim=2))

    def ctc(self, encoder_out: Tensor) -> Tensor:
        """Return ``encoder_out``, which already holds log-probabilities."""
        return encoder_out
