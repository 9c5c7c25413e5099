"""Run a stack of layers one layer at a time over many batches, each from the outputs of the one before, which are kept.

What reads the layers one after the other then costs one pass over the network, not one for each layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[nn.Module, Any], object]

_PLACE = re.compile(r"(.*\blayers)\.(\d+)(?=\.|$)")


class Reached(Exception):  # not an error
    """Raised to end a forward pass once what it was made for is seen."""


@dataclass(frozen=True)
class Call:
    """What a layer was called with: the stream first."""

    given: tuple[Any, ...]
    named: dict[str, Any]

    def made(self, layer: nn.Module) -> Any:
        """Return the output of the layer."""
        return layer(*self.given, **self.named)

    def with_stream(self, stream: Tensor) -> Call:
        """Return the call with another stream."""
        return replace(self, given=(stream, *self.given[1:]))


class LayerWalk:
    """Networks of the same shape that walk through their layers together, over the same batches.

    Weights may change behind the walk's place only through layers that were walked; after any other change, call
    `forget`. A layer can be walked if it maps its first argument, a tensor, to the first argument of the next one.

    Args:
        networks: networks in evaluation mode, whose layers have the same names.
        batches: what they are run on.
        forward: ``forward(network, batch)`` makes a forward pass; an exception raised inside may end it early.
    """

    def __init__(self, networks: Sequence[nn.Module], batches: Sequence[Any], forward: Forward) -> None:
        self._networks, self._batches, self._forward = networks, batches, forward
        self._stack, self._place = "", 0
        self._calls: list[list[list[Call]]] = []  # of each network, batch and layer from the place on

    def reach(self, module: str) -> bool:
        """Go to the layer of a module; return whether it has one that can be walked."""
        found = _PLACE.match(module)
        if found is None:
            return False
        stack, place = found[1], int(found[2])
        if not self._calls or stack != self._stack or place < self._place:
            return self._enter(stack, place)
        while self._place < place:
            self._step()
        return True

    def runs(self) -> Iterator[tuple[Callable[[], Any], ...]]:
        """Yield for each batch what runs the layer, one function for each network."""
        layer = f"{self._stack}.{self._place}"
        for calls in zip(*self._calls):
            yield tuple(_run(network.get_submodule(layer), of_batch[0])
                        for network, of_batch in zip(self._networks, calls))  # fmt: skip

    def forget(self) -> None:
        """Forget the place, because weights changed that the kept inputs depend on."""
        self._calls = []

    @torch.no_grad()
    def _enter(self, stack: str, place: int) -> bool:
        """Run every batch up to a layer and keep what this one and the following ones are called with."""
        self.forget()
        found: list[list[list[Call]]] = []
        for network in self._networks:
            layers = list(network.get_submodule(stack).children())[place:]
            of_batches: list[list[Call]] = []
            for batch in self._batches:
                if not of_batches and not self._maps_streams(network, layers[0], batch):
                    return False
                calls: list[Call] = []
                with _recorded(layers, calls), suppress(Reached):
                    self._forward(network, batch)
                if not _is_chain(calls, len(layers)):
                    return False
                of_batches.append(calls)
            found.append(of_batches)
        self._stack, self._place, self._calls = stack, place, found
        return True

    def _maps_streams(self, network: nn.Module, layer: nn.Module, batch: Any) -> bool:
        """Return whether a layer is reached, and maps a tensor to one of the same shape."""
        calls: list[Call] = []
        with _recorded([layer], calls), suppress(Reached):
            self._forward(network, batch)
        if not calls or not calls[0].given or not isinstance(calls[0].given[0], Tensor):
            return False
        output = calls[0].made(layer)
        return isinstance(output, Tensor) and output.shape == calls[0].given[0].shape

    @torch.no_grad()
    def _step(self) -> None:
        """Run the layer and go to the next one."""
        for network, of_batches in zip(self._networks, self._calls):
            layer = network.get_submodule(f"{self._stack}.{self._place}")
            for calls in of_batches:
                stream = calls.pop(0).made(layer)
                calls[0] = calls[0].with_stream(stream)
        self._place += 1


def _run(layer: nn.Module, call: Call) -> Callable[[], Any]:
    return lambda: call.made(layer)


@contextmanager
def _recorded(layers: Sequence[nn.Module], calls: list[Call]) -> Iterator[None]:
    """While open, layers return their first argument, and the last one ends the forward pass; calls are kept.

    What the layers are called with after the first of them is that of the stream before it.
    """

    def forward_of(layer: nn.Module) -> Callable[..., Any]:
        def forward(*given: Any, **named: Any) -> Any:
            calls.append(Call(given, named))
            if layer is layers[-1] or not given:
                raise Reached
            return given[0]

        return forward

    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.__dict__["forward"] = forward_of(layer)
    try:
        yield
    finally:
        for layer, own in zip(layers, before):
            if own is None:
                del layer.__dict__["forward"]
            else:
                layer.__dict__["forward"] = own


def _is_chain(calls: Sequence[Call], count: int) -> bool:
    """Return whether each of ``count`` layers was called once, with the stream that the one before it returned."""
    return len(calls) == count and all(call.given and call.given[0] is calls[0].given[0] for call in calls)
