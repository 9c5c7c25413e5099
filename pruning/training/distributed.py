"""Training with several processes under torchrun: this process's rank, and the collective operations of the trainer.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without them there is one process and nothing is initialised.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pruning.errors import UserError


@dataclass(frozen=True)
class World:
    """The processes of a training, as seen from this one.

    Attributes:
        rank: rank of this process over all machines, from 0. Rank 0 writes the files.
        size: number of processes.
        device: device that this process computes on.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def take(self, batch: Any) -> Any:
        """Return the batch on this process's device."""
        return batch.to(self.device) if hasattr(batch, "to") else batch

    def barrier(self) -> None:
        """Wait until every process calls this."""
        if self.size > 1:
            dist.barrier()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over the processes, in float64; all processes must call this with equally many values."""
        if self.size == 1 or not values:
            return list(values)
        # float64 on GPUs too: frame counts of a long epoch exceed the integers that float32 represents exactly
        tensor = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Return ``value`` of each process, by rank (any object that can be pickled); all processes must call this."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is set in any process; all processes must call this."""
        return self.sum([float(flag)])[0] > 0.0

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Copy rank 0's buffers to every process (batch-norm statistics differ between processes during training)."""
        take_from_main(module.buffers())

    def wrap(self, task: nn.Module, find_unused_parameters: bool = False) -> nn.Module:
        """Return the module that the training step calls: the task, or DistributedDataParallel around it."""
        if self.size == 1:
            return task
        # Unless it looks for unused parameters, DDP changes the layout of gradients after its first step; sums of three
        # or more processes would then depend on where a run was interrupted.
        fixed = find_unused_parameters or (self.device.type == "cpu" and self.size > 2)
        # without device_ids, DDP does not move batches; the trainer has moved them already
        return nn.parallel.DistributedDataParallel(task, find_unused_parameters=fixed)


def initialise(device: str = "auto") -> World:
    """Join the processes that torchrun started, or be the only process. May be called more than once.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda"; with GPUs, process LOCAL_RANK takes GPU LOCAL_RANK.

    Raises:
        UserError: CUDA is requested but not available, there are more processes than GPUs, or the environment variables
            of torchrun are incomplete.
    """
    rank, size = _integer("RANK", 0), _integer("WORLD_SIZE", 1)
    place = _device(device, _integer("LOCAL_RANK", rank))
    if size > 1 and not dist.is_initialized():
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UserError(f"WORLD_SIZE is {size} but {missing[0]} is not set", "start the processes with torchrun")
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    return World(rank, size, place)


def summed(tensor: Tensor) -> Tensor:
    """Return the sum of ``tensor`` over the processes, on the CPU; all processes must call this."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tensor.cpu()
    place = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    result = tensor.to(place, copy=True)
    dist.all_reduce(result)
    return result.cpu()


@torch.no_grad()
def take_from_main(tensors: Iterable[Tensor]) -> None:
    """Copy rank 0's values to every process, in place; all processes must call this with equally many tensors.

    For values that each process computes itself and that must be equal: different processors round differently, and
    choose different signs of singular vectors.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device '{name}'", "give auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("device 'cuda' is not available: torch finds no GPU", "use device=cpu or a machine with a GPU")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} has no GPU: torch finds {torch.cuda.device_count()}",
            "start at most one process per GPU",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _integer(name: str, default: int) -> int:
    value = os.environ.get(name)
    if value is None:
        return default
    if not value.isdigit():
        raise UserError(
            f"environment variable {name} must be a whole number, got '{value}'", "correct it, or let torchrun set it"
        )
    return int(value)
