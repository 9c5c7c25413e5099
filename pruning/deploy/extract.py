"""Extract a small checkpoint from a pruning run: cut, check that the outputs agree, re-estimate batch norms."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Optional

import torch
from tabulate import tabulate
from torch import nn

from pruning import registry
from pruning.core.cost import CostModel, summarise
from pruning.core.extraction import cut_tensors, extract
from pruning.core.masking import Masker
from pruning.core.names import MACS, SIZE
from pruning.core.prunable import prunable
from pruning.core.repair import repair
from pruning.core.residual_width import kept_channels
from pruning.core.single_weights import SingleWeights, is_of_single_weights
from pruning.core.structure import Structure
from pruning.core.views import view_of
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.structure_files import STRUCTURE, found_structure
from pruning.files import PathLike, write_json
from pruning.models.facts import describe, network_facts, read_facts, write_facts
from pruning.provenance import file_fingerprint
from pruning.speech.data import checks
from pruning.speech.data.batches import Batch

logger = logging.getLogger(__name__)

EXACTNESS = 1e-4
SIZES = "sizes"
ORIGIN = "extracted_from"
"""Key of a checkpoint header for what the network was extracted from."""


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return ``max|a - b| / max|b|`` for two tensors of the same shape."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.no_grad()
def exactness(dense: nn.Module, structure: Structure, small: nn.Module) -> float:
    """Return the relative difference of the masked and the extracted network's outputs on a random input."""
    dense, small = dense.eval(), small.eval()
    with Masker(dense, view_of(dense, structure).unit_groups()).applied(structure.masks()):
        masked = prunable(dense).probe(torch.Generator().manual_seed(0))
    extracted = prunable(small).probe(torch.Generator().manual_seed(0))
    kept = kept_channels(structure, extracted.shape[1], masked.shape[1])
    if kept is not None and extracted.shape != masked.shape:  # outputs are the residual stream
        masked = masked[:, kept]
    return relative_difference(extracted, masked)


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether a network has batch norm statistics to re-estimate."""
    return any(isinstance(module, nn.BatchNorm1d) for module in model.modules())


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[Batch]) -> int:
    """Replace running statistics by the mean over ``batches``, with everything else in evaluation mode.

    Returns:
        The number of batches used.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # type: ignore[assignment]  # cumulative mean
        norm.train()
    count = 0
    for batch in batches:
        model(batch.features, batch.lengths)
        count += 1
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.eval()
    return count


def repaired(
    teacher: nn.Module,
    model: nn.Module,
    structure: Structure,
    batches: Iterable[Any],
    utterances: int,
    forward: Callable[[nn.Module, Any], object],
) -> Structure:
    """Re-solve the weights of ``model`` that take cut units as input, in place (see `pruning.core.repair`).

    Args:
        teacher: the dense network whose outputs to approximate; may be ``model`` itself.
        model: network with dense weights, of which ``structure`` will be kept.
        structure: the units to keep.
        batches: calibration data.
        utterances: minimum number of utterances to use; whole batches are used.
        forward: ``forward(network, batch)`` makes a forward pass.

    Returns:
        The structure that the weights are made for: without soft scales.

    Raises:
        UserError: the teacher has other dimensions than ``model``.
    """
    if registry.describe(teacher) != registry.describe(model):
        raise UserError("the teacher has other dimensions than the pruned network", "give the one it was pruned from")
    calibration: list[Any] = []
    for batch in batches:
        calibration.append(batch)
        if sum(len(seen.ids) for seen in calibration) >= utterances:
            break
    teacher = copy.deepcopy(teacher) if teacher is model else teacher
    count = repair(teacher.eval(), model.eval(), structure, calibration, forward)
    logger.info("%d modules repaired on %d utterances", count, sum(len(batch.ids) for batch in calibration))
    return structure.without_scale()


def before_after(dense: nn.Module, structure: Structure) -> str:
    """Return a table of parameters and MACs by unit kind, before and after extraction."""
    length, at = registry.of(dense).reference(dense)
    view = view_of(dense, structure)
    costs = CostModel(view.unit_groups(), view.cost_terms(length))
    rows = summarise(costs, {group.name: structure.count(group.name) for group in costs.groups})
    total: dict[str, Any] = {"kind": "all"}
    for cost in (SIZE, MACS):
        before, after = costs.dense[cost], costs.structure_cost(structure)[cost]
        total |= {f"{cost} before": before, f"{cost} after": after, f"{cost} removed": 1 - after / before}
    lines = [
        [
            row["kind"],
            f"{row['size before'] / 1e6:.3f} M",
            f"{row['size after'] / 1e6:.3f} M",
            f"{row['size removed']:.1%}",
            f"{row['macs before'] / 1e9:.3f} G",
            f"{row['macs after'] / 1e9:.3f} G",
            f"{row['macs removed']:.1%}",
        ]
        for row in [*rows, total]
    ]
    headers = ["part", "parameters", "kept", "removed", f"MACs at {at}", "kept", "removed"]
    return tabulate(lines, headers, colalign=("left",) + ("right",) * 6)


def check_origin(exp_dir: PathLike, origin: Mapping[str, Any]) -> None:
    """Check that an existing extraction was made from ``origin``.

    Args:
        exp_dir: experiment directory of the extraction.
        origin: option of the extraction -> JSON value that stands for it, e.g. a file's fingerprint; None: not given.

    Raises:
        UserError: an option differs, or the extraction does not record what it was made from.
    """
    recorded = checkpoint.read_header(checkpoint.best_path(exp_dir)).get(ORIGIN) or {}
    differing = [option for option in {**origin, **recorded} if origin.get(option) != recorded.get(option)]
    if differing:
        what = f"{exp_dir} contains an extraction with another {', '.join(differing)}"
        raise UserError(what, "remove it and what was trained from it, or give another --exp-dir")


def _with_fresh_weights(model: nn.Module, seed: int, structure: Structure) -> nn.Module:
    torch.manual_seed(seed)
    fresh = registry.build(registry.describe(model)).eval()
    statistics = dict(model.named_buffers())
    for name, buffer in fresh.named_buffers():
        if name.endswith(("feature_mean", "feature_scale")):
            buffer.copy_(statistics[name])
    if is_of_single_weights(structure):  # the structure is given by zeros in the weights
        groups = SingleWeights(fresh).unit_groups()
        fresh.load_state_dict(cut_tensors(fresh.state_dict(), groups, structure.without_scale()))
    return fresh


def extract_snapshots(exp_dir: PathLike) -> None:
    """Extract the snapshots that a pruning run kept on its way, each into its own directory under ``sizes/``."""
    for path in sorted(checkpoint.snapshot_path(exp_dir, "all").parent.glob("*.safetensors")):
        place = Path(exp_dir) / SIZES / path.stem
        origin = {"--pruned": file_fingerprint(path)}
        if checkpoint.best_path(place).exists():
            check_origin(place, origin)
            continue
        model, header = checkpoint.load_model(path)
        extract_experiment(model, header, found_structure(path), place, origin=origin)
        logger.info("%s: %s", place, describe(read_facts(place)))


def extract_experiment(
    dense: nn.Module,
    header: checkpoint.Header,
    structure: Structure,
    exp_dir: PathLike,
    batches: Optional[Iterable[Batch]] = None,
    origin: Optional[Mapping[str, Any]] = None,
    reinitialise: Optional[int] = None,
) -> nn.Module:
    """Cut ``structure`` out of ``dense`` and write the small network to its own experiment directory.

    Args:
        dense: the network with its dense weights.
        header: the header of its checkpoint.
        structure: the units to keep.
        exp_dir: directory for ``best.safetensors``, ``structure.json`` and ``model.json``.
        batches: training batches to re-estimate batch norm statistics; None keeps the statistics.
        origin: what the network is extracted from, for the header (JSON values); see `check_origin`.
        reinitialise: seed of new random weights that replace those of ``dense``: the small network inherits only its
            structure and the feature statistics.

    Raises:
        UserError: the structure does not fit this network.
        RuntimeError: the outputs of the masked and the small network differ, which is a bug.
    """
    structure = structure.resolved(view_of(dense, structure).unit_groups())
    small = extract(dense, structure)
    difference = exactness(dense, structure, small)
    logger.info("relative difference of masked and extracted outputs: %.1e", difference)
    if not difference <= EXACTNESS:
        raise RuntimeError(f"masked and extracted outputs differ by {difference:.1e} relative, more than {EXACTNESS:g}")
    if reinitialise is not None:
        small = _with_fresh_weights(small, reinitialise, structure)
    elif batches is not None and has_batch_norm(small):
        logger.info("batch norms re-estimated on %d batches", reestimate_batch_norm(small, batches))
    facts = header.get("dense") or network_facts(dense)
    whole = (
        structure
        if checkpoint.BEFORE not in header
        else structure.after(Structure.from_dict(header[checkpoint.BEFORE]))
    )
    kept = whole.without_scale().to_dict()
    new_header = {
        "model": registry.describe(small),
        "tokenizer": header["tokenizer"],
        "structure": kept,
        "dense": facts,
        "exactness": difference,
        ORIGIN: dict(origin or {}),
    }
    for key in ("targets", checks.FEATURES, checkpoint.PRETRAINED):  # from the pruning run
        if key in header:
            new_header[key] = header[key]
    write_json(Path(exp_dir) / STRUCTURE, kept)
    write_facts(exp_dir, small, facts)
    checkpoint.save_model(checkpoint.best_path(exp_dir), small, new_header)
    return small
