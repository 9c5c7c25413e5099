"""What a network costs, written beside every experiment so that tables need no network to be rebuilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from pruning.core.cost import MACS, SIZE, CostModel
from pruning.files import PathLike, read_json, write_json
from pruning.models.transducer import Transducer

FILE = "model.json"
FRAMES_PER_SECOND = 100
MACS_SECONDS = (10, 30)


def frames_of(seconds: float) -> int:
    """Feature frames of ``seconds`` of audio."""
    return int(round(seconds * FRAMES_PER_SECOND))


def cost_model(model: Transducer, seconds: float) -> CostModel:
    """Cost of a network's encoder, MACs at ``seconds`` of audio."""
    return CostModel(model.unit_groups(), model.cost_terms(frames_of(seconds)))


def network_facts(model: Transducer) -> dict[str, Any]:
    """Parameters of the encoder (subsampling included), of its blocks alone and of the network; the encoder's MACs."""
    costs = {seconds: cost_model(model, seconds) for seconds in MACS_SECONDS}
    by_kind = costs[MACS_SECONDS[0]].by_kind(costs[MACS_SECONDS[0]].dense_counts())
    encoder = costs[MACS_SECONDS[0]].dense[SIZE]
    facts: dict[str, Any] = {
        "encoder_parameters": int(encoder),
        "blocks_parameters": int(encoder - by_kind["subsampling"][SIZE]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    facts.update({f"macs_{seconds}s": int(model.dense[MACS]) for seconds, model in costs.items()})
    facts["by_kind"] = {kind: {cost: int(value) for cost, value in row.items()} for kind, row in by_kind.items()}
    return facts


def write_facts(exp_dir: PathLike, model: Transducer, dense: Optional[dict[str, Any]] = None) -> None:
    """Write ``model.json``; ``dense`` holds the facts of the network that this one was pruned from (None: itself)."""
    facts = network_facts(model)
    write_json(Path(exp_dir) / FILE, {**facts, "dense": facts if dense is None else dense})


def read_facts(exp_dir: PathLike) -> dict[str, Any]:
    """Read ``model.json``.

    Raises:
        UserError: it is missing or broken.
    """
    return read_json(Path(exp_dir) / FILE, "train or extract that experiment first")
