"""Averages of weights: the running average kept during training, and averages of checkpoints.

The running average after n updates is the mean of the weights at these n updates. The averages at the ends of two
epochs give the mean over the epochs between them: ``(n2 avg2 - n1 avg1) / (n2 - n1)`` (icefall's
``--use-averaged-model``). The range of averaging can therefore be chosen at decoding instead of before training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class RunningAverage:
    """Mean of a network's weights over training, updated in place.

    ``avg += (weights - avg) / n`` at the n-th update. The precision of the weights is sufficient: the rounding error of
    an update is about 1e-7 of the weights, and errors do not accumulate because each update shrinks the earlier ones.

    Args:
        model: network whose floating-point parameters and buffers are averaged; other buffers (counters) are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self.updates = 0
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the current weights to the mean."""
        self.updates += 1
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1.0 / self.updates)
            else:
                self.tensors[name].copy_(tensor)

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Restore the tensors and the number of updates of a saved average."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
        self.updates = updates


def mean_between(
    start: Mapping[str, Tensor], start_updates: int, end: Mapping[str, Tensor], end_updates: int
) -> dict[str, Tensor]:
    """Return the mean over the updates after ``start`` up to ``end``, from the two running averages.

    It is computed in float64 because it is a difference of similar numbers.

    Raises:
        ValueError: there was no update between them, or their tensors differ in name or shape.
    """
    if end_updates <= start_updates:
        raise ValueError(f"no update between the averages ({start_updates} and {end_updates} updates)")
    _check_same_tensors([start, end])
    span = end_updates - start_updates
    result = {}
    for name, last in end.items():
        if last.is_floating_point():
            mean = (last.double() * end_updates - start[name].double() * start_updates) / span
            result[name] = mean.to(last.dtype)
        else:
            result[name] = last.clone()
    return result


def mean(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several state dicts, computed in float64; other than floating-point tensors are the last's.

    Raises:
        ValueError: no state dict is given, or their tensors differ in name or shape.
    """
    if not states:
        raise ValueError("nothing to average")
    _check_same_tensors(states)
    result = {}
    for name, last in states[-1].items():
        if last.is_floating_point():
            total = sum((state[name].double() for state in states[1:]), states[0][name].double())
            result[name] = (total / len(states)).to(last.dtype)
        else:
            result[name] = last.clone()
    return result


def _check_same_tensors(states: Sequence[Mapping[str, Tensor]]) -> None:
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in states]
    for other in shapes[1:]:
        different = {name for name in {*shapes[0], *other} if shapes[0].get(name) != other.get(name)}
        if different:
            raise ValueError(f"tensor {min(different)} differs in shape or is missing in one of them")
