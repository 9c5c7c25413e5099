"""Task for encoder-decoders: the next token of transcripts (teacher forcing), with or without pruning or a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pruning.core.distillation import DistillationConfig, LayerDistillation, frame_distillation
from pruning.core.structure import Structure
from pruning.limits import Fraction, check_fields
from pruning.methods.base import Pruner
from pruning.models.encoder_decoder import EncoderDecoder, Hidden
from pruning.models.encoder_decoder_config import StackConfig
from pruning.models.encoder_decoder_units import DECODER, ENCODER
from pruning.speech.data.augment import SampleAugment, SpecAugment
from pruning.speech.data.batches import Batch
from pruning.speech.text.transcript_form import TranscriptForm
from pruning.tasks.freezing import freeze
from pruning.tasks.pruned import LossTerms, PrunedTask
from pruning.training.task import ParameterGroup, StepInfo, weight_groups


@dataclass(frozen=True)
class TokenLossConfig:
    """Loss settings for encoder-decoders.

    Attributes:
        label_smoothing: share of the probability that is spread over all tokens (arXiv 1512.00567, section 7).
        freeze: name prefixes of parameters that are not trained, e.g. ``[encoder.layers.0]``, or ``front_end`` for the
            convolutions of the encoder; gates and masks still apply to them.
    """

    label_smoothing: Fraction = 0.0
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)


class Forced(NamedTuple):
    """Transcripts for teacher forcing.

    Attributes:
        tokens: input of the decoder ``(N, U)``: the start, the text, and padding.
        targets: token that follows each prefix ``(N, U)``; the last one of a transcript is its end.
        lengths: number of input tokens ``(N,)``, without padding.
        counted: ``(N, U)``, True where the target is a token of the text or the end.
    """

    tokens: Tensor
    targets: Tensor
    lengths: Tensor
    counted: Tensor


def forced(texts: Sequence[Sequence[int]], form: TranscriptForm, device: torch.device) -> Forced:
    """Return the transcripts of the ``texts``, lists of tokens, for teacher forcing."""
    rows = [torch.tensor(form.whole(text)) for text in texts]
    whole = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=form.end).to(device)  # (N, U + 1)
    lengths = torch.tensor([len(row) - 1 for row in rows], device=device)
    places = torch.arange(whole.shape[1] - 1, device=device)
    counted = (places >= len(form.start) - 1) & (places < lengths[:, None])
    return Forced(whole[:, :-1], whole[:, 1:], lengths, counted)


def _between(student: StackConfig, teacher: StackConfig, config: DistillationConfig, part: str) -> LayerDistillation:
    """Return the distillation between the layers of one ``part`` of both networks."""
    config.check_student(student.num_layers, f"student's {part}")
    return LayerDistillation(config, student.d_model, teacher.d_model)


class EncoderDecoderTask(PrunedTask):
    """Cross-entropy per token, with distillation and the constraint's penalty.

    Layers are numbered like those of the unit groups: 0 is the input of the encoder's first layer, ``i`` the output of
    its layer ``i``, and the outputs of the decoder's layers follow. Encoder and decoder have projections of their own.

    Args:
        model: network to train.
        form: how transcripts begin and end.
        loss: loss settings.
        augment: augmentation of the input, features or samples; or None.
        teacher: dense network, which is frozen and in evaluation mode; None: no distillation.
        distillation: what to distil: ``layers``, and the next token's distribution with ``output_weight``.
        pruner: pruner of ``model``; None: the structure is fixed.
    """

    frozen_modules = ("teacher",)

    def __init__(
        self,
        model: EncoderDecoder,
        form: TranscriptForm,
        loss: TokenLossConfig,
        augment: Union[SpecAugment, SampleAugment, None] = None,
        teacher: Optional[EncoderDecoder] = None,
        distillation: Optional[DistillationConfig] = None,
        pruner: Optional[Pruner] = None,
    ) -> None:
        super().__init__(pruner)
        self.model: EncoderDecoder = model
        self.form = form
        self.loss = loss
        self.augment = augment
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self.distillation = distillation or DistillationConfig()
        self.decoder_distillation: Optional[LayerDistillation] = None
        if teacher is not None and self.distillation.layer_weight > 0:
            last = teacher.config.encoder.num_layers
            self.distillation = self.distillation.of_depth(last + teacher.config.decoder.num_layers)
            of_encoder = tuple(layer for layer in self.distillation.layers if layer <= last)
            of_decoder = tuple(layer - last for layer in self.distillation.layers if layer > last)
            if of_encoder:
                stacks = model.config.encoder, teacher.config.encoder
                self.layer_distillation = _between(*stacks, replace(self.distillation, layers=of_encoder), "encoder")
            if of_decoder:
                others = model.config.decoder, teacher.config.decoder
                self.decoder_distillation = _between(*others, replace(self.distillation, layers=of_decoder), "decoder")
        freeze(model, loss.freeze, model.encoder.convolutions)

    def inherit(self, structure: Structure) -> None:
        """Prepare for a network that was cut out by ``structure``: each part selects the channels that it kept."""
        for part, distillation in ((ENCODER, self.layer_distillation), (DECODER, self.decoder_distillation)):
            own = {name: kept for name, kept in structure.groups.items() if name.startswith(part)}
            if distillation is not None:
                distillation.select(Structure(own))

    def terms(self, batch: Batch, step: StepInfo) -> LossTerms:
        """Compute the terms of a batch's loss: means per token."""
        inputs = batch.features
        if self.augment is not None and step.training:
            inputs = self.augment(inputs, batch.lengths)
        said = forced(batch.tokens, self.form, inputs.device)
        with self.pruned(step):
            hidden: Hidden = self.model.hidden(inputs, batch.lengths, said.tokens)
            logits = self.model.decoder.logits(hidden.states[-1][said.counted])  # (tokens, V)
        wanted, tokens = said.targets[said.counted], said.counted.sum()
        smoothing = self.loss.label_smoothing if step.training else 0.0
        loss = cross_entropy(logits.float(), wanted, label_smoothing=smoothing)
        weighted = {"task": loss}
        logged = {"task": loss, "accuracy": (logits.argmax(dim=1) == wanted).float().mean()}
        if self.teacher is not None:
            distilled = self._distil(self.teacher, inputs, batch, said, hidden, logits)
            logged.update(distilled)
            weights = {"distil_layers": self.distillation.layer_weight_at(step.step, step.total_steps),
                       "distil_output": self.distillation.output_weight}  # fmt: skip
            weighted.update((name, weights[name] * term) for name, term in distilled.items() if name in weights)
        return LossTerms(weighted, logged, tokens)

    def _distil(
        self, teacher: EncoderDecoder, inputs: Tensor, batch: Batch, said: Forced, student: Hidden, logits: Tensor
    ) -> dict[str, Tensor]:
        """Compute the distillation terms, without their weights, and values to log."""
        with torch.no_grad():
            goal: Hidden = teacher.hidden(inputs, batch.lengths, said.tokens)
        parts = [(self.layer_distillation, student.encoded.layers, goal.encoded.layers, student.encoded.lengths),
                 (self.decoder_distillation, student.states, goal.states, said.lengths)]  # fmt: skip
        terms: dict[str, Tensor] = {}
        for distillation, ours, theirs, lengths in parts:
            if distillation is not None:
                share = len(distillation.config.layers) / len(self.distillation.layers)
                found = distillation.distances(ours, theirs, lengths)
                for name, value in (("distil_layers", found.loss), ("distil_largest", found.largest)):
                    terms[name] = share * value + terms.get(name, torch.zeros_like(value))
        if self.distillation.output_weight > 0:
            with torch.no_grad():
                wanted = teacher.decoder.logits(goal.states[-1][said.counted]).float()
            every = torch.ones_like(logits[None, :, 0], dtype=torch.bool)  # the tokens as frames of one utterance
            temperature = self.distillation.temperature
            terms["distil_output"] = frame_distillation(logits.float()[None], wanted[None], every, temperature)
        return terms

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the groups of the network and of distillation projections, and those of the pruner."""
        groups = weight_groups([self.model])
        projections = [one for one in (self.layer_distillation, self.decoder_distillation) if one is not None]
        if projections:
            groups += weight_groups(projections, weight_decay=0.0, prefix="distillation_")
        return groups + self.pruner_groups()
