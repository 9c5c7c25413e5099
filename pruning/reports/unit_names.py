"""Names of unit groups, and of the kinds of costs, in the words of the field: for pictures and tables."""

from __future__ import annotations

import re
from typing import NamedTuple

_NUMBERED = re.compile(
    r"(?P<before>(.*\.)?)(?P<list>[a-z_]*layers|convolutions|convs)\.(?P<index>\d+)(\.(?P<part>.+))?"
)
_WORDS = {
    "macaron": "macaron FFN", "ffn": "FFN", "feed_forward": "FFN", "attention": "self-attention",
    "cross_attention": "cross-attention", "hidden": "hidden units", "width": "residual stream",
    "in_proj": "input projection", "out_proj": "output projection", "linear1": "first matrix",
    "linear2": "second matrix", "pointwise1": "first pointwise", "pointwise2": "second pointwise",
    "feature_extractor": "front end", "frontend": "front end",
}  # fmt: skip
"""Words for the parts of names; the others are said as they are, with spaces."""


class Place(NamedTuple):
    """Where units are: the row and the column of a table of layers and their parts.

    Attributes:
        row: a layer or a convolution, numbered from 1 (``encoder layer 3``), or another module.
        column: part of it, and what its units are (``FFN hidden units``).
        stack: what the row is one of; rows of a stack belong together.
        number: number of the row in its stack, from 1; 0: the only one.
    """

    row: str
    column: str
    stack: str
    number: int


def place(group: str) -> Place:
    """Return the place of a unit group by its name, such as ``encoder.layers.2.ffn.hidden``.

    Names count from 0, places from 1 like ``distillation.layers``, where 0 is the input of the first layer.
    """
    match = _NUMBERED.fullmatch(group)
    if match is None:
        before, _, last = group.rpartition(".")
        row = _words(before.removeprefix("encoder.")) or "network"
        return Place(row, _words(last), row, 0)
    stack, number = _stack(match["before"], match["list"]), int(match["index"]) + 1
    return Place(f"{stack} {number}", _words(match["part"] or "") or "whole", stack, number)


def _stack(before: str, of: str) -> str:
    """Return what a row is one of, from what is before the number in a name."""
    inside = [part for part in before.split(".") if part]
    if of == "layers" and not {"frontend", "front_end", "feature_extractor"} & set(inside):
        return " ".join([*(part for part in inside[:1] if part in ("encoder", "decoder")), "layer"])
    front = "subsampling" if "subsampling" in inside else "front end"
    return f"{front} convolution"


def cost_kind(kind: str) -> str:
    """Return the kind of a cost in words: ``decoder_cross_attention`` is decoder cross attention."""
    words = {"ffn": "FFN", "frontend": "front end", "norm": "norms", "convnext": "ConvNeXt"}
    return " ".join(words.get(part, part) for part in kind.split("_"))


def _words(name: str) -> str:
    return " ".join(_WORDS.get(part, part.replace("_", " ")) for part in name.split(".") if part)
