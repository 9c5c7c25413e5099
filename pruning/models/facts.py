"""What a network costs, written beside every experiment so that tables need no network to be rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, cast

from torch import nn

from pruning.core.cost import MACS, SIZE, CostModel
from pruning.core.prunable import Prunable
from pruning.files import PathLike, read_json, write_json
from pruning.models.encoders import hears_samples
from pruning.models.speech_model import SpeechModel
from pruning.models.transformer_lm import TransformerLM

FILE = "model.json"
FRAMES_PER_SECOND, SAMPLES_PER_SECOND = 100, 16000
MACS_SECONDS = (10, 30)
_BEFORE_BLOCKS = ("subsampling", "frontend", "projection", "positional")
LM_TOKENS = 32
"""Length of the sentences at which a language model's MACs are counted."""


def frames_of(seconds: float) -> int:
    """Feature frames of ``seconds`` of audio."""
    return int(round(seconds * FRAMES_PER_SECOND))


def input_length(model: nn.Module, seconds: float) -> int:
    """Length of a network's input for ``seconds`` of audio: feature frames or samples; of a language model `LM_TOKENS`,
    whatever the seconds."""
    if isinstance(model, TransformerLM):
        return LM_TOKENS
    if isinstance(model, SpeechModel) and hears_samples(model.encoder):
        return int(round(seconds * SAMPLES_PER_SECOND))
    return frames_of(seconds)


def reference_length(model: nn.Module) -> tuple[int, str]:
    """The input at which a network's MACs are told: its length, and what that is in words."""
    in_words = f"{LM_TOKENS} tokens" if isinstance(model, TransformerLM) else f"{MACS_SECONDS[0]} s"
    return input_length(model, MACS_SECONDS[0]), in_words


def cost_model(model: nn.Module, seconds: float) -> CostModel:
    """Cost of what is pruned of a network, MACs at ``seconds`` of audio."""
    prunable = cast(Prunable, model)
    return CostModel(prunable.unit_groups(), prunable.cost_terms(input_length(model, seconds)))


def network_facts(model: nn.Module) -> dict[str, Any]:
    """What a network is in numbers.

    With an encoder: parameters of it (what is before its blocks included), of its blocks alone and of the network, the
    encoder's MACs. Of a language model: parameters of its blocks and of the network, MACs of the blocks per token. Of
    both: how many parameters are not zero.
    """
    facts = _lm_facts(model) if isinstance(model, TransformerLM) else _encoder_facts(model)
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    facts["nonzero_parameters"] = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    return facts


def _encoder_facts(model: nn.Module) -> dict[str, Any]:
    costs = {seconds: cost_model(model, seconds) for seconds in MACS_SECONDS}
    by_kind = _by_kind(costs[MACS_SECONDS[0]])
    encoder = costs[MACS_SECONDS[0]].dense[SIZE]
    macs = {f"macs_{seconds}s": int(model.dense[MACS]) for seconds, model in costs.items()}
    blocks = int(encoder) - sum(by_kind[kind][SIZE] for kind in _BEFORE_BLOCKS if kind in by_kind)
    return {"encoder_parameters": int(encoder), "blocks_parameters": blocks, **macs, "by_kind": by_kind}


def _lm_facts(model: TransformerLM) -> dict[str, Any]:
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
