"""The structures that pruning runs found."""

from __future__ import annotations

from pathlib import Path

from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.checkpoint import FOUND
from pruning.files import PathLike, read_json

STRUCTURE = "structure.json"


def check_extracted(header: checkpoint.Header, source: PathLike) -> None:
    """Refuse the checkpoint of a pruning run, whose weights are those of the dense network.

    Raises:
        UserError: it is of one.
    """
    if FOUND in header:
        raise UserError(f"{source} is of a pruning run", "extract it first, and give the extracted network")


def read_structure(source: PathLike) -> Structure:
    """A structure from its JSON file, or that which a pruning run found.

    Raises:
        UserError: neither is there.
    """
    if Path(source).suffix == ".json":
        remedy = "give a structure.json or the experiment of a pruning run"
        return Structure.from_dict(read_json(source, remedy), str(source))
    return found_structure(source)


def found_structure(source: PathLike) -> Structure:
    """The structure that a pruning run found: that of its best checkpoint, or of a given one.

    Raises:
        UserError: no such checkpoint, or not of a pruning run.
    """
    path = checkpoint.file_of(source)
    if not path.exists() and Path(source).is_dir():
        raise UserError(
            f"{source} has no best checkpoint, which a pruning run has once its sparsity is on target",
            "give the experiment of a pruning run that has ended",
        )
    header = checkpoint.read_header(path)
    if FOUND not in header:
        raise UserError(f"{path} is not of a pruning run", "give the experiment of one")
    return Structure.from_dict(header[FOUND], str(path))
