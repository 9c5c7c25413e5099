"""Unit groups of feed-forward and attention modules, of each module as a whole, and of the stream between modules.

The norm of a module ``NAME`` is its sibling, by default ``NAME_norm``, and is removed with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Optional

from pruning.core.cost import CostTerm
from pruning.core.units import WIDTH, Span, UnitGroup


def module_group(
    layer: str,
    module: str,
    kind: str,
    out: str,
    d_model: int,
    norms: Optional[Sequence[str]] = None,
    bias: bool = True,
) -> UnitGroup:
    """Return the group of the module ``layer + module`` as one unit, whose outputs come from its submodule ``out``.

    The ``norms`` of the layer are removed with it; None: ``MODULE_norm``. ``bias``: whether ``out`` has a bias.
    """
    name = f"{layer}{module}"
    masks = tuple(Span(f"{name}.{out}.{tensor}", 0, width=d_model) for tensor in _tensors(bias))
    norms = (f"{module}_norm",) if norms is None else norms
    return UnitGroup(name, kind, 1, masks, removes=(f"{name}.", *(f"{layer}{norm}." for norm in norms)))


def ffn_groups(
    layer: str,
    module: str,
    hidden: int,
    d_model: int,
    linears: tuple[str, str] = ("linear1", "linear2"),
    norms: Optional[Sequence[str]] = None,
    gated: bool = False,
    biased: Optional[Collection[str]] = None,
) -> list[UnitGroup]:
    """Return the groups of a feed-forward module with two ``linears`` (`pruning.models.layers.FeedForward`).

    They are the module as a whole and its hidden units, each with its gate if the module is ``gated``. ``biased``:
    which of the ``linears`` have a bias; None: both.
    """
    first, second = linears
    biased = linears if biased is None else biased
    parent = module_group(layer, module, "ffn_module", second, d_model, norms, second in biased)
    following = Span(f"{parent.name}.{second}.weight", 1)
    own = tuple(Span(f"{parent.name}.{first}.{tensor}", 0, offset=part * hidden)
                for part in range(2 if gated else 1) for tensor in _tensors(first in biased))  # fmt: skip
    return [parent, UnitGroup(f"{parent.name}.hidden", "ffn", hidden, (following,), (*own, following), parent.name)]


def attention_groups(
    layer: str,
    heads: int,
    head_dim: int,
    d_model: int,
    relative_positions: bool = False,
    norms: Optional[Sequence[str]] = None,
    biased: Collection[str] = ("in_proj", "out_proj"),
) -> list[UnitGroup]:
    """Return the groups of a self-attention module with a fused ``in_proj``: the module as a whole and its heads.

    Args:
        layer: prefix of the names in the layer.
        heads, head_dim, d_model: number of heads, dimension of a head, and dimension of inputs and outputs.
        relative_positions: whether a head also owns rows of ``pos_proj`` and its ``pos_bias_u`` and ``pos_bias_v``.
        norms: see `module_group`.
        biased: which of ``in_proj`` and ``out_proj`` have a bias.
    """
    parent = module_group(layer, "attention", "attention_module", "out_proj", d_model, norms, "out_proj" in biased)
    name, inner = parent.name, heads * head_dim
    following = Span(f"{name}.out_proj.weight", 1, width=head_dim)
    own = [
        Span(f"{name}.in_proj.{tensor}", 0, head_dim, part * inner)
        for part in range(3)
        for tensor in _tensors("in_proj" in biased)
    ]
    if relative_positions:
        own.append(Span(f"{name}.pos_proj.weight", 0, head_dim))
        own += [Span(f"{name}.pos_bias_u", 0), Span(f"{name}.pos_bias_v", 0)]
    return [parent, UnitGroup(f"{name}.heads", "heads", heads, (following,), (*own, following), name)]


def shared_attention_groups(
    layer: str, shared: Sequence[int], head_dim: int, d_model: int, biased: Collection[str]
) -> list[UnitGroup]:
    """Return the groups of a `pruning.models.causal_attention.CausalAttention` in which query heads share keys, values.

    They are the module as a whole, and for each key/value head a group of one unit of kind ``head_groups``: itself and
    the query heads that share it, which in turn are the units of a group of kind ``heads``.

    Args:
        layer: prefix of the names in the layer.
        shared: number of query heads of each key/value head.
        head_dim, d_model: dimension of a head, and of inputs and outputs.
        biased: which of ``in_proj`` and ``out_proj`` have a bias.
    """
    module = module_group(layer, "attention", "attention_module", "out_proj", d_model, bias="out_proj" in biased)
    tensors = [f"{module.name}.in_proj.{tensor}" for tensor in _tensors("in_proj" in biased)]
    starts = [sum(shared) * head_dim, (sum(shared) + len(shared)) * head_dim]  # of keys and of values
    groups, first = [module], 0
    for index, heads in enumerate(shared):
        name, width = f"{module.name}.groups.{index}", heads * head_dim
        all_of_it = Span(f"{module.name}.out_proj.weight", 1, width, first)
        each = replace(all_of_it, width=head_dim)
        kept = [Span(tensor, 0, head_dim, start + index * head_dim) for start in starts for tensor in tensors]
        asked = [Span(tensor, 0, width, first) for tensor in tensors]
        groups.append(UnitGroup(name, "head_groups", 1, (all_of_it,), (*kept, *asked, all_of_it), module.name))
        queries = tuple(replace(span, width=head_dim) for span in asked)
        groups.append(UnitGroup(f"{name}.heads", "heads", heads, (each,), (*queries, each), name))
        first += width
    return groups


def projected_attention_groups(
    layer: str, module: str, kinds: tuple[str, str], heads: int, head_dim: int, d_model: int, biased: Sequence[str]
) -> list[UnitGroup]:
    """Return the groups of a `pruning.models.multi_head_attention.MultiHeadAttention`: as a whole, and its heads.

    Args:
        layer, module: prefix of the names in the layer, and name of the module.
        kinds: unit kinds of the heads and of the module.
        heads, head_dim, d_model: number of heads, dimension of a head, and dimension of the outputs.
        biased: projections that have a bias.
    """
    parent = module_group(layer, module, kinds[1], "out_proj", d_model, bias="out_proj" in biased)
    following = Span(f"{parent.name}.out_proj.weight", 1, head_dim)
    own = [Span(f"{parent.name}.{part}.{tensor}", 0, head_dim) for part in ("q_proj", "k_proj", "v_proj")
           for tensor in _tensors(part in biased)]  # fmt: skip
    return [parent, UnitGroup(f"{parent.name}.heads", kinds[0], heads, (following,), (*own, following), parent.name)]


def _tensors(bias: bool) -> tuple[str, ...]:
    return ("weight", "bias") if bias else ("weight",)


def stream_group(
    prefix: str,
    d_model: int,
    norms: Sequence[str],
    writers: Sequence[str],
    readers: Sequence[str],
    masked: Sequence[str] = (),
    rms_norms: Sequence[str] = (),
    each: int = 1,
    unbiased: Sequence[str] = (),
) -> UnitGroup:
    """Return the group of the channels of a residual stream, see `pruning.core.residual_width`.

    Args:
        prefix: prefix of the names of the network's part.
        d_model: number of channels.
        norms: layer norms over the stream; masks act on their weights and biases.
        writers: linear layers that write the stream, which lose rows.
        readers: linear layers, or convolutions of kernel size 1, that read it, which lose columns.
        masked: ``writers`` whose weights and biases are masked too.
        rms_norms: norms over the stream that divide by its root mean square.
        each: number of contiguous channels that make a unit.
        unbiased: ``norms`` and ``writers`` without a bias.
    """

    def vectors(names: Sequence[str]) -> tuple[Span, ...]:
        return tuple(Span(f"{name}.{tensor}", 0, each) for name in names for tensor in _tensors(name not in unbiased))

    units = d_model // each
    least = min(units, 2 if each == 1 else 1)  # a norm over a single channel is constant
    group = UnitGroup(f"{prefix}{WIDTH}", WIDTH, units, vectors([*masked, *norms]), vectors([*writers, *norms]),
                      minimum=least, norms=tuple(norms), rms_norms=tuple(rms_norms))  # fmt: skip
    return read_by(group, readers)


def read_by(group: UnitGroup, readers: Sequence[str]) -> UnitGroup:
    """Return the group of a residual width with more linear layers ``readers``, such as heads, that read the stream."""
    written = group.masks[0]
    columns = tuple(Span(f"{name}.weight", 1, written.width, written.offset) for name in readers)
    return replace(group, slices=(*group.slices, *columns), readers=(*group.readers, *columns))


def unit_terms(
    kind: str, unit: tuple[str, ...], wide: tuple[str, ...], of_width: tuple[int, int], rest: tuple[int, int]
) -> list[CostTerm]:
    """Return the terms of a unit: parameters and MACs that grow with the residual width, and those that do not."""
    if not wide:
        return [CostTerm(kind, unit, of_width[0] + rest[0], of_width[1] + rest[1])]
    return [CostTerm(kind, (*unit, *wide), *of_width), CostTerm(kind, unit, *rest)]
