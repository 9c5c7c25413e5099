"""Shapes that the configurations of Hugging Face do not have, for all kinds of networks."""

from __future__ import annotations

from collections.abc import Mapping

from pruning.errors import UserError
from pruning.importers.hf_weights import more

UNIFORM = ("prune with criterion.ranking=group and criterion.kinds=[ffn], or with criterion.ranking=layers and "
           "criterion.whole_layers=true")  # fmt: skip
"""Advice for shapes that cannot be written."""
REMEDY = f"export it to ONNX, or {UNIFORM}"


def refused(what: str, has: str) -> UserError:
    """Return the error for a network in which ``what`` holds, where Hugging Face ``has`` something else."""
    return UserError(f"{what}, but a Hugging Face directory has {has}", REMEDY)


def other_config() -> UserError:
    """Return the error for settings of a source that describe another network."""
    return UserError("the config.json that the import kept in the lang dir is not that of this network",
                     "give the lang dir that pruning.bin.import_hf wrote for this network")  # fmt: skip


def check_dense(ranks: Mapping[str, int]) -> None:
    """Refuse networks with factored layers.

    Raises:
        UserError: there are some.
    """
    if ranks:
        raise refused(f"{next(iter(ranks))}{more(list(ranks))} of the network are factored", "dense layers only")
