"""Inputs and outputs of linear and convolutional modules in the layout of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn


def flattened_inputs(module: nn.Module, x: Tensor) -> Tensor:
    """Return the vectors that a module multiplies its weight ``(out, in * kernel)`` with: ``(rows, in * kernel)``.

    Raises:
        TypeError: the module is neither linear nor an ungrouped convolution.
    """
    channels_first = getattr(module, "channels_first", True)
    if isinstance(module, nn.Linear) or not channels_first:
        return x.reshape(-1, x.shape[-1])
    if isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups == 1:
        one_dimensional = isinstance(module, nn.Conv1d)
        image = x.unsqueeze(2) if one_dimensional else x
        spread = [(1, *value) if one_dimensional else value for value in (module.kernel_size, module.dilation,
                  module.stride)]  # fmt: skip
        padding = (0, *module.padding) if one_dimensional else module.padding
        columns = nn.functional.unfold(image, spread[0], spread[1], cast(Any, padding), spread[2])  # (N, in * k, L)
        return columns.transpose(1, 2).reshape(-1, columns.shape[1])
    raise TypeError(f"a {type(module).__name__} is neither a linear layer nor an ungrouped convolution")


def flattened_parts(module: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Yield the rows of `flattened_inputs`, for a convolution per utterance because they are larger than the input."""
    one_by_one = isinstance(module, (nn.Conv1d, nn.Conv2d)) and getattr(module, "channels_first", True)
    for part in x.split(1) if one_by_one else (x,):
        yield flattened_inputs(module, part)


def flattened_outputs(module: nn.Module, y: Tensor) -> Tensor:
    """Return the outputs of a module as ``(rows, out)``, in the row order of `flattened_inputs`."""
    first = getattr(module, "channels_first", isinstance(module, (nn.Conv1d, nn.Conv2d)))
    return (y.flatten(2).transpose(1, 2) if first else y).reshape(-1, y.shape[1] if first else y.shape[-1])


@contextmanager
def watched_inputs(model: nn.Module, names: Sequence[str], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While open, call ``see(name, x)`` with the inputs of the modules ``names``.

    ``x`` has the shape ``(rows, in * kernel)``; for a convolution, ``see`` is called once per utterance.

    Raises:
        TypeError: a module is neither linear nor an ungrouped convolution (raised by the forward pass).
    """

    def hook(name: str) -> Callable[[nn.Module, Any], None]:
        def look(module: nn.Module, inputs: Any) -> None:
            for part in flattened_parts(module, inputs[0].detach()):
                see(name, part)

        return look

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
