"""What a network costs, written beside every experiment so that tables need no network to be rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning import registry
from pruning.core.names import MACS, SIZE
from pruning.files import PathLike, read_json, write_json

if TYPE_CHECKING:
    from torch import nn

    from pruning.core.cost import CostModel

FILE = "model.json"
FRAMES_PER_SECOND, SAMPLES_PER_SECOND = 100, 16000
MACS_SECONDS = (10, 30)
_BEFORE_BLOCKS = ("subsampling", "frontend", "projection", "positional")


def frames_of(seconds: float) -> int:
    """Feature frames of ``seconds`` of audio."""
    return int(round(seconds * FRAMES_PER_SECOND))


def samples_of(seconds: float) -> int:
    """Samples of ``seconds`` of audio."""
    return int(round(seconds * SAMPLES_PER_SECOND))


def cost_model(model: nn.Module, seconds: float) -> CostModel:
    """Cost of what is pruned of a network, MACs at ``seconds`` of audio (or at its kind's number of tokens)."""
    return costs_at(model, registry.of(model).input_length(model, seconds))


def costs_at(model: nn.Module, length: int) -> CostModel:
    """Cost of what is pruned of a network, MACs at an input of so many frames, samples or tokens."""
    from pruning.core.cost import CostModel
    from pruning.core.prunable import prunable

    declared = prunable(model)
    return CostModel(declared.unit_groups(), declared.cost_terms(length))


def network_facts(model: nn.Module) -> dict[str, Any]:
    """What a network is in numbers: what its kind says, its parameters, and how many of these are not zero."""
    facts = registry.of(model).facts(model)
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    facts["nonzero_parameters"] = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    return facts


def of_encoder(model: nn.Module) -> dict[str, Any]:
    """Facts of a network that hears: parameters of its encoder, what is before its blocks included, and of its blocks
    alone; the encoder's MACs."""
    costs = {seconds: cost_model(model, seconds) for seconds in MACS_SECONDS}
    by_kind = _by_kind(costs[MACS_SECONDS[0]])
    encoder = costs[MACS_SECONDS[0]].dense[SIZE]
    macs = {f"macs_{seconds}s": int(model.dense[MACS]) for seconds, model in costs.items()}
    blocks = int(encoder) - sum(by_kind[kind][SIZE] for kind in _BEFORE_BLOCKS if kind in by_kind)
    return {"encoder_parameters": int(encoder), "blocks_parameters": blocks, **macs, "by_kind": by_kind}


def of_blocks(model: nn.Module, tokens: int) -> dict[str, Any]:
    """Facts of a network that reads: parameters of its blocks, their MACs per token in a text of ``tokens``."""
    costs = costs_at(model, tokens)
    return {
        "blocks_parameters": int(costs.dense[SIZE]),
        "macs_per_token": int(costs.dense[MACS] / tokens),
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
    if "blocks_parameters" in facts:
        blocks, macs = facts["blocks_parameters"] / 1e6, facts["macs_per_token"] / 1e6
        return f"blocks {blocks:.3f} M parameters, {macs:.3f} M MACs per token; {whole}"
    return whole
