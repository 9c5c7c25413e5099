"""Distillation from the teacher: between layers and between frame-wise outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Optional

import torch
from torch import Tensor, nn

from pruning.core.precision import at_least_float32
from pruning.core.residual_width import kept_channels
from pruning.core.structure import Structure
from pruning.limits import Natural, NonNegative, OneOf, Positive, check_fields

LOSSES = ("dphubert", "cofi")


@dataclass(frozen=True)
class DistillationConfig:
    """Distillation losses that are added to the loss of the task.

    Attributes:
        layers: teacher layers to distil from; 0 is the subsampled input, i the output of block i. Empty: none.
        loss: ``dphubert`` (L1 minus cosine between layers of the same index) or ``cofi`` (mean-square error with each
            teacher layer matched to the nearest student layer that still exists).
        ordered: for ``cofi``, whether the matches must not go back: the student layer of a later teacher layer is not
            before that of an earlier one.
        layer_weight: weight of the layerwise loss.
        output_weight: weight of the distillation of the transducer's outputs.
        ctc_weight: weight of the KL divergence between the CTC heads.
        temperature: temperature of the KL divergence between the CTC heads.
    """

    layers: tuple[Natural, ...] = ()
    loss: Annotated[str, OneOf(LOSSES)] = "dphubert"
    ordered: bool = True
    layer_weight: NonNegative = 1.0
    output_weight: NonNegative = 0.0
    ctc_weight: NonNegative = 0.0
    temperature: Positive = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        check_fields(self)
        if self.loss == "cofi" and self.ordered and list(self.layers) != sorted(self.layers):
            raise ValueError("distillation.layers must be in ascending order if distillation.ordered is set")

    @property
    def wanted(self) -> bool:
        """Whether any distillation loss is used, so that a teacher is needed."""
        return bool(self.layers and self.layer_weight) or self.output_weight > 0 or self.ctc_weight > 0


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
        count = len(config.layers) if config.loss == "dphubert" else min(len(config.layers), 1)
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
        """Return the mean loss over the chosen layers, a scalar, in at least float32 even under autocast.

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
            if self.config.loss == "dphubert":
                return self._layer_by_layer(student, teacher, mask)
            return self._matched(student, teacher, mask, [True] * len(student) if exists is None else exists)

    def _layer_by_layer(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Return DPHuBERT's loss: each chosen layer against the teacher layer of the same index."""
        losses = [
            dphubert_loss(projection(student[layer]), teacher[layer], mask)
            for layer, projection in zip(self.config.layers, self.projections)
        ]
        return torch.stack(losses).mean()

    def _matched(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, exists: Sequence[bool]
    ) -> Tensor:
        """Return CoFi's loss: each chosen layer of the teacher against the nearest layer of the student.

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
        losses = [_square_error(projections[match], goal, mask) for match, goal in zip(matches, goals)]
        return torch.stack(losses).mean()


def _square_error(projected: Tensor, goal: Tensor, mask: Tensor) -> Tensor:
    """Return the mean-square error between ``projected`` and ``goal``, both ``(N, T, D)``, over valid frames."""
    return masked_mean(((projected - goal) ** 2).mean(dim=-1), mask)


def frame_distillation(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``temperature^2 KL(teacher || student)`` of frame-wise logits ``(N, T, V)``, mean over valid frames."""
    log_s = (student / temperature).log_softmax(dim=-1)
    log_t = (teacher / temperature).log_softmax(dim=-1)
    return temperature**2 * masked_mean((log_t.exp() * (log_t - log_s)).sum(dim=-1), mask)
