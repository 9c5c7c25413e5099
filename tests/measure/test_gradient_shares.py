"""Gradient shares are those of autograd, term by term."""

from __future__ import annotations

import copy

import pytest
import torch

from pruning.core.distillation import DistillationConfig
from pruning.kinds.transducer import TransducerKind
from pruning.measure.gradient_shares import WHOLE, gradient_norms, table
from pruning.tasks.transducer import Guidance, TransducerTask
from pruning.training.seeding import seed_everything
from tests.methods.test_l0 import network
from tests.tasks.test_transducer import LOSS, batch, disturbed, step

EVERYTHING = DistillationConfig(layers=(0, 1, 3), layer_weight=0.3, output_weight=0.5, ctc_weight=0.7)


def test_norms_are_those_of_autograd() -> None:
    """Each term alone is propagated backwards, over two batches."""
    torch.manual_seed(0)
    model = network()
    task = TransducerTask(model, LOSS, guidance=Guidance(disturbed(model, 1), EVERYTHING))
    parts, batches = TransducerKind.parts(), [batch(0), batch(1)]
    before = copy.deepcopy(model.state_dict())
    found = gradient_norms(task, batches, parts, seed=3)
    model.load_state_dict(before)  # running statistics
    weights = {"task": 1.0, "distil_layers": 0.3, "distil_output": 0.5, "distil_ctc": 0.7}
    assert list(found) == list(weights) and set(found["task"]) == {"blocks", "subsampling", WHOLE}
    for term, weight in weights.items():
        squares = dict.fromkeys(found[term], 0.0)
        for index, each in enumerate(batches):
            seed_everything(3, 1, index)
            task.zero_grad()
            (weight * task.train().terms(each, step(index=0)).logged[term]).backward()
            for name, parameter in model.named_parameters():
                square = 0.0 if parameter.grad is None else float((parameter.grad**2).sum())
                squares[WHOLE] += square
                squares["blocks"] += square if name.startswith("encoder.layers.") else 0.0
                squares["subsampling"] += square if name.startswith("encoder.subsampling.") else 0.0
        for part, square in squares.items():
            assert found[term][part] == pytest.approx((square / 2) ** 0.5, rel=1e-4)
            assert square > 0


def test_the_table_has_shares_of_the_first_term() -> None:
    norms = {
        "task": {"blocks": 2.0, "front end": 0.0, WHOLE: 4.0},
        "distil": {"blocks": 1.0, "front end": 0.0, WHOLE: 6},
    }
    headers, rows = table(norms)
    assert headers == ["term", "blocks", WHOLE], "a part without gradient is left out"
    assert rows == [["task (norm)", "2", "4"], ["distil", "50.0%", "150.0%"]]
