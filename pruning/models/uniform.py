"""Uniformly narrowed networks of a given cost, to be trained from scratch: the rival that every reader asks for."""

from __future__ import annotations

import bisect
from dataclasses import replace

from pruning.core.uniform import uniform_structure
from pruning.errors import UserError
from pruning.models.facts import cost_model
from pruning.models.transducer import Transducer, TransducerConfig


def narrowed_config(
    dense: Transducer, narrow: str, cost: str, budget: float, seconds: float = 10.0
) -> TransducerConfig:
    """Dimensions of the widest uniform network within a budget.

    Args:
        dense: the network to narrow.
        narrow: ``units``: what can be pruned, the residual stream keeping its dimension; ``width``: every dimension,
            layers and heads staying as many as they are.
        cost: ``size`` or ``macs``.
        budget: parameters or MACs of the encoder.
        seconds: of audio at which MACs are counted.

    Raises:
        UserError: even the narrowest costs more.
    """
    dense = dense.plain()
    if narrow == "units":
        structure = uniform_structure(dense.unit_groups(), cost_model(dense, seconds), cost, budget)
        return dense.shrink(structure).config
    return _by_width(dense, cost, budget, seconds)


def _by_width(dense: Transducer, cost: str, budget: float, seconds: float) -> TransducerConfig:
    """The residual stream and every width with it, as wide as the budget allows; what is left goes to the FFNs."""
    encoder = dense.config.encoder

    def scaled(pairs: int, hidden: int = 0) -> TransducerConfig:
        narrow = encoder.scaled(2 * pairs)
        macaron, ffn = ([value + hidden if value else 0 for value in of] for of in (narrow.macaron_dim, narrow.ffn_dim))
        narrow = replace(narrow, macaron_dim=tuple(macaron), ffn_dim=tuple(ffn))
        return replace(dense.config, encoder=narrow)

    def beyond(config: TransducerConfig) -> bool:
        return cost_model(Transducer(config), seconds).dense[cost] > budget

    pairs = bisect.bisect_left(range(1, encoder.d_model // 2 + 1), True, key=lambda count: beyond(scaled(count)))
    if pairs == 0:
        raise UserError(f"no network of this depth costs {budget:.0f} in {cost}", "compare at a lower sparsity")
    room = max(encoder.macaron_dim + encoder.ffn_dim)
    return scaled(pairs, bisect.bisect_left(range(1, room), True, key=lambda hidden: beyond(scaled(pairs, hidden))))
