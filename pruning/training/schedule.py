"""Learning-rate schedules as functions of the step, without state: a resumed run needs only its position.

Each function returns a factor for the peak learning rate of a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Optional

from pruning.errors import UserError
from pruning.limits import Natural, NonNegative, Positive, check_fields


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning-rate schedule.

    Attributes:
        type: "constant", "noam", "linear", "cosine" or "eden"; each starts with a linear warm-up.
        warmup_steps: number of optimiser steps until the peak.
        final_scale: "linear" and "cosine": final learning rate as a fraction of the peak.
        eden_steps: "eden": number of steps after which the learning rate falls noticeably.
        eden_epochs: "eden": number of epochs after which the learning rate falls noticeably.
        eden_warmup_start: "eden": factor at step 0.
    """

    type: Literal["constant", "noam", "linear", "cosine", "eden"] = "constant"
    warmup_steps: Natural = 0
    final_scale: NonNegative = 0.0
    eden_steps: Positive = 5000.0
    eden_epochs: Positive = 6.0
    eden_warmup_start: NonNegative = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self, total_steps: Optional[int]) -> None:
        """Refuse a schedule that needs a known end if there is none.

        Raises:
            UserError: the schedule decays towards the end of training, which is unknown.
        """
        if self.type in ("linear", "cosine") and total_steps is None:
            raise UserError(f"the {self.type} schedule needs the number of training steps", "set max_steps")


def learning_rate_scale(config: ScheduleConfig, step: int, epoch: int, total_steps: Optional[int]) -> float:
    """Return the factor for the peak learning rate.

    Args:
        config: the schedule.
        step: number of optimiser steps so far, from 0.
        epoch: current epoch, from 1.
        total_steps: number of optimiser steps of the whole run; "linear" and "cosine" need it.

    noam (Vaswani et al. 2017), scaled to a peak of 1: ``min(s/w, sqrt(w/s))`` with s = step + 1, w = warmup_steps; the
    original ``k d^-0.5 min(s^-0.5, s w^-1.5)`` is this with the peak learning rate ``k (d w)^-0.5``.
    eden (icefall): ``(1 + (s/S)^2)^-0.25 (1 + (e/E)^2)^-0.25`` with e the epochs completed.
    """
    if config.type == "eden":
        return _eden(config, step, epoch)
    warmup = config.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if config.type == "noam":
        return math.sqrt(max(warmup, 1) / (step + 1))
    if config.type == "constant":
        return 1.0
    assert total_steps is not None, "ScheduleConfig.check was not called"
    done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    left = 1.0 - done if config.type == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return config.final_scale + (1.0 - config.final_scale) * left


def _eden(config: ScheduleConfig, step: int, epoch: int) -> float:
    by_step = (1.0 + (step / config.eden_steps) ** 2) ** -0.25
    by_epoch = (1.0 + ((epoch - 1) / config.eden_epochs) ** 2) ** -0.25
    start = config.eden_warmup_start
    warmup = start + (1.0 - start) * step / config.warmup_steps if step < config.warmup_steps else 1.0
    return by_step * by_epoch * warmup
