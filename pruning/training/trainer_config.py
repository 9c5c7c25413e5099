"""The settings of the training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Optional

import torch

from pruning import compat
from pruning.errors import UserError
from pruning.limits import Count, Natural, NonNegative, Seed, check_fields
from pruning.training.optimiser import OptimiserConfig
from pruning.training.schedule import ScheduleConfig


@dataclass(frozen=True)
class TrainerConfig:
    """The training loop. At least one of ``num_epochs`` and ``max_steps`` is needed; the first reached ends the run.

    Attributes:
        seed: of everything random in a step.
        num_epochs: passes over the training data.
        max_steps: optimiser steps.
        optimiser: see :class:`OptimiserConfig`.
        schedule: of the learning rate, see :class:`ScheduleConfig`.
        accumulate: batches per optimiser step and process; their gradients are averaged.
        amp: "none", "bf16" or "fp16" autocast of the forward pass.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        num_threads: of torch on the CPU; None leaves torch's choice. Where other processes want the processors too,
            several threads are slower than one, because they wait for each other in a loop. On idle processors two are
            1.2 to 2 times as fast as one for small networks; two runs of one thread make 1.1 to 1.8 times as many steps
            together (egs/librispeech/results/processor.md).
        find_unused_parameters: for DistributedDataParallel, when some parameters take no part in some losses.
        average_period: steps between updates of the running average; 0 keeps none.
        valid_interval: steps between validations beside those at the ends of epochs; 0 for none.
        save_interval: steps between ``batch-N`` checkpoints; 0 for none.
        keep_last_k: how many ``batch-N`` checkpoints are kept; 0 keeps all.
        state_interval: steps between states beside those at the ends of epochs; 0 leaves it to the seconds.
        state_interval_seconds: seconds between states; 0 leaves it to the steps.
        log_interval: steps between log lines.
        max_skipped_steps: stop after so many steps in a row whose gradient was not finite.
        tensorboard: whether to write tensorboard files.
    """

    seed: Seed = 1
    num_epochs: Optional[Count] = None
    max_steps: Optional[Count] = None
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    accumulate: Count = 1
    amp: Literal["none", "bf16", "fp16"] = "none"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: Optional[Count] = 1
    find_unused_parameters: bool = False
    average_period: Natural = 100
    valid_interval: Natural = 0
    save_interval: Natural = 0
    keep_last_k: Natural = 2
    state_interval: Natural = 0
    state_interval_seconds: NonNegative = 600.0
    log_interval: Count = 50
    max_skipped_steps: Count = 30
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self, device: torch.device) -> None:
        """Refuse settings that cannot be followed.

        Raises:
            UserError: there is no end, or the device does not have the precision.
        """
        if self.num_epochs is None and self.max_steps is None:
            raise UserError("training has no end", "set num_epochs or max_steps")
        if self.amp == "fp16" and device.type != "cuda":
            raise UserError("amp=fp16 needs a GPU", "use amp=none or amp=bf16")
        if self.amp == "bf16" and not compat.supports_bf16(device):
            raise UserError("this GPU has no bf16", "use amp=fp16 or amp=none")

    def total_steps(self, batches_per_epoch: Optional[int]) -> Optional[int]:
        """Optimiser steps of the whole run, as far as known: from ``max_steps`` and the batches of an epoch."""
        ends = [self.max_steps] if self.max_steps is not None else []
        if batches_per_epoch is not None and self.num_epochs is not None:
            ends.append(self.num_epochs * math.ceil(batches_per_epoch / self.accumulate))
        return min(ends) if ends else None
