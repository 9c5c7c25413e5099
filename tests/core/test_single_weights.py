"""Test that pruned single weights stay zero with any optimiser."""

from __future__ import annotations

import torch

from pruning.core.low_rank import linear_names
from pruning.core.single_weights import hold_zeros
from tests.models.test_transformer_lm import network, sentences


def test_zeros_are_held_by_any_optimiser_and_precision() -> None:
    for dtype in (torch.float32, torch.float64):
        model = network().train()
        torch.manual_seed(0)
        weights = [model.get_parameter(f"{name}.weight") for name in linear_names(model)]
        with torch.no_grad():
            for weight in weights:
                weight.mul_(torch.rand_like(weight) < 0.5)
        zeros = [weight == 0 for weight in weights]
        hold_zeros(model)
        model.to(dtype)  # as the trainer moves the model to its device; the hooks must follow
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            model(sentences()).square().mean().backward()
            optimiser.step()
        for weight, zero in zip(weights, zeros):
            assert (weight[zero] == 0).all() and (weight[~zero] != 0).all()
