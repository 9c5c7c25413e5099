"""Structured pruning of speech recognisers: units, gates, costs, distillation, extraction, and recipes over them.

The names below are for programs of your own, see docs/python.md; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pruning import processor

processor.prepare()  # before anything of this package imports torch

if TYPE_CHECKING:
    from pruning.core.constraint import ConstraintConfig
    from pruning.core.cost import CostModel, CostTerm
    from pruning.core.declare import DeclaredUnits, attention_heads, conv_channels, gated_units, linear_units
    from pruning.core.declared import DeclaredNetwork
    from pruning.core.extraction import extract
    from pruning.core.gates import GateConfig
    from pruning.core.structure import Structure
    from pruning.core.units import Span, UnitGroup
    from pruning.errors import UserError
    from pruning.kinds.kind import load_network
    from pruning.measure.latency import measure_latency
    from pruning.methods.config import PruningConfig
    from pruning.methods.criterion import CriterionConfig
    from pruning.methods.l0 import L0Config
    from pruning.methods.low_rank import LowRankConfig
    from pruning.methods.own_loop import OwnLoop, load_extracted

_HOMES = {
    "ConstraintConfig": "core.constraint",
    "CostModel": "core.cost",
    "CostTerm": "core.cost",
    "CriterionConfig": "methods.criterion",
    "DeclaredNetwork": "core.declared",
    "DeclaredUnits": "core.declare",
    "GateConfig": "core.gates",
    "L0Config": "methods.l0",
    "LowRankConfig": "methods.low_rank",
    "OwnLoop": "methods.own_loop",
    "PruningConfig": "methods.config",
    "Span": "core.units",
    "Structure": "core.structure",
    "UnitGroup": "core.units",
    "UserError": "errors",
    "attention_heads": "core.declare",
    "conv_channels": "core.declare",
    "extract": "core.extraction",
    "gated_units": "core.declare",
    "linear_units": "core.declare",
    "load_extracted": "methods.own_loop",
    "load_network": "kinds.kind",
    "measure_latency": "measure.latency",
}
__all__ = [
    "ConstraintConfig",
    "CostModel",
    "CostTerm",
    "CriterionConfig",
    "DeclaredNetwork",
    "DeclaredUnits",
    "GateConfig",
    "L0Config",
    "LowRankConfig",
    "OwnLoop",
    "PruningConfig",
    "Span",
    "Structure",
    "UnitGroup",
    "UserError",
    "attention_heads",
    "conv_channels",
    "extract",
    "gated_units",
    "linear_units",
    "load_extracted",
    "load_network",
    "measure_latency",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pruning' has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"pruning.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names."""
    return sorted({*globals(), *_HOMES})
