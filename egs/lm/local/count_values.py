#!/usr/bin/env python3
"""Count the zeros and the different values in the matrices of a network.

A network whose weights were dequantised from a few bits has few of them, so that criteria find many equal scores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from pruning.bin import command

if TYPE_CHECKING:
    from torch import nn


class Values(NamedTuple):
    """The number of weights of a matrix, of those that are 0, of different values, and of values of a row at most."""

    name: str
    weights: int
    zeros: int
    different: int
    in_a_row: int


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Count, print a table over the kinds of matrices, and write ``OUTPUT``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp-dir", type=Path, required=True, help="experiment directory of the network")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(argv)

    from tabulate import tabulate

    from pruning import provenance
    from pruning.experiments.checkpoint import load_model
    from pruning.files import write_json

    model, _ = load_model(options.exp_dir)
    found = list(values_of(model))
    rows = summary(found)
    print(tabulate(rows, headers="keys", floatfmt=".4f"))
    facts = provenance.of_script("local/count_values.py", argv)
    write_json(options.output, {"matrices": [one._asdict() for one in found], "kinds": rows, "provenance": facts})


def values_of(model: nn.Module) -> Iterator[Values]:
    """Yield the counts of each matrix of a network."""
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            ordered = weight.detach().sort(dim=1).values
            in_a_row = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)
            yield Values(name, weight.numel(), int((weight == 0).sum()), len(weight.unique()), int(in_a_row.max()))


def summary(found: Sequence[Values]) -> list[dict[str, Any]]:
    """Return one row for all matrices of the same name in different layers."""
    kinds: dict[str, list[Values]] = {}
    for one in found:
        kinds.setdefault(".".join(part for part in one.name.split(".") if not part.isdigit()), []).append(one)
    rows = []
    for kind, of_kind in kinds.items():
        weights = sum(one.weights for one in of_kind)
        rows.append({"matrices": kind, "number": len(of_kind), "weights": weights,
                     "share of zeros": sum(one.zeros for one in of_kind) / weights,
                     "different values / weights": sum(one.different for one in of_kind) / weights,
                     "values in a row, at most": max(one.in_a_row for one in of_kind)})  # fmt: skip
    return rows


if __name__ == "__main__":
    command.run(main)
