"""Test extraction with repair of networks that were cut before."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from pruning.core.extraction import extract
from pruning.deploy.extract import repaired
from pruning.errors import UserError
from tests.core import test_repair
from tests.methods.test_l0 import network


@dataclass(frozen=True)
class Calibration:
    """A batch of noise, with the names of its utterances."""

    tensors: test_repair.Batch
    ids: tuple[str, ...] = ("a", "b", "c", "d")


def forward(model: nn.Module, batch: Calibration) -> object:
    return test_repair.forward(model, batch.tensors)


def test_a_second_cut_is_repaired_towards_the_network_that_it_began_from() -> None:
    dense = network().eval()
    first = extract(dense, test_repair.structure_of(dense, 0.5)).eval()
    pruned = extract(dense, test_repair.structure_of(dense, 0.5)).eval()  # trained on while it was pruned
    for parameter in pruned.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    structure = test_repair.structure_of(pruned, 0.5, seed=1)
    data = [Calibration(batch) for batch in test_repair.batches(2)]
    with pytest.raises(UserError, match="the teacher has other dimensions than the pruned network"):
        repaired(dense, pruned, structure, data, 8, forward)
    before = pruned.state_dict()["encoder.layers.0.ffn.linear2.weight"].clone()
    assert repaired(first, pruned, structure, data, 8, forward) == structure.without_scale()
    assert not pruned.state_dict()["encoder.layers.0.ffn.linear2.weight"].equal(before)
