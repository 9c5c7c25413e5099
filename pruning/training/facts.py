"""What a network costs, written beside every experiment so that tables need no network to be rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, cast

from torch import nn

from pruning.core.cost import MACS, SIZE, CostModel
from pruning.core.prunable import Prunable
from pruning.files import PathLike, read_json, write_json
from pruning.models.transducer import Transducer

FILE = "model.json"
FRAMES_PER_SECOND = 100
MACS_SECONDS = (10, 30)
LM_TOKENS = 32
"""Length of the sentences at which a language model's MACs are counted."""


def frames_of(seconds: float) -> int:
    """Feature frames of ``seconds`` of audio."""
    return int(round(seconds * FRAMES_PER_SECOND))


def reference_length(model: nn.Module) -> tuple[int, str]:
    """The input at which a network's MACs are told: its length, and what that is in words."""
    return (frames_of(10), "10 s") if isinstance(model, Transducer) else (LM_TOKENS, f"{LM_TOKENS} tokens")


def cost_model(model: Transducer, seconds: float) -> CostModel:
    """Cost of a network's encoder, MACs at ``seconds`` of audio."""
    return CostModel(model.unit_groups(), model.cost_terms(frames_of(seconds)))


def network_facts(model: nn.Module) -> dict[str, Any]:
    """What a network is in numbers.

    Of a transducer: parameters of the encoder (subsampling included), of its blocks alone and of the network, the
    encoder's MACs. Of a language model: parameters of its blocks and of the network, MACs of the blocks per token. Of
    both: how many parameters are not zero.
    """
    facts = _transducer_facts(model) if isinstance(model, Transducer) else _lm_facts(cast(Prunable, model))
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    facts["nonzero_parameters"] = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    return facts


def _transducer_facts(model: Transducer) -> dict[str, Any]:
    costs = {seconds: cost_model(model, seconds) for seconds in MACS_SECONDS}
    by_kind = _by_kind(costs[MACS_SECONDS[0]])
    encoder = costs[MACS_SECONDS[0]].dense[SIZE]
    macs = {f"macs_{seconds}s": int(model.dense[MACS]) for seconds, model in costs.items()}
    blocks = int(encoder) - by_kind["subsampling"][SIZE]
    return {"encoder_parameters": int(encoder), "blocks_parameters": blocks, **macs, "by_kind": by_kind}


def _lm_facts(model: Prunable) -> dict[str, Any]:
    costs = CostModel(model.unit_groups(), model.cost_terms(LM_TOKENS))
    return {
        "blocks_parameters": int(costs.dense[SIZE]),
        "macs_per_token": int(costs.dense[MACS] / LM_TOKENS),
        "by_kind": _by_kind(costs),
    }


def _by_kind(costs: CostModel) -> dict[str, dict[str, int]]:
    table = costs.by_kind(costs.dense_counts())
    return {kind: {cost: int(value) for cost, value in row.items()} for kind, row in table.items()}


def write_facts(exp_dir: PathLike, model: nn.Module, dense: Optional[dict[str, Any]] = None) -> None:
    """Write ``model.json``; ``dense`` holds the facts of the network that this one was pruned from (None: itself)."""
    facts = network_facts(model)
    write_json(Path(exp_dir) / FILE, {**facts, "dense": facts if dense is None else dense})


def read_facts(exp_dir: PathLike) -> dict[str, Any]:
    """Read ``model.json``.

    Raises:
        UserError: it is missing or broken.
    """
    return read_json(Path(exp_dir) / FILE, "train or extract that experiment first")


def describe(facts: Mapping[str, Any]) -> str:
    """One line of `network_facts`."""
    whole = f"whole model {facts['parameters'] / 1e6:.3f} M parameters"
    if "encoder_parameters" in facts:
        encoder, macs = facts["encoder_parameters"] / 1e6, facts["macs_10s"] / 1e9
        return f"encoder {encoder:.3f} M parameters, {macs:.3f} GMACs at 10 s; {whole}"
    blocks, macs = facts["blocks_parameters"] / 1e6, facts["macs_per_token"] / 1e6
    return f"blocks {blocks:.3f} M parameters, {macs:.3f} M MACs per token; {whole}"
