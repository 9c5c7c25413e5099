"""Adam for gates, with one second moment for all gates of a unit kind.

Adam (arXiv 1412.6980, algorithm 1) divides the step of each parameter by the size of its own gradients, so that all
gates move alike, those without effect on the loss by noise. With a shared second moment, the steps of the gates of one
kind are in proportion to their gradients, and kinds with gradients of other sizes still move alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.core.selection import Selection

BETAS = (0.9, 0.98)
EPSILON = 1e-12


class KindSteps(nn.Module):
    """State of the steps, saved and resumed as buffers.

    Args:
        units: the units that have gates.
    """

    momentum: Tensor
    square: Tensor
    steps: Tensor
    _kind: Tensor

    def __init__(self, units: Selection) -> None:
        super().__init__()
        kinds = list(dict.fromkeys(group.kind for group in units.chosen))
        index = [kinds.index(group.kind) for group, size in zip(units.chosen, units.sizes) for _ in range(size)]
        self.register_buffer("_kind", torch.tensor(index, dtype=torch.long), persistent=False)
        self.register_buffer("momentum", torch.zeros(units.num_units))
        self.register_buffer("square", torch.zeros(len(kinds)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def move(self, log_alpha: Tensor, gradient: Tensor, lr: float) -> None:
        """Make one step of ``log_alpha (U,)`` against ``gradient (U,)``, in place."""
        first, second = BETAS
        zeros = torch.zeros_like(self.square)
        mean = zeros.index_add(0, self._kind, gradient**2) / zeros.index_add(0, self._kind, torch.ones_like(gradient))
        self.steps += 1
        self.momentum.lerp_(gradient, 1 - first)
        self.square.lerp_(mean, 1 - second)
        steps = self.steps.double()
        root = (self.square / (1 - second**steps)).sqrt().clamp(min=EPSILON).to(log_alpha)
        log_alpha -= lr * (self.momentum / (1 - first**steps)).to(log_alpha) / root[self._kind]
