"""Facts about a network (parameters and MACs), stored in each experiment directory so that tables need no network."""

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
    """Return the number of feature frames in ``seconds`` of audio."""
    return int(round(seconds * FRAMES_PER_SECOND))


def samples_of(seconds: float) -> int:
    """Return the number of samples in ``seconds`` of audio."""
    return int(round(seconds * SAMPLES_PER_SECOND))


def cost_model(model: nn.Module, seconds: float) -> CostModel:
    """Build the cost model of a network, with MACs at ``seconds`` of audio (or at its kind's number of tokens)."""
    return costs_at(model, registry.of(model).input_length(model, seconds))


def costs_at(model: nn.Module, length: int) -> CostModel:
    """Build the cost model of a network, with MACs at an input of ``length`` frames, samples or tokens."""
    from pruning.core.cost import CostModel
    from pruning.core.prunable import prunable

    declared = prunable(model)
    return CostModel(declared.unit_groups(), declared.cost_terms(length))


def network_facts(model: nn.Module) -> dict[str, Any]:
    """Return the facts of a network: those of its kind, its parameters, and the number of nonzero parameters."""
    facts = registry.of(model).facts(model)
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    facts["nonzero_parameters"] = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    return facts


def of_encoder(model: nn.Module) -> dict[str, Any]:
    """Return the facts of a speech network: parameters and MACs of the whole encoder, parameters of the blocks."""
    costs = {seconds: cost_model(model, seconds) for seconds in MACS_SECONDS}
    by_kind = _by_kind(costs[MACS_SECONDS[0]])
    encoder = costs[MACS_SECONDS[0]].dense[SIZE]
    macs = {f"macs_{seconds}s": int(model.dense[MACS]) for seconds, model in costs.items()}
    blocks = int(encoder) - sum(by_kind[kind][SIZE] for kind in _BEFORE_BLOCKS if kind in by_kind)
    return {"encoder_parameters": int(encoder), "blocks_parameters": blocks, **macs, "by_kind": by_kind}


def of_encoder_decoder(model: nn.Module, tokens: Mapping[int, int]) -> dict[str, Any]:
    """Return the facts of an encoder-decoder: those of its encoder, and of decoder and output layer.

    Args:
        model: network whose kinds of cost terms begin with ``encoder_`` or ``decoder_``, or are ``output``.
        tokens: seconds of audio, of `MACS_SECONDS` -> tokens of the transcript at which its MACs are counted.
    """
    tables = {seconds: _by_kind(cost_model(model, seconds)) for seconds in MACS_SECONDS}
    first = tables[MACS_SECONDS[0]]
    encoder = _sum(first, "encoder_", SIZE)
    before = sum(row[SIZE] for kind, row in first.items() if kind in (f"encoder_{part}" for part in _BEFORE_BLOCKS))
    found: dict[str, Any] = {"encoder_parameters": encoder, "blocks_parameters": encoder - before,
                             "decoder_parameters": _sum(first, "decoder_", SIZE)}  # fmt: skip
    for seconds, table in tables.items():
        found[f"macs_{seconds}s"] = _sum(table, "encoder_", MACS)
        found[f"decoder_macs_{seconds}s"] = _sum(table, "decoder_", MACS)
        found[f"output_macs_{seconds}s"] = _sum(table, "output", MACS)
        found[f"tokens_{seconds}s"] = tokens[seconds]
    return {**found, "by_kind": first}


def _sum(table: Mapping[str, Mapping[str, int]], begins: str, cost: str) -> int:
    """Return a cost of all kinds of terms with this beginning."""
    return sum(row[cost] for kind, row in table.items() if kind.startswith(begins))


def of_blocks(model: nn.Module, tokens: int) -> dict[str, Any]:
    """Return the facts of a language model: parameters of its blocks, and MACs per token in a text of ``tokens``."""
    costs = costs_at(model, tokens)
    return {
        "blocks_parameters": int(costs.dense[SIZE]),
        "macs_per_token": int(costs.dense[MACS] / tokens),
        "tokens": tokens,
        "by_kind": _by_kind(costs),
    }


def _by_kind(costs: CostModel) -> dict[str, dict[str, int]]:
    table = costs.by_kind(costs.dense_counts())
    return {kind: {cost: int(value) for cost, value in row.items()} for kind, row in table.items()}


def write_facts(exp_dir: PathLike, model: nn.Module, dense: Optional[dict[str, Any]] = None) -> None:
    """Write ``model.json``; ``dense`` has the facts of the network from which this one was pruned (None: itself)."""
    facts = network_facts(model)
    write_json(Path(exp_dir) / FILE, {**facts, "dense": facts if dense is None else dense})


def read_facts(exp_dir: PathLike) -> dict[str, Any]:
    """Read ``model.json``.

    Raises:
        UserError: the file is missing or broken.
    """
    return read_json(Path(exp_dir) / FILE, "train or extract this experiment first")


def decoder_macs(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the column of tables with the MACs of a decoder and its output layer; empty without a decoder."""
    if "decoder_macs_10s" not in facts:
        return {}
    decoder, output = (facts[f"{part}_macs_10s"] / 1e9 for part in ("decoder", "output"))
    return {"GMACs 10 s decoder / output layer": f"{decoder:.3f} / {output:.3f} ({facts['tokens_10s']} tokens)"}


def describe(facts: Mapping[str, Any]) -> str:
    """Format the result of `network_facts` as one line."""
    whole = f"whole model {facts['parameters'] / 1e6:.3f} M parameters"
    if "encoder_parameters" in facts:
        encoder, macs = facts["encoder_parameters"] / 1e6, facts["macs_10s"] / 1e9
        line = f"encoder {encoder:.3f} M parameters, {macs:.3f} GMACs at 10 s; "
        if "decoder_parameters" in facts:
            decoder, output = (facts[f"{part}_macs_10s"] / 1e9 for part in ("decoder", "output"))
            line += f"decoder {facts['decoder_parameters'] / 1e6:.3f} M parameters, {decoder:.3f} GMACs for "
            line += f"{facts['tokens_10s']} tokens, output layer {output:.3f}; "
        return line + whole
    if "blocks_parameters" in facts:
        blocks, macs = facts["blocks_parameters"] / 1e6, facts["macs_per_token"] / 1e6
        return f"blocks {blocks:.3f} M parameters, {macs:.3f} M MACs per token; {whole}"
    return whole
