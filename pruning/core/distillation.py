"""Distillation from the teacher: between layers and between frame-wise outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple, Optional

import torch
from torch import Tensor, nn

from pruning.core.precision import at_least_float32
from pruning.core.residual_width import kept_channels
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.limits import Natural, NonNegative, OneOf, Positive, Share, check_ascending, check_fields

STANDARDISED, NORMED, DPHUBERT, COFI = LOSSES = ("standardised", "normed", "dphubert", "cofi")
BOUNDS = ("student", "teacher")
COLLAPSED, FULL = FORMS = ("collapsed", "full")
FRAME, NODE = PER = ("frame", "node")
LARGEST = 5
"""Number of channels whose share of the layerwise distance is reported."""
FLOOR = 1e-2
"""Least deviation of a channel, as a share of its root mean square: a constant channel would get an infinite weight."""


@dataclass(frozen=True)
class DistillationConfig:
    """Distillation losses that are added to the loss of the task.

    Attributes:
        layers: teacher layers to distil from; 0 is the subsampled input, i the output of block i. Empty: none.
        spread: instead of ``layers``, the number of layers, from 0 to the last at equal distances; 0: as in ``layers``.
        loss: how layers are compared. Three forms compare layers of the same index by L1 minus cosine (DPHuBERT's
            formula): ``standardised``, in which each channel is divided by the teacher's deviation over frames, so that
            neither a layer of large values nor a few channels of large values decide; ``normed``, in which each frame
            is normalised over its channels, like the input of a module with pre-norm; ``dphubert``, the published form
            on raw values. ``cofi`` is the mean-square error of raw values, with each teacher layer matched to the
            nearest student layer that still exists.
        ordered: for ``cofi``, whether the matches must not go back: the student layer of a later teacher layer is not
            before that of an earlier one.
        layer_weight: weight of the layerwise loss.
        layer_fade: shares of the run's steps between which the weight of the layerwise loss falls linearly to 0;
            ``[1, 1]``: it stays.
        output_weight: weight of the distillation of the outputs: a transducer's, or those of a head.
        output_per: what the divergence of a transducer's outputs is divided by: ``frame``: frames, as the transducer
            loss is; ``node``: lattice nodes, that is frames x ``loss.prune_range``, which makes it as much smaller.
        output_bounds: whose simple loss determines the ranges of the lattice on which a transducer's outputs are
            compared.
        output_form: which posteriors of a transducer are compared: ``collapsed`` to {next symbol, blank, all else}, or
            ``full``, over the vocabulary.
        output_temperature: temperature of the posteriors of a transducer.
        ctc_weight: weight of the KL divergence between the CTC heads.
        temperature: temperature of the KL divergence between the CTC heads of transducers, or between heads.
    """

    layers: tuple[Natural, ...] = ()
    spread: Natural = 0
    loss: Annotated[str, OneOf(LOSSES)] = STANDARDISED
    ordered: bool = True
    layer_weight: NonNegative = 1.0
    layer_fade: tuple[Share, Share] = (1.0, 1.0)
    output_weight: NonNegative = 0.0
    output_per: Annotated[str, OneOf(PER)] = NODE
    output_bounds: Annotated[str, OneOf(BOUNDS)] = "student"
    output_form: Annotated[str, OneOf(FORMS)] = COLLAPSED
    output_temperature: Positive = 1.0
    ctc_weight: NonNegative = 0.0
    temperature: Positive = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "layer_fade", tuple(self.layer_fade))
        check_fields(self)
        if len(self.layer_fade) != 2:
            raise ValueError("distillation.layer_fade must be two shares of the run, such as [0.5, 0.8]")
        check_ascending("distillation.layer_fade", self.layer_fade)
        if self.spread and (self.layers or self.spread == 1):
            raise ValueError("distillation.spread must be at least 2, without distillation.layers")
        if self.loss == COFI and self.ordered and list(self.layers) != sorted(self.layers):
            raise ValueError("distillation.layers must be in ascending order if distillation.ordered is set")

    def layer_weight_at(self, step: int, total_steps: Optional[int]) -> float:
        """Return the weight of the layerwise loss at ``step`` (from 0) of a run.

        Raises:
            UserError: the weight fades, but the number of steps of the run is not known.
        """
        start, end = self.layer_fade
        if start == 1:
            return self.layer_weight
        if total_steps is None:
            raise UserError("distillation.layer_fade needs the number of steps of the run", "set trainer.max_steps")
        done = step / max(total_steps, 1)
        if done <= start:
            return self.layer_weight
        return self.layer_weight * (end - done) / (end - start) if done < end else 0.0

    def check_frame_wise(self) -> None:
        """Check that only layers, and outputs that are compared frame by frame, are distilled.

        Raises:
            ValueError: a setting is only for transducers.
        """
        if self.ctc_weight or self.loss == COFI:
            raise ValueError("distillation.ctc_weight and distillation.loss=cofi are only for transducers")
        for key in ("output_per", "output_bounds", "output_form", "output_temperature"):
            if getattr(self, key) != getattr(DistillationConfig, key):
                raise ValueError(f"distillation.{key} is only for transducers")

    def of_depth(self, depth: int) -> DistillationConfig:
        """Return the configuration for a teacher of ``depth`` blocks, with ``layers`` instead of ``spread``."""
        if not self.spread:
            return self
        layers = sorted({round(depth * index / (self.spread - 1)) for index in range(self.spread)})
        return replace(self, layers=tuple(layers), spread=0)

    def check_student(self, depth: int, called: str = "student") -> None:
        """Check that a student has the layers; ``cofi`` needs no equal ones.

        Args:
            depth: number of its blocks.
            called: what has them, for the message.

        Raises:
            UserError: a layer does not exist.
        """
        last = max(self.layers, default=0)
        if self.loss != COFI and last > depth:
            what = f"distillation compares layer {last} of the {called} with the teacher's, but it has only {depth}"
            raise UserError(what, "set distillation.layers to layers that both have, without distillation.spread")

    @property
    def wanted(self) -> bool:
        """Whether any distillation loss is used, so that a teacher is needed."""
        return bool((self.layers or self.spread) and self.layer_weight) or self.output_weight > 0 or self.ctc_weight > 0


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """Return a mask ``(N, frames)`` bool that is True on valid frames."""
    return torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``values (N, T)`` where ``mask (N, T)`` is True, or 0 if it is True nowhere."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def dphubert_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return ``mean |h_S - h_T| - cos(h_S, h_T)`` over valid frames (DPHuBERT, arXiv 2305.17651, eq. 1, raw cosine).

    Args:
        student, teacher: layer outputs, ``(N, T, D)``.
        mask: ``(N, T)``, True on valid frames.
    """
    distance = (student - teacher).abs().mean(dim=-1)
    cosine = nn.functional.cosine_similarity(student, teacher, dim=-1)
    return masked_mean(distance - cosine, mask)


def standardised(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return both layers with each channel shifted and divided by the *teacher's* mean and deviation over valid frames.

    The result does not change if a channel of both is multiplied by a constant. A deviation is at least `FLOOR` of the
    channel's root mean square. Channels that are 0 in the teacher (padded, or dead: a root mean square within rounding
    of 0 beside that of the largest channel) have no scale and do not count: they are 0 in both results.

    Args:
        student, teacher: layer outputs, ``(N, T, D)``.
        mask: ``(N, T)``, True on valid frames.
    """
    count, padding = mask.sum().clamp(min=1), ~mask[:, :, None]
    mean = teacher.masked_fill(padding, 0.0).sum(dim=(0, 1)) / count  # (D,)
    variance = (teacher - mean).masked_fill(padding, 0.0).square().sum(dim=(0, 1)) / count
    size = (variance + mean.square()).sqrt()
    deviation = torch.maximum(variance.sqrt(), FLOOR * size)
    deviation = deviation.masked_fill(size <= torch.finfo(size.dtype).eps * size.max(), float("inf"))
    return (student - mean) / deviation, (teacher - mean) / deviation


def normed(layer: Tensor) -> Tensor:
    """Return ``(N, T, D)`` with mean 0 and variance 1 over the channels of each frame: a layer norm without weights."""
    return nn.functional.layer_norm(layer, layer.shape[-1:])


def largest_share(distances: Tensor, mask: Tensor) -> Tensor:
    """Return the share of the `LARGEST` channels with the largest sums in the sum of ``distances``, a scalar.

    Args:
        distances: ``(N, T, D)``, at least 0.
        mask: ``(N, T)``, True on valid frames.
    """
    sums = distances.detach().masked_fill(~mask[:, :, None], 0.0).sum(dim=(0, 1))  # (D,)
    return sums.topk(min(LARGEST, len(sums))).values.sum() / sums.sum().clamp(min=torch.finfo(sums.dtype).tiny)


def match_layers(errors: Tensor, candidates: Sequence[Sequence[bool]], ordered: bool) -> list[int]:
    """Match each teacher layer to the nearest student layer (CoFi, arXiv 2204.00408, eq. 5).

    Args:
        errors: mean-square errors, ``(teacher layers, student layers)``.
        candidates: whether a student layer may be matched, ``(teacher layers, student layers)``.
        ordered: whether each row considers only student layers at or after the match of the previous row.

    Returns:
        One student index per row.
    """
    open_errors = errors.detach().masked_fill(~torch.tensor(candidates, device=errors.device), float("inf"))
    matches: list[int] = []
    for row in open_errors:
        if ordered and matches:
            row = row.clone()
            row[: matches[-1]] = float("inf")
        matches.append(int(row.argmin()))
    return matches


class LayerDistances(NamedTuple):
    """Result of `LayerDistillation.distances`, scalars: means over the chosen layers."""

    loss: Tensor
    """The loss, differentiable."""
    largest: Tensor
    """Share of the `LARGEST` channels of each layer in the distance that the loss measures there."""


class LayerDistillation(nn.Module):
    """Layerwise distillation through trained projections that are initialised to the identity.

    Args:
        config: see `DistillationConfig`.
        student_dim, teacher_dim: dimension of a layer's output. If they differ, the projections start as a truncated
            identity; see `select`.
    """

    def __init__(self, config: DistillationConfig, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.config = config
        count = len(config.layers) if config.loss != COFI else min(len(config.layers), 1)
        self.projections = nn.ModuleList(nn.Linear(student_dim, teacher_dim) for _ in range(count))
        for projection in self.projections:
            nn.init.eye_(projection.weight)  # type: ignore[arg-type]
            nn.init.zeros_(projection.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def select(self, structure: Structure) -> None:
        """Start the projections as the selection of the channels that a narrower student kept of the teacher.

        Args:
            structure: the structure that was cut out of the teacher; one without its residual width changes nothing.
        """
        for projection in self.projections:
            weight = projection.get_parameter("weight")  # (teacher_dim, student_dim)
            kept = kept_channels(structure, weight.shape[1], weight.shape[0])
            if kept is not None:
                weight.zero_()
                weight[kept, range(len(kept))] = 1

    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        lengths: Tensor,
        exists: Optional[Sequence[bool]] = None,
    ) -> Tensor:
        """Return the loss alone, see `distances`."""
        return self.distances(student, teacher, lengths, exists).loss

    def distances(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        lengths: Tensor,
        exists: Optional[Sequence[bool]] = None,
    ) -> LayerDistances:
        """Compare the chosen layers, in at least float32 even under autocast.

        Args:
            student, teacher: outputs of the layers, each ``(N, T, D)``; entry 0 is the input of the first block.
            lengths: ``(N,)`` valid frames.
            exists: whether each layer of ``student`` still exists (for CoFi's matching); None: all do. Entry 0 always
                exists, but is matched to a block of the teacher only if the student has no block left.
        """
        mask = frame_mask(lengths, student[0].shape[1])
        with torch.autocast(mask.device.type, enabled=False):
            student = [at_least_float32(layer) for layer in student]
            teacher = [at_least_float32(layer) for layer in teacher]
            if self.config.loss != COFI:
                return self._layer_by_layer(student, teacher, mask)
            return self._matched(student, teacher, mask, [True] * len(student) if exists is None else exists)

    def _layer_by_layer(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> LayerDistances:
        """Compare each chosen layer with the teacher layer of the same index by DPHuBERT's formula."""
        losses, largest = [], []
        for layer, projection in zip(self.config.layers, self.projections):
            ours, goal = self._scaled(projection(student[layer]), teacher[layer], mask)
            losses.append(dphubert_loss(ours, goal, mask))
            with torch.no_grad():
                largest.append(largest_share((ours - goal).abs(), mask))
        return LayerDistances(torch.stack(losses).mean(), torch.stack(largest).mean())

    def _scaled(self, projected: Tensor, goal: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return both layers on the scale on which they are compared."""
        if self.config.loss == STANDARDISED:
            return standardised(projected, goal, mask)
        return (normed(projected), normed(goal)) if self.config.loss == NORMED else (projected, goal)

    def _matched(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, exists: Sequence[bool]
    ) -> LayerDistances:
        """Compare by CoFi's loss: each chosen layer of the teacher against the nearest layer of the student.

        All pairs are compared without gradient: storing them for the backward pass would take many times the memory of
        the activations.
        """
        goals = [teacher[layer] for layer in self.config.layers]
        with torch.no_grad():
            columns = []
            for layer in student:
                projected = self.projections[0](layer)
                columns.append(torch.stack([_square_error(projected, goal, mask) for goal in goals]))
            errors = torch.stack(columns, dim=1)  # (L, S)
        blocks = list(exists[1:])
        candidates = [[layer == 0 or not any(blocks), *blocks] for layer in self.config.layers]
        matches = match_layers(errors, candidates, self.config.ordered)
        projections = {match: self.projections[0](student[match]) for match in sorted(set(matches))}
        pairs = [(projections[match], goal) for match, goal in zip(matches, goals)]
        losses = [_square_error(ours, goal, mask) for ours, goal in pairs]
        with torch.no_grad():
            largest = [largest_share((ours - goal) ** 2, mask) for ours, goal in pairs]
        return LayerDistances(torch.stack(losses).mean(), torch.stack(largest).mean())


def _square_error(projected: Tensor, goal: Tensor, mask: Tensor) -> Tensor:
    """Return the mean-square error between ``projected`` and ``goal``, both ``(N, T, D)``, over valid frames."""
    return masked_mean(((projected - goal) ** 2).mean(dim=-1), mask)


def frame_distillation(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``temperature^2 KL(teacher || student)`` of frame-wise logits ``(N, T, V)``, mean over valid frames."""
    log_s = (student / temperature).log_softmax(dim=-1)
    log_t = (teacher / temperature).log_softmax(dim=-1)
    return temperature**2 * masked_mean((log_t.exp() * (log_t - log_s)).sum(dim=-1), mask)
