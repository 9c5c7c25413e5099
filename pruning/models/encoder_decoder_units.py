"""Unit groups and costs of the encoder and the decoder of Whisper and Moonshine.

Unit kinds: ``frontend`` (channels of each convolution but the last), ``heads`` (of self-attention), ``cross_heads``,
``ffn``; for whole modules: ``attention_module``, ``cross_attention_module``, ``ffn_module``. On request also ``width``:
the channels of the residual stream, one group for the encoder and one for the decoder. Names begin with a ``prefix``,
which is empty for an encoder of its own; the kinds of cost terms begin with it too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, Span, UnitGroup
from pruning.models.encoder_decoder_config import AudioEncoderConfig, StackConfig, TextDecoderConfig
from pruning.models.module_units import (
    ffn_groups,
    projected_attention_groups,
    read_by,
    stream_group,
    unit_terms,
)
from pruning.models.multi_head_attention import PROJECTIONS

FRONTEND, HEADS, CROSS_HEADS = "frontend", "heads", "cross_heads"
ENCODER, DECODER = "encoder.", "decoder."
_CONVOLUTIONS = "front_end.convolutions."
_KINDS = {"attention": (HEADS, "attention_module"), "cross_attention": (CROSS_HEADS, "cross_attention_module")}
_LINEARS = ("linear1", "linear2")
_Stack = TypeVar("_Stack", AudioEncoderConfig, TextDecoderConfig)


def conv_bias(config: AudioEncoderConfig, index: int) -> bool:
    """Return whether convolution ``index`` has a bias: Moonshine's first has none."""
    return index > 0 or not has_norm(config)


def has_norm(config: AudioEncoderConfig) -> bool:
    """Return whether a norm follows the first convolution, as it does over samples."""
    return config.bins == 0


def _layer(index: int) -> str:
    return f"layers.{index}."


def encoder_groups(config: AudioEncoderConfig, width: bool = False) -> list[UnitGroup]:
    """Return the unit groups of an encoder, for the modules that exist; with ``width``, also the residual width."""
    groups = [*_frontend_groups(config), *_layer_groups(config)]
    if not width:
        return groups
    last = f"{_CONVOLUTIONS}{len(config.common.kernels) - 1}"
    readers, writers, norms = _of_stream(config)
    writers = [last, *writers]
    group = stream_group("", config.d_model, norms, writers, readers, masked=writers, unbiased=_unbiased(config, norms))
    return [*groups, _with_table(group, "positions") if config.positions else group]


def _frontend_groups(config: AudioEncoderConfig) -> list[UnitGroup]:
    groups = []
    for index, channels in enumerate(config.conv_channels):
        name, following = f"{_CONVOLUTIONS}{index}", Span(f"{_CONVOLUTIONS}{index + 1}.weight", 1)
        normed = index == 0 and has_norm(config)
        own = [f"{name}.weight", *[f"{name}.bias"] * conv_bias(config, index)]
        own += ["front_end.norm.weight", "front_end.norm.bias"] * normed
        slices = (*(Span(tensor, 0) for tensor in own), following)
        groups.append(UnitGroup(f"{name}.channels", FRONTEND, channels, (following,), slices, minimum=1,
                                norms=("front_end.norm",) * normed))  # fmt: skip
    return groups


def _layer_groups(config: StackConfig, first: int = 0) -> list[UnitGroup]:
    """Return the groups of all layers, numbered from ``first``."""
    groups: list[UnitGroup] = []
    for index in range(config.num_layers):
        of_layer: list[UnitGroup] = []
        for module, heads in config.attention_heads.items():
            if heads[index]:
                of_layer += projected_attention_groups(_layer(index), module, _KINDS[module], heads[index],
                                                       config.head_dim, config.d_model,
                                                       config.common.biased)  # fmt: skip
        if config.ffn_dim[index]:
            of_layer += ffn_groups(_layer(index), "ffn", config.ffn_dim[index], config.d_model, gated=config.gated)
        groups += [replace(group, layer=first + index) for group in of_layer]
    return groups


def _of_stream(config: StackConfig) -> tuple[list[str], list[str], list[str]]:
    """Return what reads the residual stream, what writes it, and the norms over it."""
    readers, writers, norms = [], [], []
    for index in range(config.num_layers):
        for module, heads in config.attention_heads.items():
            if heads[index]:
                name = f"{_layer(index)}{module}"
                own = ("q_proj",) if module == "cross_attention" else ("q_proj", "k_proj", "v_proj")
                readers += [f"{name}.{part}" for part in own]
                writers.append(f"{name}.out_proj")
                norms.append(f"{name}_norm")
        if config.ffn_dim[index]:
            name = f"{_layer(index)}ffn"
            readers.append(f"{name}.{_LINEARS[0]}")
            writers.append(f"{name}.{_LINEARS[1]}")
            norms.append(f"{name}_norm")
    return readers, writers, [*norms, "norm"]


def _unbiased(config: StackConfig, norms: list[str]) -> list[str]:
    """Return the norms and writers of the stream without bias."""
    plain = [f"{_layer(index)}{module}.out_proj" for index in range(config.num_layers)
             for module in config.attention_heads if "out_proj" not in config.common.biased]  # fmt: skip
    return plain if config.common.norm_bias else [*plain, *norms]


def _with_table(group: UnitGroup, table: str, masked: bool = True) -> UnitGroup:
    """Return the group of a residual width with an embedding ``table`` that writes the stream."""
    columns = Span(f"{table}.weight", 1)
    return replace(group, masks=(*group.masks, *[columns] * masked), slices=(*group.slices, columns))


def decoder_groups(config: TextDecoderConfig, first: int, width: bool = False) -> list[UnitGroup]:
    """Return the unit groups of a decoder, whose layers are numbered from ``first``; see `encoder_groups`.

    Masks of the residual width act on weight and bias of the norms, behind which everything reads the stream, the tied
    output layer included.
    """
    groups = _layer_groups(config, first)
    if not width:
        return groups
    readers, writers, norms = _of_stream(config)
    group = stream_group("", config.d_model, norms, writers, readers, unbiased=_unbiased(config, norms))
    for table in ("embedding", *["positions"] * (config.positions > 0)):
        group = _with_table(group, table, masked=False)
    return [*groups, group if config.tied else read_by(group, ["output"])]


def memory_readers(config: TextDecoderConfig) -> list[str]:
    """Return the linear layers of a decoder that read the encoder's output."""
    return [f"{_layer(index)}cross_attention.{part}" for index, heads in enumerate(config.cross_heads) if heads
            for part in ("k_proj", "v_proj")]  # fmt: skip


def encoder_terms(config: AudioEncoderConfig, inputs: int, width: bool = False, prefix: str = "") -> list[CostTerm]:
    """Return the cost terms of an encoder for an utterance of ``inputs`` frames of features or samples.

    Kinds: ``frontend``, ``positional``, ``attention``, ``ffn``, ``norm``. MACs count convolutions, linear layers and
    the matrix products of attention, but not norms and activations. With ``width``, the terms multiply the count of the
    residual width instead of ``d_model``.
    """
    wide, d = ((f"{prefix}{WIDTH}",), 1) if width else ((), config.d_model)
    kind = prefix.replace(".", "_")
    frames, terms = config.common.frames(inputs), list[CostTerm]()
    previous: tuple[str, ...] = ()
    groups = [(f"{prefix}{_CONVOLUTIONS}{index}.channels",) for index in range(len(config.conv_channels))]
    for index, (kernel, own) in enumerate(zip(config.common.kernels, [*groups, wide])):
        each = (d if index == len(groups) else 1) * kernel * (config.bins or 1 if index == 0 else 1)
        terms.append(CostTerm(f"{kind}{FRONTEND}", (*previous, *own), each, each * frames[index]))
        rest = int(conv_bias(config, index)) + 2 * int(index == 0 and has_norm(config))
        terms.append(CostTerm(f"{kind}{FRONTEND}", own, rest * (d if index == len(groups) else 1), 0))
        previous = own
    if config.positions:
        terms.append(CostTerm(f"{kind}positional", wide, config.positions * d, 0))
    for index in range(config.num_layers):
        terms += _self_terms(config, index, frames[-1], prefix, wide, d)
        terms += _ffn_terms(config, index, frames[-1], prefix, wide, d)
    return [*terms, CostTerm(f"{kind}norm", wide, _norm(config) * d, 0)]


def _norm(config: StackConfig) -> int:
    """Return the parameters of a norm per channel."""
    return 1 + int(config.common.norm_bias)


def _self_terms(
    config: StackConfig, index: int, length: int, prefix: str, wide: tuple[str, ...], d: int
) -> list[CostTerm]:
    """Return the terms of a self-attention module.

    ``wide`` is the group of the residual width, of which a unit has ``d`` channels, or empty for ``d`` channels.
    """
    if not config.heads[index]:
        return []
    kind, h, biased = f"{prefix.replace('.', '_')}attention", config.head_dim, config.common.biased
    module = f"{prefix}{_layer(index)}attention"
    rest = (sum(part in biased for part in ("q_proj", "k_proj", "v_proj")) * h, 2 * length * length * h)
    terms = unit_terms(kind, (module, f"{module}.heads"), wide, (4 * d * h, 4 * length * d * h), rest)
    return [*terms, CostTerm(kind, (module, *wide), (int("out_proj" in biased) + _norm(config)) * d, 0)]


def _ffn_terms(
    config: StackConfig, index: int, length: int, prefix: str, wide: tuple[str, ...], d: int
) -> list[CostTerm]:
    """Return the terms of a feed-forward module; for ``wide`` and ``d`` see `_self_terms`."""
    if not config.ffn_dim[index]:
        return []
    kind, module = f"{prefix.replace('.', '_')}ffn", f"{prefix}{_layer(index)}ffn"
    unit, parts = (module, f"{module}.hidden"), 3 if config.gated else 2  # vectors of a unit
    terms = unit_terms(kind, unit, wide, (parts * d, parts * length * d), (parts - 1, 0))
    return [*terms, CostTerm(kind, (module, *wide), (1 + _norm(config)) * d, 0)]


def decoder_terms(config: TextDecoderConfig, frames: int, tokens: int, width: bool = False) -> list[CostTerm]:
    """Return the cost terms of a decoder for ``tokens`` tokens and ``frames`` frames of the encoder's output.

    Kinds: ``decoder_embedding`` (also positions), ``decoder_attention``, ``decoder_cross_attention``,
    ``decoder_cross_keys_values`` (computed once per utterance), ``decoder_ffn``, ``decoder_norm``, ``output``. The
    products of self-attention are counted in full, as for all tokens at once. An output layer that is tied to the
    embedding has MACs only.
    """
    wide, d = ((f"{DECODER}{WIDTH}",), 1) if width else ((), config.d_model)
    of_memory, d_memory = ((f"{ENCODER}{WIDTH}",), 1) if width else ((), config.memory_dim)
    terms = [CostTerm("decoder_embedding", wide, (config.vocab_size + config.positions) * d, 0)]
    for index in range(config.num_layers):
        terms += _self_terms(config, index, tokens, DECODER, wide, d)
        if config.cross_heads[index]:
            terms += _cross_terms(config, index, frames, tokens, (wide, d), (of_memory, d_memory))
        terms += _ffn_terms(config, index, tokens, DECODER, wide, d)
    terms.append(CostTerm("decoder_norm", wide, _norm(config) * d, 0))
    own = 0 if config.tied else config.vocab_size * d
    return [*terms, CostTerm("output", wide, own, tokens * config.vocab_size * d)]


def _cross_terms(
    config: TextDecoderConfig,
    index: int,
    frames: int,
    tokens: int,
    of_stream: tuple[tuple[str, ...], int],
    of_memory: tuple[tuple[str, ...], int],
) -> list[CostTerm]:
    """Return the terms of a cross-attention module; for ``of_stream`` and ``of_memory`` see `_self_terms`."""
    module, h, biased = f"{DECODER}{_layer(index)}cross_attention", config.head_dim, config.common.biased
    unit, kinds = (module, f"{module}.heads"), ("decoder_cross_attention", "decoder_cross_keys_values")
    (wide, d), (memory, d_memory) = of_stream, of_memory
    own, kept = (sum(part in biased for part in parts) * h for parts in (("q_proj",), ("k_proj", "v_proj")))
    terms = unit_terms(kinds[0], unit, wide, (2 * d * h, 2 * tokens * d * h), (own, 2 * tokens * frames * h))
    terms += unit_terms(kinds[1], unit, memory, (2 * d_memory * h, 2 * frames * d_memory * h), (kept, 0))
    return [*terms, CostTerm(kinds[0], (module, *wide), (int("out_proj" in biased) + _norm(config)) * d, 0)]


def encoder_linears(config: AudioEncoderConfig, inputs: int, prefix: str = "") -> list[LinearLayer]:
    """Return the linear layers of an encoder, for ``inputs`` frames of features or samples."""
    return _linears(config, prefix, config.common.frames(inputs)[-1], 0)


def decoder_linears(config: TextDecoderConfig, frames: int, tokens: int) -> list[LinearLayer]:
    """Return the linear layers of a decoder but the output layer; for the arguments see `decoder_terms`."""
    return _linears(config, DECODER, tokens, frames)


def _linears(config: StackConfig, prefix: str, length: int, memory: int) -> list[LinearLayer]:
    """Return the linear layers for sequences of ``length`` vectors that read a ``memory`` of frames."""
    kind, layers = prefix.replace(".", "_"), []
    for index in range(config.num_layers):
        for module, heads in config.attention_heads.items():
            name, cross = f"{prefix}{_layer(index)}{module}", module == "cross_attention"
            for part in PROJECTIONS if heads[index] else ():
                remembered = cross and part in ("k_proj", "v_proj")
                of = "cross_keys_values" if remembered else module
                layers.append(LinearLayer(f"{name}.{part}", f"{kind}{of}", memory if remembered else length))
        if config.ffn_dim[index]:
            layers += [LinearLayer(f"{prefix}{_layer(index)}ffn.{linear}", f"{kind}ffn", length) for linear in _LINEARS]
    return layers


def shrunk_encoder(config: AudioEncoderConfig, structure: Structure, prefix: str = "") -> AudioEncoderConfig:
    """Return the configuration of the encoder that ``structure`` leaves."""
    convolutions = [f"{prefix}{_CONVOLUTIONS}{index}.channels" for index in range(len(config.conv_channels))]
    channels = tuple(structure.count(name) for name in convolutions)
    return replace(_shrunk(config, structure, prefix), conv_channels=channels)


def shrunk_decoder(config: TextDecoderConfig, structure: Structure) -> TextDecoderConfig:
    """Return the configuration of the decoder that ``structure`` leaves."""
    cross = _kept(structure, DECODER, "cross_attention.heads", config.cross_heads)
    memory = structure.count(f"{ENCODER}{WIDTH}") if f"{ENCODER}{WIDTH}" in structure.groups else config.memory_dim
    return replace(_shrunk(config, structure, DECODER), cross_heads=cross, memory_dim=memory)


def _shrunk(config: _Stack, structure: Structure, prefix: str) -> _Stack:
    return replace(
        config,
        d_model=structure.count(f"{prefix}{WIDTH}") if f"{prefix}{WIDTH}" in structure.groups else config.d_model,
        heads=_kept(structure, prefix, "attention.heads", config.heads),
        ffn_dim=_kept(structure, prefix, "ffn.hidden", config.ffn_dim),
    )


def _kept(structure: Structure, prefix: str, group: str, sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(structure.count(f"{prefix}{_layer(i)}{group}") if size else 0 for i, size in enumerate(sizes))
