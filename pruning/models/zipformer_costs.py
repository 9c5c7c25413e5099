"""Parameters and MACs of a Zipformer as polynomials in the kept counts of its unit groups.

MACs count convolutions, linear layers and the matrix products of attention, but not norms, activations and resampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from pruning.core.cost import CostTerm
from pruning.models.subsampling import subsampled
from pruning.models.zipformer_config import CONVNEXT_KERNEL, FRONT_KERNEL, SHORTEST, ZipformerConfig
from pruning.models.zipformer_units import (
    ATTENTIONS,
    CONVOLUTIONS,
    FFNS,
    USERS,
    cost_kind,
    frames_in,
    modules,
    pinned,
    segments,
)

Sum = list[tuple[tuple[str, ...], float]]
"""A sum of products of counts: names of the groups that are multiplied, and a coefficient."""


def of(*groups: str) -> Sum:
    """Return the product of the counts of ``groups``."""
    return [(groups, 1.0)]


def number(value: float) -> Sum:
    """Return a constant."""
    return [((), value)] if value else []


def product(*factors: Sum) -> Sum:
    """Return the product of sums, multiplied out."""
    result = number(1.0)
    for factor in factors:
        result = [((*left, *right), a * b) for left, a in result for right, b in factor]
    return result


def any_of(groups: Sequence[str]) -> Sum:
    """Return 1 if any of the ``groups``, of one unit each, is kept, and 0 if none is (inclusion and exclusion)."""
    return [(chosen, 1.0 if count % 2 else -1.0) for count in range(1, len(groups) + 1)
            for chosen in combinations(groups, count)]  # fmt: skip


class _Costs:
    """Collects the cost of parts; terms of the same kind with the same groups become one."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, tuple[str, ...]], tuple[float, float]] = {}

    def add(self, kind: str, counts: Sum, parameters: float, macs: float = 0.0) -> None:
        """Add ``parameters`` and ``macs`` for each unit of ``counts``."""
        for groups, coefficient in counts:
            key = kind, tuple(sorted(groups))
            before = self._found.get(key, (0.0, 0.0))
            self._found[key] = before[0] + coefficient * parameters, before[1] + coefficient * macs

    def terms(self) -> list[CostTerm]:
        """Return the terms."""
        return [CostTerm(kind, groups, *values) for (kind, groups), values in self._found.items() if any(values)]


def cost_terms(config: ZipformerConfig, frames: int, width: bool = False) -> list[CostTerm]:
    """Return the cost terms for an utterance of ``frames`` feature frames, front end included.

    With ``width``, the terms multiply the counts of the residual width instead of the widths of the stacks.
    """
    costs = _Costs()
    _front_end(costs, config, frames, _channels(config, config.widths[0], width))
    for stack in config.stacks:
        channels = _channels(config, stack.width, width)
        if stack.downsampling > 1:
            costs.add("resampling", number(1), stack.downsampling)
            costs.add("resampling", channels, 1)
        for index in stack.layers:
            if config.present[index]:
                _layer(costs, config, index, frames_in(frames, stack.downsampling), channels)
    costs.add("resampling", number(1), 2)
    return costs.terms()


def _channels(config: ZipformerConfig, stack_width: int, width: bool) -> Sum:
    """Return the number of channels of a stack."""
    if not width:
        return number(stack_width)
    inside = [segment for segment in segments(config) if segment.end <= stack_width]
    return [term for segment in inside for term in (of(segment.name) if segment.held else number(segment.size))]


def _front_end(costs: _Costs, config: ZipformerConfig, frames: int, channels: Sum) -> None:
    area, frames = FRONT_KERNEL**2, max(frames, SHORTEST)
    half = subsampled(frames - 2, (2,))
    sizes = (frames - 2) * config.feature_dim, half * subsampled(config.feature_dim, (2,)), (half - 2) * config.bins
    inputs = number(1)
    for index, size in enumerate(sizes):
        outputs = of(f"subsampling.convs.{index}.channels")
        costs.add("subsampling", product(inputs, outputs), area, area * size)
        costs.add("subsampling", outputs, 1)
        inputs = outputs
    if config.convnext_dim:
        module, places, area = of("subsampling.convnext"), sizes[-1], CONVNEXT_KERNEL**2
        costs.add("subsampling", product(module, inputs), area + 2, area * places)
        costs.add("subsampling", product(module, inputs, of("subsampling.convnext.hidden")), 2, 2 * places)
        costs.add("subsampling", product(module, of("subsampling.convnext.hidden")), 1)
    costs.add("subsampling", product(inputs, channels), config.bins, sizes[-1])
    costs.add("subsampling", channels, 2)
    costs.add("subsampling", number(1), 1)


def _layer(costs: _Costs, config: ZipformerConfig, index: int, t: int, channels: Sum) -> None:
    """Add a layer at ``t`` frames."""
    name = f"layers.{index}"
    layer = of(name)
    costs.add("norm", product(layer, channels), 3)  # bias of the norm, two bypass scales
    costs.add("norm", layer, 1)
    for module in modules(config, index):
        kind, here = cost_kind(module), product(layer, of(f"{name}.{module}"))
        costs.add(kind, product(here, channels), 1)  # output bias
        if module in FFNS:
            inner, weights, others, macs = of(f"{name}.{module}.hidden"), 2, 1, 0
        elif module in CONVOLUTIONS:
            inner, weights = of(f"{name}.{module}.channels"), 3
            others, macs = _convolution(config.conv_kernel[index], config.causal, t)
        elif module in ATTENTIONS:
            inner, weights, others, macs = of(f"{name}.{module}.value_dims"), 2, 1, t * t
            inner = product(inner, [*number(pinned(config, index)), *_heads(config, index)])
        else:
            inner, weights, others, macs = of(f"{name}.{module}.hidden"), 4, 3, t * t
        costs.add(kind, product(here, inner, channels), weights, weights * t)
        costs.add(kind, product(here, inner), others, macs)
    _weights(costs, config, index, t, channels)


def _convolution(kernel: int, causal: bool, t: int) -> tuple[int, int]:
    """Return parameters, with the biases of ``in_proj``, and MACs of a channel of a depthwise convolution."""
    if not causal:
        return kernel + 3, t * kernel
    past = (kernel + 1) // 2
    return 3 * kernel + past + 4, t * (kernel + past)


def _heads(config: ZipformerConfig, index: int) -> Sum:
    """Return the number of heads that are units; they are constant if nothing uses them."""
    heads = config.num_heads[index] - pinned(config, index)
    if not heads or not modules(config, index, tuple(ATTENTIONS)):
        return number(heads)
    return of(f"layers.{index}.attention_weights.heads")


def _weights(costs: _Costs, config: ZipformerConfig, index: int, t: int, channels: Sum) -> None:
    """Add the attention weights: each head while a module uses it."""
    name, kind = f"layers.{index}", "attention_weights"
    if not config.num_heads[index]:
        return
    everyone = [f"{name}.{module}" for module in modules(config, index, USERS)]
    attentions = [f"{name}.{module}" for module in modules(config, index, tuple(ATTENTIONS))]
    heads = [*product(number(pinned(config, index)), any_of(everyone)),
             *product(_heads(config, index), any_of(attentions or everyone))]  # fmt: skip
    used = product(of(name), heads)
    query, position = (product(used, of(f"{name}.{kind}.{dims}")) for dims in ("query_dims", "position_dims"))
    distances, encoding = 2 * t - 1, config.encoding_dim
    costs.add(kind, product(query, channels), 2, 2 * t)
    costs.add(kind, query, 2, t * t)
    costs.add(kind, product(position, channels), 1, t)
    costs.add(kind, position, 1 + encoding, distances * (encoding + t))
