"""How strongly each term of a loss pulls at the parts of a network: norms of gradients, relative to the task's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from pruning.core.extraction import extract
from pruning.core.views import view_of
from pruning.experiments import checkpoint
from pruning.experiments.checkpoint import FOUND
from pruning.experiments.structure_files import found_structure
from pruning.files import PathLike
from pruning.kinds.kind import Kind
from pruning.tasks.pruned import PrunedTask
from pruning.training.seeding import seed_everything
from pruning.training.task import StepInfo

N = TypeVar("N", bound=nn.Module)

WHOLE = "network"


def student(kind: Kind[N], source: PathLike) -> N:
    """Load a network, dense or extracted; that of a pruning run is extracted first, in memory.

    Raises:
        UserError: there is no such checkpoint, or it is of another kind.
    """
    path = checkpoint.file_of(source)
    if FOUND not in checkpoint.read_header(path):
        return kind.load(source)[0]
    dense = kind.own(checkpoint.load_model(path)[0])
    structure = found_structure(path)
    return kind.own(extract(dense, structure.resolved(view_of(dense, structure).unit_groups())))


def gradient_norms(
    task: PrunedTask, batches: Iterable[Any], parts: Mapping[str, tuple[str, ...]], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Return the norm of the gradient of each weighted term at the first step: term -> part -> norm.

    A norm is the root mean square over batches of the gradient's L2 norm in all trained parameters of the part.
    Dropout and augmentation are on, as in training.

    Args:
        task: task with a fixed structure.
        batches: training batches on the device of the task.
        parts: prefixes of parameter names, by name of the part; the whole network is added under `WHOLE`.
        seed: seed of dropout and augmentation.
    """
    task.train()
    names, parameters = zip(*((name, p) for name, p in task.model.named_parameters() if p.requires_grad))
    squares: dict[str, dict[str, float]] = {}
    count = 0
    for index, batch in enumerate(batches):
        seed_everything(seed, 1, index)
        weighted = task.terms(batch, StepInfo(1, index, 0, 1)).weighted
        for term, value in weighted.items():
            found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            sums = squares.setdefault(term, dict.fromkeys([*parts, WHOLE], 0.0))
            for name, gradient in zip(names, found):
                square = 0.0 if gradient is None else gradient.double().square().sum().item()
                for part in sums:
                    if part == WHOLE or name.startswith(parts[part]):
                        sums[part] += square
        count += 1
    return {term: {part: (total / max(count, 1)) ** 0.5 for part, total in sums.items()}
            for term, sums in squares.items()}  # fmt: skip


def table(norms: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows of a table: the norms of the first term, and those of the others as shares of it."""
    (first, reference), *others = norms.items()
    parts = [part for part in reference if any(of_term[part] for of_term in norms.values())]
    rows = [[f"{first} (norm)", *(f"{reference[part]:.3g}" for part in parts)]]
    for term, of_term in others:
        shares = [of_term[part] / reference[part] if reference[part] else float("inf") for part in parts]
        rows.append([term, *(f"{share:.1%}" for share in shares)])
    return ["term", *parts], rows
