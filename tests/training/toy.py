"""A fast task to test the training loop; also a program, ``python -m tests.training.toy EXP_DIR``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor, nn

from pruning import configuration
from pruning.training import distributed
from pruning.training.schedule import ScheduleConfig
from pruning.training.seeding import seed_everything
from pruning.training.task import ParameterGroup, StepInfo, Task, weight_groups
from pruning.training.trainer import Trainer
from pruning.training.trainer_config import TrainerConfig

FEATURES = 4
HEADER = {"model": {"type": "toy", "hidden": 8}}
CONFIG = TrainerConfig(
    num_epochs=3,
    average_period=2,
    log_interval=2,
    save_interval=5,
    valid_interval=6,
    state_interval=4,
    state_interval_seconds=0,
    tensorboard=False,
    num_threads=1,
    schedule=ScheduleConfig("cosine", warmup_steps=3),
    device="cpu",
)
STEPS_PER_EPOCH = 7


@dataclass(frozen=True)
class ToyBatch:
    """Inputs ``(N, 4)`` and targets ``(N, 1)``."""

    inputs: Tensor
    targets: Tensor
    seconds: float = 2.0

    def to(self, device: torch.device) -> ToyBatch:
        return ToyBatch(self.inputs.to(device), self.targets.to(device), self.seconds)


def build(description: Mapping[str, Any]) -> nn.Module:
    hidden = description["hidden"]
    return nn.Sequential(nn.Linear(FEATURES, hidden), nn.BatchNorm1d(hidden), nn.Dropout(0.2), nn.Linear(hidden, 1))


class ToyTask(Task):
    """Regression with dropout and batch norm, and a multiplier that keeps the mean output at 1."""

    def __init__(self, model: Optional[nn.Module] = None) -> None:
        super().__init__()
        self.model = build(HEADER["model"]) if model is None else model
        self.multiplier = nn.Parameter(torch.zeros(()))
        self.steps_seen = 0

    def forward(self, batch: ToyBatch, step: StepInfo) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.model(batch.inputs)
        error = (output - batch.targets).square().mean()
        excess = output.mean() - 1.0
        return error + self.multiplier * excess, {"error": error.detach(), "weight": torch.tensor(len(output))}

    def parameter_groups(self) -> list[ParameterGroup]:
        multiplier = ParameterGroup("multiplier", (self.multiplier,), 1e-2, 0.0, True, False, "constant")
        return [*weight_groups([self.model]), multiplier]

    def log_values(self, step: StepInfo) -> dict[str, float]:
        return {"multiplier": self.multiplier.item(), "seen": float(self.steps_seen)}

    def after_step(self, step: StepInfo) -> None:
        self.steps_seen += 1

    def python_state(self) -> dict[str, Any]:
        return {"steps_seen": self.steps_seen}

    def load_python_state(self, state: Mapping[str, Any]) -> None:
        self.steps_seen = state["steps_seen"]


def batch_of(seed: int, size: int = 8) -> ToyBatch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, FEATURES, generator=generator)
    return ToyBatch(inputs, inputs.sum(1, keepdim=True))


def batches(epoch: int, skip: int, count: int = 7, delay: float = 0.0) -> Iterator[ToyBatch]:
    for index in range(skip, count):
        time.sleep(delay)
        yield batch_of(1000 * epoch + index)


def development(rank: int = 0, size: int = 1, count: int = 2) -> Iterator[ToyBatch]:
    return (batch_of(10**6 + index) for index in range(rank, count, size))


def toy_task(seed: int = 3) -> ToyTask:
    seed_everything(seed)
    return ToyTask()


def make(exp_dir: Path, config: TrainerConfig = CONFIG, task: Optional[ToyTask] = None, **options: Any) -> Trainer:
    given_options: dict[str, Any] = {
        "train_batches": batches,
        "dev_batches": development,
        "header": HEADER,
        "steps_per_epoch": STEPS_PER_EPOCH,
        **options,
    }
    return Trainer(config, task=task or toy_task(), exp_dir=exp_dir, **given_options)


class Crash(Exception):
    """Raised to end a run at a chosen step."""


def crashing(at: int) -> Any:
    """Return the usual batches, but raise `Crash` after ``at`` batches of the run."""

    def train_batches(epoch: int, skip: int) -> Iterator[ToyBatch]:
        for index, batch in enumerate(batches(epoch, skip), start=skip):
            if (epoch - 1) * STEPS_PER_EPOCH + index == at:
                raise Crash
            yield batch

    return train_batches


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("exp_dir", type=Path)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds per batch")
    parser.add_argument("--hurry", type=Path, help="no more delays once this file is there")
    parser.add_argument("--batches", type=int, default=7, help="per epoch and process")
    parser.add_argument("--dev-batches", type=int, default=2, help="of all processes")
    parser.add_argument("--plain", action="store_true", help="a linear model without dropout and batch norm")
    args = parser.parse_args()
    config = configuration.load(TrainerConfig, None, args.settings)
    world = distributed.initialise(config.device)
    task = toy_task()
    if args.plain:
        seed_everything(3)
        task = ToyTask(nn.Linear(FEATURES, 1))

    def train_batches(epoch: int, skip: int) -> Iterator[ToyBatch]:
        for index in range(skip, args.batches):
            until = time.monotonic() + args.delay
            while (left := until - time.monotonic()) > 0 and (args.hurry is None or not args.hurry.exists()):
                time.sleep(min(left, 0.05))
            # consecutive batches go to consecutive processes
            yield batch_of(1000 * epoch + index * world.size + world.rank)

    dev_batches = partial(development, world.rank, world.size, args.dev_batches)
    trainer = Trainer(
        config,
        task=task,
        train_batches=train_batches,
        dev_batches=dev_batches,
        exp_dir=args.exp_dir,
        header=HEADER,
        world=world,
    )
    trainer.run()
    if world.size > 1:
        torch.save(task.state_dict(), args.exp_dir / f"rank-{world.rank}.pt")
        distributed.shutdown()


if __name__ == "__main__":
    from pruning.bin import command

    command.run(lambda argv: main())
