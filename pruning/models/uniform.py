"""Uniformly narrowed networks of a given cost, to be trained from scratch as a baseline."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace

from pruning.core.uniform import uniform_structure
from pruning.errors import UserError
from pruning.models.conformer import ConformerConfig
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
        UserError: the smallest network already costs more, or only units of this network can be narrowed.
    """
    dense = dense.plain()
    if narrow == "units":
        structure = uniform_structure(dense.unit_groups(), cost_model(dense, seconds), cost, budget)
        return dense.shrink(structure).config
    if dense.config.encoder is None:
        raise UserError(f"a uniform Zipformer cannot be narrowed by {narrow}", "narrow its units")
    scaled = _widths(dense.config.encoder) if narrow == "width" else _depths(dense.config.encoder)
    return _widest(dense.config, scaled, cost, budget, seconds)


def _widths(dense: ConformerConfig) -> list[ConformerConfig]:
    """Return the encoder at every even dimension of its residual stream, all widths in proportion."""
    return [dense.scaled(2 * count) for count in range(1, dense.d_model // 2 + 1)]


def _depths(dense: ConformerConfig) -> list[ConformerConfig]:
    """Return the encoder with every number of its first layers."""
    return [dense.shallower(count + 1) for count in range(dense.num_layers)]


def _widest(
    dense: TransducerConfig, encoders: Sequence[ConformerConfig], cost: str, budget: float, seconds: float
) -> TransducerConfig:
    """Return the network with the largest of ``encoders``, in ascending order, within the budget.

    The rest of the budget goes to the FFNs.
    """

    def beyond(encoder: ConformerConfig) -> bool:
        return cost_model(Transducer(replace(dense, encoder=encoder)), seconds).dense[cost] > budget

    fitting = bisect.bisect_left(encoders, True, key=beyond)
    if fitting == 0:
        raise UserError(f"even the smallest uniform network costs more than {budget:.0f} in {cost}",
                        "use a lower sparsity")  # fmt: skip
    chosen = encoders[fitting - 1]

    def grown(hidden: int) -> ConformerConfig:
        macaron, ffn = (tuple(value + hidden if value else 0 for value in of)
                        for of in (chosen.macaron_dim, chosen.ffn_dim))  # fmt: skip
        return replace(chosen, macaron_dim=macaron, ffn_dim=ffn)

    room = max(encoders[-1].macaron_dim + encoders[-1].ffn_dim)
    encoder = grown(bisect.bisect_left(range(1, room), True, key=lambda hidden: beyond(grown(hidden))))
    return replace(dense, encoder=encoder)
