"""The training loss of transducers and the distillation of a teacher's outputs, as sums over a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from pruning.limits import Natural, NonNegative, OneOf, OutOfRange, Range, check_fields
from pruning.speech.interfaces import TransducerNetwork
from pruning.speech.losses.ctc import ctc_loss
from pruning.speech.losses.pruned_range import BACKENDS, pad_tokens, pruned_range_loss


@dataclass(frozen=True)
class LossConfig:
    """How the pruned-range transducer loss and the CTC loss are combined."""

    prune_range: Annotated[int, Range(int, least=2)] = 5
    """Number of symbol positions kept for each frame."""
    am_scale: NonNegative = 0.0
    """Weight of the encoder-only part in the simple loss."""
    lm_scale: NonNegative = 0.25
    """Weight of the decoder-only part in the simple loss."""
    simple_loss_scale: NonNegative = 0.5
    """Weight of the simple loss after the warm-up."""
    warmup_steps: Natural = 0
    """Steps over which the weight of the simple loss falls from 1 and that of the pruned loss rises from 0.1 to 1: the
    ranges are meaningless until the simple loss has learned an alignment."""
    ctc_weight: NonNegative = 0.2
    """Weight of the CTC loss; 0 disables it."""
    backend: Annotated[str, OneOf(BACKENDS)] = "auto"
    """``k2``, ``torch``, or ``auto``: k2 if it is installed."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.am_scale + self.lm_scale > 1:  # the rest is the weight of the joint part
            raise OutOfRange(
                f"am_scale + lm_scale must be at most 1, got {self.am_scale + self.lm_scale:g}", "lower one of them"
            )

    def scales(self, step: int) -> tuple[float, float]:
        """Return the weights of the simple and the pruned loss at ``step``, counted from 0."""
        done = 1.0 if step >= self.warmup_steps else step / self.warmup_steps
        return 1.0 - done * (1.0 - self.simple_loss_scale), 0.1 + 0.9 * done


class RecognitionLoss(NamedTuple):
    """Sums over the counted utterances of a batch, and the tensors that output distillation uses."""

    total: Tensor
    """Scalar, differentiable."""
    simple: Tensor
    """Scalar."""
    pruned: Tensor
    """Scalar."""
    ctc: Tensor
    """Scalar; 0 without CTC."""
    frames: Tensor
    """Scalar int64: number of encoder frames of the counted utterances, to divide by."""
    counted: Tensor
    """(N,) bool: False if an utterance has more symbols than frames or no finite loss."""
    ranges: Tensor
    """(N, T, R) int64."""
    logits: Tensor
    """(N, T, R, V): logits of the joiner."""
    ctc_log_probs: Tensor | None
    """(N, T, V); None without CTC."""
    targets: Tensor
    """(N, U) int64, padded with 0."""
    target_lengths: Tensor
    """(N,) int64; 0 for utterances that are not counted."""


def recognition_loss(
    model: TransducerNetwork,
    encoder_out: Tensor,
    lengths: Tensor,
    tokens: list[list[int]],
    config: LossConfig,
    step: int,
) -> RecognitionLoss:
    """Return the transducer and CTC loss of a batch.

    Args:
        model: network whose decoder, joiner and heads are trained.
        encoder_out: (N, T, D).
        lengths: number of frames of each utterance, (N,).
        tokens: token ids of each utterance, without blank.
        config: weights and ranges.
        step: training step, counted from 0, for the warm-up.
    """
    targets, target_lengths = pad_tokens(tokens, encoder_out.device)
    transducer = pruned_range_loss(
        model,
        encoder_out,
        lengths,
        targets,
        target_lengths,
        config.prune_range,
        config.am_scale,
        config.lm_scale,
        config.backend,
    )
    simple_scale, pruned_scale = config.scales(step)
    total = simple_scale * transducer.simple + pruned_scale * transducer.pruned
    target_lengths = target_lengths.masked_fill(~transducer.counted, 0)
    log_probs, ctc = None, total.new_zeros(())
    if config.ctc_weight > 0.0:
        log_probs = model.ctc(encoder_out)
        kept = transducer.counted
        ctc = ctc_loss(log_probs[kept], lengths[kept], targets[kept], target_lengths[kept])
        total = total + config.ctc_weight * ctc
    return RecognitionLoss(
        total=total,
        simple=transducer.simple,
        pruned=transducer.pruned,
        ctc=ctc,
        frames=lengths.masked_fill(~transducer.counted, 0).sum(),
        counted=transducer.counted,
        ranges=transducer.ranges,
        logits=transducer.logits,
        ctc_log_probs=log_probs,
        targets=targets,
        target_lengths=target_lengths,
    )


def _collapse(logits: Tensor, symbols: Tensor, blank: int = 0) -> Tensor:
    """Return log-posteriors of {next symbol, blank, rest}, (..., 3), from logits (..., V) and symbols (..., 1)."""
    chosen = torch.cat((symbols, torch.full_like(symbols, blank)), dim=-1)
    rest = logits.scatter(-1, chosen, float("-inf")).logsumexp(dim=-1, keepdim=True)
    return torch.cat((logits.gather(-1, chosen), rest), dim=-1) - logits.logsumexp(dim=-1, keepdim=True)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student) over the last dimension of log-probabilities."""
    return (teacher.exp() * (teacher - student)).sum(dim=-1)


def transducer_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    ranges: Tensor,
    targets: Tensor,
    lengths: Tensor,
    target_lengths: Tensor,
    full: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """``temperature^2 KL(teacher || student)`` of the joiners' posteriors at the nodes of a pruned lattice.

    Posteriors are collapsed to {next symbol, blank, rest} (arXiv:2011.06110), or full, over the vocabulary. After the
    last symbol there is no next symbol, so the collapsed posterior is {blank, rest}. Both joiners must have been
    evaluated on the same ranges: the networks alone would choose different ones.

    Args:
        student_logits: (N, T, R, V).
        teacher_logits: (N, T, R, V), see :func:`pruning.speech.losses.pruned_range.joiner_logits`.
        ranges: (N, T, R) int64, ranges of either network.
        targets: (N, U) int64.
        lengths: number of frames of each utterance, (N,); 0 leaves it out.
        target_lengths: number of symbols of each utterance, (N,).
        full: whether to compare full posteriors.
        temperature: what logits are divided by, before they are collapsed.

    Returns:
        The sum over the lattice nodes inside the ranges and utterances, a scalar in float32.
    """
    student, teacher = student_logits.float() / temperature, teacher_logits.float() / temperature
    last = target_lengths.view(-1, 1, 1)
    if full:
        divergence = _divergence(student.log_softmax(dim=-1), teacher.log_softmax(dim=-1))
    else:
        divergence = _collapsed_divergence(student, teacher, ranges, targets, ranges >= last)
    frames = torch.arange(ranges.size(1), device=ranges.device).view(1, -1, 1)
    inside = (frames < lengths.view(-1, 1, 1)) & (ranges <= last)
    return temperature**2 * divergence.masked_fill(~inside, 0.0).sum()


def _collapsed_divergence(student: Tensor, teacher: Tensor, ranges: Tensor, targets: Tensor, ended: Tensor) -> Tensor:
    """Return KL(teacher || student) of collapsed posteriors at each node, (N, T, R).

    Args:
        student, teacher: logits, (N, T, R, V).
        ranges: (N, T, R) int64.
        targets: (N, U) int64.
        ended: (N, T, R) bool, True at nodes behind the last symbol.
    """
    following = torch.nn.functional.pad(targets, (0, 1)).unsqueeze(1).expand(-1, ranges.size(1), -1)
    # Blank stands in for the missing symbol: scattering it twice counts it once, and the copy is dropped below.
    symbols = following.gather(2, ranges.clamp(max=targets.size(1))).masked_fill(ended, 0).unsqueeze(3)
    ours, goal = _collapse(student, symbols), _collapse(teacher, symbols)
    copies = torch.zeros_like(ours, dtype=torch.bool)
    copies[..., 0] = ended
    return _divergence(ours.masked_fill(copies, 0.0), goal.masked_fill(copies, 0.0))
