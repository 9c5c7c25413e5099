"""Uniformly narrowed networks of a given cost, to be trained from scratch as a baseline."""

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
    """Return the configuration of the widest uniform network within a budget.

    Args:
        dense: the network to narrow.
        narrow: ``units``: narrow the units that can be pruned and keep the dimension of the residual stream; ``width``:
            narrow every dimension and keep the number of layers and heads.
        cost: cost that is limited, ``size`` or ``macs``.
        budget: maximum parameters or MACs of the encoder.
        seconds: length of the audio at which MACs are counted.

    Raises:
        UserError: the narrowest network already costs more.
    """
    dense = dense.plain()
    if narrow == "units":
        structure = uniform_structure(dense.unit_groups(), cost_model(dense, seconds), cost, budget)
        return dense.shrink(structure).config
    return _by_width(dense, cost, budget, seconds)


def _by_width(dense: Transducer, cost: str, budget: float, seconds: float) -> TransducerConfig:
    """Scale the residual stream and all widths to the budget; the remaining budget goes to the FFNs."""
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
        raise UserError(f"no network of this depth costs only {budget:.0f} in {cost}", "use a lower sparsity")
    room = max(encoder.macaron_dim + encoder.ffn_dim)
    return scaled(pairs, bisect.bisect_left(range(1, room), True, key=lambda hidden: beyond(scaled(pairs, hidden))))
