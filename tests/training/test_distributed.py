"""The environment that torchrun sets is read strictly. Real processes are in test_interruption."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.errors import UserError
from pruning.training import distributed


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
        ({"RANK": "first"}, "cpu", "environment variable RANK is 'first'"),
        ({}, "tpu", "device 'tpu' is unknown"),
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
    with pytest.raises(UserError, match="torch sees no GPU"):
        distributed.initialise("cuda")
