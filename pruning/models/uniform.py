"""Uniformly narrowed networks of a given cost, to be trained from scratch as a baseline."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace

from pruning.core.uniform import uniform_structure
from pruning.errors import UserError
from pruning.models.facts import cost_model
from pruning.models.transducer import Transducer, TransducerConfig


def narrowed_config(
    dense: Transducer, narrow: str, cost: str, budget: float, seconds: float = 10.0
) -> TransducerConfig:
    """Return the configuration of the widest uniform network within a budget.

    Args:
        dense: the network to narrow.
        narrow: ``units``: narrow the units that can be pruned and keep the dimension of the residual stream; ``width``:
            narrow every dimension and keep the number of layers and heads; ``depth``: keep the first layers.
        cost: cost that is limited, ``size`` or ``macs``.
        budget: maximum parameters or MACs of the encoder.
        seconds: length of the audio at which MACs are counted.

    Raises:
        UserError: the smallest network already costs more.
    """
    dense = dense.plain()
    if narrow == "units":
        structure = uniform_structure(dense.unit_groups(), cost_model(dense, seconds), cost, budget)
        return dense.shrink(structure).config
    scaled = _widths(dense.config) if narrow == "width" else _depths(dense.config)
    return _widest(scaled, cost, budget, seconds)


def _widths(dense: TransducerConfig) -> list[TransducerConfig]:
    """Return the network at every even dimension of its residual stream, all widths in proportion."""
    pairs = range(1, dense.encoder.d_model // 2 + 1)
    return [replace(dense, encoder=dense.encoder.scaled(2 * count)) for count in pairs]


def _depths(dense: TransducerConfig) -> list[TransducerConfig]:
    """Return the network with every number of its first layers."""
    return [replace(dense, encoder=dense.encoder.shallower(count + 1)) for count in range(dense.encoder.num_layers)]


def _widest(networks: Sequence[TransducerConfig], cost: str, budget: float, seconds: float) -> TransducerConfig:
    """Return the largest of ``networks``, in ascending order, within the budget; the rest of it goes to the FFNs."""

    def beyond(config: TransducerConfig) -> bool:
        return cost_model(Transducer(config), seconds).dense[cost] > budget

    fitting = bisect.bisect_left(networks, True, key=beyond)
    if fitting == 0:
        raise UserError(f"even the smallest uniform network costs more than {budget:.0f} in {cost}",
                        "use a lower sparsity")  # fmt: skip
    chosen = networks[fitting - 1]
    encoder = chosen.encoder

    def grown(hidden: int) -> TransducerConfig:
        macaron, ffn = (tuple(value + hidden if value else 0 for value in of)
                        for of in (encoder.macaron_dim, encoder.ffn_dim))  # fmt: skip
        return replace(chosen, encoder=replace(encoder, macaron_dim=macaron, ffn_dim=ffn))

    room = max(networks[-1].encoder.macaron_dim + networks[-1].encoder.ffn_dim)
    return grown(bisect.bisect_left(range(1, room), True, key=lambda hidden: beyond(grown(hidden))))
