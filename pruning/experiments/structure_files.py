"""Reading the structures that pruning runs found."""

from __future__ import annotations

from pathlib import Path

from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.checkpoint import FOUND
from pruning.files import PathLike, read_json

STRUCTURE = "structure.json"


def check_extracted(header: checkpoint.Header, source: PathLike) -> None:
    """Refuse the checkpoint of a pruning run, which contains the weights of the dense network.

    Raises:
        UserError: the checkpoint is of a pruning run.
    """
    if FOUND in header:
        raise UserError(f"{source} is of a pruning run", "extract it first, and give the extracted network")


def read_structure(source: PathLike) -> Structure:
    """Read a structure from its JSON file, or the structure that a pruning run found.

    Raises:
        UserError: ``source`` is neither.
    """
    if Path(source).suffix == ".json":
        remedy = "give a structure.json or the experiment directory of a pruning run"
        return Structure.from_dict(read_json(source, remedy), str(source))
    return found_structure(source)


def found_structure(source: PathLike) -> Structure:
    """Read the structure that a pruning run found, from its best checkpoint or from a given one.

    Raises:
        UserError: the checkpoint does not exist, or is not of a pruning run.
    """
    path = checkpoint.file_of(source)
    if not path.exists() and Path(source).is_dir():
        raise UserError(
            f"{source} has no best checkpoint, which a pruning run writes once its sparsity is on target",
            "give the experiment directory of a finished pruning run",
        )
    header = checkpoint.read_header(path)
    if FOUND not in header:
        raise UserError(f"{path} is not of a pruning run", "give the experiment directory of a pruning run")
    return Structure.from_dict(header[FOUND], str(path))
