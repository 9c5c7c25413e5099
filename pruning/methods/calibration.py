"""Score the units of a network on some batches, before it is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pruning.errors import UserError
from pruning.methods.base import Scorer
from pruning.training.seeding import seed_everything
from pruning.training.task import StepInfo, Task


def score_batches(task: Task, scorer: Scorer, batches: Iterable[Any], seed: int) -> None:
    """Let a scorer observe the gradients of batches, without dropout; no weight changes.

    Args:
        task: task of the dense network with ``scorer`` as its pruner, on the device on which to compute.
        scorer: the pruner that scores.
        batches: training batches, on the same device, the same in every process.
        seed: seed of augmentation.

    Raises:
        UserError: there are no batches.
    """
    task.eval()
    count = 0
    for count, batch in enumerate(batches, start=1):
        step = StepInfo(1, count - 1, 0, 1)
        seed_everything(seed, 1, count - 1)
        task.zero_grad(set_to_none=True)
        loss, _ = task(batch, step)
        loss.backward()
        scorer.after_backward(step, {})
    task.zero_grad(set_to_none=True)
    if not count:
        raise UserError("there are no training batches to score units on", "check the training data and their filters")
