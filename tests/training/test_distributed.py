"""The environment variables of torchrun are read strictly. test_interruption runs real training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pruning.core.constraint import ConstraintConfig
from pruning.core.low_rank import factorise, linear_names
from pruning.errors import UserError
from pruning.methods.criterion import CriterionConfig
from pruning.methods.low_rank import LowRankPruning
from pruning.training import distributed
from pruning.training.task import StepInfo
from tests.models.test_transformer_lm import network as language_model


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_one_process_needs_nothing() -> None:
    world = distributed.initialise("cpu")
    assert (world.rank, world.size, world.device.type, world.is_main) == (0, 1, "cpu", True)
    assert world.sum([1.0, 2.0]) == [1.0, 2.0] and world.gather("x") == ["x"]
    assert world.any(True) and not world.any(False)
    module = nn.Linear(1, 1)
    assert world.wrap(module) is module
    world.barrier()
    world.broadcast_buffers(module)
    distributed.shutdown()


@pytest.mark.parametrize(
    ("environment", "device", "message"),
    [
        ({"WORLD_SIZE": "2"}, "cpu", "WORLD_SIZE is 2 but RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "cpu", "MASTER_ADDR is not set; start the processes with torchrun"),
        ({"RANK": "first"}, "cpu", "environment variable RANK must be a whole number, got 'first'"),
        ({}, "tpu", "unknown device 'tpu'"),
    ],
)
def test_a_broken_environment_is_told(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], device: str, message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        distributed.initialise(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_told() -> None:
    with pytest.raises(UserError, match="torch finds no GPU"):
        distributed.initialise("cuda")


def _cut_apart(rank: int, directory: str) -> None:
    """Cut a low-rank network in one of two processes whose factors differ."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=2)
    dense = language_model()
    model = factorise(dense, linear_names(dense))
    constraint = ConstraintConfig(size=0.5, ramp="one_shot", ramp_share=0.5)
    pruner = LowRankPruning(model, "magnitude", CriterionConfig(interval=1), constraint, 10)
    torch.manual_seed(rank)
    moments = {weight: {key: torch.rand_like(weight) for key in ("exp_avg", "exp_avg_sq")}
               for weight in model.parameters()}  # fmt: skip
    pruner.attach_moments(moments)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith((".u.weight", ".v.weight")):
                weight.mul_(-1.0 if rank else 1.0).add_(0.01 * torch.randn_like(weight))
    pruner.after_step(StepInfo(1, 0, 0, 2))
    factors = [w for n, w in model.named_parameters() if n.endswith((".u.weight", ".v.weight"))]
    held = [pruner.keep, *factors, *(moments[w]["exp_avg"] for w in factors)]
    torch.save([tensor.detach() for tensor in held], f"{directory}/{rank}.pt")
    dist.destroy_process_group()


def test_a_cut_leaves_all_processes_alike(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_cut_apart, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert not first[0].all() and all(torch.equal(a, b) for a, b in zip(first, second))
