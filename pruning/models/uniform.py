"""Uniformly narrowed networks of a given cost, to be trained from scratch as a baseline."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Union

from pruning.core.uniform import uniform_structure
from pruning.errors import UserError
from pruning.models.conformer import ConformerConfig
from pruning.models.facts import cost_model
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.models.zipformer_config import ZipformerConfig

Dimensions = Union[ConformerConfig, ZipformerConfig]
_MOST_UNITS = 10_000  # of a feed-forward module, to which a rest of the budget may go


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
    whole = dense.config.dimensions
    if narrow == "width":
        return _widest(dense.config, _widths(whole), cost, budget, seconds)
    if dense.config.encoder is None:
        raise UserError(f"a uniform Zipformer cannot be narrowed by {narrow}", "give --narrow width or --narrow units")
    return _widest(dense.config, _depths(dense.config.encoder), cost, budget, seconds)


def _widths(dense: Dimensions) -> list[Dimensions]:
    """Return the encoder at every even dimension of its residual stream, all widths in proportion."""
    return [dense.scaled(2 * count) for count in range(1, dense.d_model // 2 + 1)]


def _depths(dense: ConformerConfig) -> list[ConformerConfig]:
    """Return the encoder with every number of its first layers."""
    return [dense.shallower(count + 1) for count in range(dense.num_layers)]


def _widest(
    dense: TransducerConfig, encoders: Sequence[Dimensions], cost: str, budget: float, seconds: float
) -> TransducerConfig:
    """Return the network with the largest of ``encoders``, in ascending order, within the budget.

    The rest of the budget goes to the FFNs.
    """

    def beyond(encoder: Dimensions) -> bool:
        return cost_model(Transducer(dense.of_dimensions(encoder)), seconds).dense[cost] > budget

    fitting = bisect.bisect_left(encoders, True, key=beyond)
    if fitting == 0:
        raise UserError(f"even the smallest uniform network costs more than {budget:.0f} in {cost}",
                        "use a lower sparsity")  # fmt: skip
    chosen = encoders[fitting - 1]
    more = bisect.bisect_left(range(1, _MOST_UNITS), True, key=lambda hidden: beyond(chosen.wider(hidden)))
    return dense.of_dimensions(chosen.wider(more))
