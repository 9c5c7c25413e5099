"""Settings of the training loop."""

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
    """Settings of the training loop.

    At least one of ``num_epochs`` and ``max_steps`` is required; the run ends at the first one reached.

    Attributes:
        seed: seed of all randomness in a step.
        num_epochs: number of passes over the training data.
        max_steps: number of optimiser steps.
        optimiser: optimiser settings, see :class:`OptimiserConfig`.
        schedule: learning-rate schedule, see :class:`ScheduleConfig`.
        accumulate: number of batches per optimiser step and process; their gradients are averaged.
        amp: autocast of the forward pass: "none", "bf16" or "fp16".
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        num_threads: number of torch's threads on the CPU, at most one for each processor that the process may use (a
            scheduler may allow fewer than the machine has); None: torch's default. If other processes use the same
            processors, several threads are slower than one, because they wait for each other in a loop. On idle
            processors, two threads are 1.2 to 2 times as fast as one for small networks; two runs with one thread each
            make 1.1 to 1.8 times as many steps together (egs/librispeech/results/processor.md).
        find_unused_parameters: option of DistributedDataParallel, for parameters that take no part in some losses.
        average_period: number of steps between updates of the running average; 0: no running average.
        valid_interval: number of steps between validations, in addition to those at the ends of epochs; 0: none.
        save_interval: number of steps between ``batch-N`` checkpoints; 0: none.
        keep_last_k: number of ``batch-N`` checkpoints to keep; 0: all. Those of epochs are all kept, for ``--avg``.
        state_interval: number of steps between training states, in addition to those at the ends of epochs; 0: only
            ``state_interval_seconds`` applies.
        state_interval_seconds: seconds between training states; 0: only ``state_interval`` applies.
        log_interval: number of steps between log lines.
        max_skipped_steps: stop after this number of steps in a row whose gradient was not finite.
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
        """Refuse settings that cannot be used.

        Raises:
            UserError: the end of training is not set, or the device does not support the precision.
        """
        if self.num_epochs is None and self.max_steps is None:
            raise UserError("neither num_epochs nor max_steps is set", "set at least one of them")
        if self.amp == "fp16" and device.type != "cuda":
            raise UserError("amp=fp16 needs a GPU", "use amp=none or amp=bf16")
        if self.amp == "bf16" and not compat.supports_bf16(device):
            raise UserError("this GPU does not support bf16", "use amp=fp16 or amp=none")

    def total_steps(self, batches_per_epoch: Optional[int]) -> Optional[int]:
        """Return the number of optimiser steps of the whole run, from ``max_steps`` and the batches of an epoch.

        None if unknown.
        """
        ends = [self.max_steps] if self.max_steps is not None else []
        if batches_per_epoch is not None and self.num_epochs is not None:
            ends.append(self.num_epochs * math.ceil(batches_per_epoch / self.accumulate))
        return min(ends) if ends else None
