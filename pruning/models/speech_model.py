"""Encoders with a head for a task: CTC over frames, or the intent of an utterance; any encoder, pruned or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pruning.core.cost import CostTerm
from pruning.core.distillation import frame_mask
from pruning.core.low_rank import LinearLayer
from pruning.core.precision import at_least_float32
from pruning.core.prunable import plain_state
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup, prefixed
from pruning.limits import Fraction, Natural, OneOf, check_fields
from pruning.models import encoder_types as encoders
from pruning.models.conformer import EncoderOutput
from pruning.models.encoder import Encoder

CTC, INTENT = "ctc", "intent"
TASKS = (CTC, INTENT)
POOLINGS = ("mean", "attention")
_PREFIX = "encoder."


@dataclass(frozen=True)
class SpeechModelConfig:
    """An encoder and its head.

    Attributes:
        encoder: ``{"type": ..., "config": {...}}``, see `pruning.models.encoder_types`.
        task: ``ctc``: symbols over frames, blank 0; ``intent``: one class of an utterance.
        outputs: symbols or classes; 0: as many as the language directory's table has.
        mix: whether the head sees a learned weighted sum of all layers (SUPERB, arXiv 2105.01051, section 3.2), not the
            last alone.
        hidden: dimension of a layer with ReLU before pooling or output; 0: none.
        pooling: of ``intent``: ``mean`` over frames, or ``attention`` with learned weights (arXiv 1803.10963,
            section 3.1).
        dropout: before the head.
    """

    encoder: dict[str, Any] = field(default_factory=dict)
    task: Annotated[str, OneOf(TASKS)] = CTC
    outputs: Natural = 0
    mix: bool = True
    hidden: Natural = 0
    pooling: Annotated[str, OneOf(POOLINGS)] = "attention"
    dropout: Fraction = 0.1

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def vocab_size(self) -> int:
        """As other networks' configurations call the number of outputs."""
        return self.outputs


class SpeechOutput(NamedTuple):
    """What a `SpeechModel` says.

    Attributes:
        logits: ``(N, T, V)`` of ``ctc``, ``(N, V)`` of ``intent``; at least float32.
        encoded: of the encoder.
    """

    logits: Tensor
    encoded: EncoderOutput


class LayerMix(nn.Module):
    """A weighted sum of layers whose weights, a softmax, are learned; equal at first."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """As many layers ``(N, T, D)`` -> ``(N, T, D)``."""
        shares = self.weights.softmax(dim=0)
        return torch.stack([share * layer for share, layer in zip(shares, layers)]).sum(dim=0)


class Head(nn.Module):
    """From the encoder's layers to logits."""

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
        """``(N, T, V)`` of ``ctc``, ``(N, V)`` of ``intent``; frames of padding have no part in the latter."""
        x = encoded.output if self.mix is None else self.mix(encoded.layers)
        x = self.dropout(at_least_float32(x))
        if self.hidden is not None:
            x = torch.relu(self.hidden(x))
        if self.task == INTENT:
            x = self._pooled(x, encoded.lengths)
        return self.output(x)

    def _pooled(self, x: Tensor, lengths: Tensor) -> Tensor:
        """``(N, T, D) -> (N, D)``."""
        valid = frame_mask(lengths.clamp(min=1), x.shape[1])
        scores = x.new_zeros(x.shape[:2]) if self.attention is None else self.attention(x)[:, :, 0]
        shares = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(dim=1)
        return (shares[:, :, None] * x).sum(dim=1)


class SpeechModel(nn.Module):
    """An encoder and a head. The encoder is what is pruned; the head is small and stays.

    Raises:
        UserError: the encoder's description is not one.
    """

    kind: ClassVar[str] = "speech_model"

    def __init__(self, config: SpeechModelConfig) -> None:
        super().__init__()
        if config.outputs < 2:
            raise ValueError(f"model.outputs is {config.outputs}: two symbols or classes are the least")
        self.config = config
        self.encoder = encoders.build(config.encoder)
        self.head = Head(config, self.encoder.width, self.encoder.depth + 1)

    @property
    def blank_id(self) -> int:
        """Of ``ctc``."""
        return 0

    def forward(self, inputs: Tensor, lengths: Tensor) -> SpeechOutput:
        """Encode and classify.

        Args:
            inputs: ``(N, T, C)`` features or ``(N, S)`` samples, as the encoder takes them.
            lengths: ``(N,)`` valid ones.
        """
        encoded = self.encoder.encode(inputs, lengths)
        with torch.autocast(inputs.device.type, enabled=False):
            return SpeechOutput(self.head(encoded), encoded)

    def unit_groups(self) -> list[UnitGroup]:
        """Those of the encoder."""
        return [prefixed(group, _PREFIX) for group in self.encoder.unit_groups()]

    def cost_terms(self, frames: int) -> list[CostTerm]:
        """Those of the encoder, for ``frames`` feature frames or samples."""
        return [replace(term, groups=tuple(f"{_PREFIX}{name}" for name in term.groups))
                for term in self.encoder.cost_terms(frames)]  # fmt: skip

    def linear_layers(self, frames: int) -> list[LinearLayer]:
        """Those of the encoder."""
        return [replace(layer, name=f"{_PREFIX}{layer.name}")
                for layer in self.encoder.linear_layers(frames)]  # fmt: skip

    def probe(self, generator: torch.Generator) -> Tensor:
        """The encoder's outputs for noise."""
        return self.encoder.probe(generator)

    def plain_state(self) -> dict[str, Tensor]:
        """The tensors under the names of what `shrink` makes."""
        of_encoder = {f"{_PREFIX}{name}": tensor for name, tensor in plain_state(self.encoder).items()}
        return {**of_encoder, **{f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}}

    def plain(self) -> SpeechModel:
        """The same network out of this toolkit's modules alone; itself if it is that already."""
        encoder = self.encoder.plain()
        if encoder is self.encoder:
            return self
        model = self._around(encoder).to(next(self.parameters()).device)
        model.load_state_dict(self.plain_state(), strict=True)
        return model.train(self.training)

    def shrink(self, structure: Structure) -> SpeechModel:
        """A new model whose encoder has what ``structure`` leaves."""
        own = {name[len(_PREFIX) :]: kept for name, kept in structure.groups.items()}
        return self._around(self.encoder.shrink(Structure(own)))

    def with_ranks(self, ranks: Mapping[str, int]) -> SpeechModel:
        """A new model with the encoder's layers ``ranks`` factored; its weights are not set."""
        own = {name[len(_PREFIX) :]: rank for name, rank in ranks.items()}
        return self._around(self.encoder.with_ranks(own))

    def _around(self, encoder: Encoder) -> SpeechModel:
        """A new model with an encoder like ``encoder``."""
        return SpeechModel(replace(self.config, encoder=encoders.describe(encoder)))


class CtcRecogniser(nn.Module):
    """A `SpeechModel` for ``ctc`` as decoding takes networks: an encoder, and what makes log-probabilities of it.

    Args:
        model: see there.
    """

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model

    def encoder(self, inputs: Tensor, lengths: Tensor) -> EncoderOutput:
        """Log-probabilities ``(N, T, V)`` already, for the head may look at all layers."""
        output: SpeechOutput = self.model(inputs, lengths)
        return output.encoded._replace(output=output.logits.log_softmax(dim=2))

    def ctc(self, encoder_out: Tensor) -> Tensor:
        """They are ``encoder_out``."""
        return encoder_out
