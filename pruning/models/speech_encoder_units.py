"""Unit groups and costs of a speech encoder of the wav2vec2 family.

Unit kinds: ``frontend`` (channels of each convolution over samples), ``heads``, ``ffn``; for whole modules:
``attention_module``, ``ffn_module``. On request also ``width``: channels of the residual stream, all that one group of
the positional convolution has as a unit. Tensors have Hugging Face's names, so that one declaration works for its
networks and for ours.
"""

from __future__ import annotations

from dataclasses import replace

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, Span, UnitGroup
from pruning.errors import UserError
from pruning.models.module_units import ffn_groups, module_group, stream_group, unit_terms
from pruning.models.speech_encoder_config import LAYER_NORM, SpeechEncoderConfig

FRONTEND = "frontend"
_PROJECTION = "feature_projection"
_POSITIONAL = "encoder.pos_conv_embed.conv"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_LINEARS = ("intermediate_dense", "output_dense")
GATE_OUTPUTS = 8
"""Number of outputs of the linear layer of WavLM's gates: two gates, each the sum of four outputs."""


def _convolution(index: int) -> str:
    return f"feature_extractor.conv_layers.{index}"


def _layer(index: int) -> str:
    return f"encoder.layers.{index}."


def has_norm(config: SpeechEncoderConfig, index: int) -> bool:
    """Return whether a norm follows the front-end convolution ``index``."""
    return index == 0 or config.frontend_norm == LAYER_NORM


def unit_groups(config: SpeechEncoderConfig, width: bool = False) -> list[UnitGroup]:
    """Return the unit groups of an encoder, for the modules that exist; with ``width``, also the residual width.

    Raises:
        UserError: ``width`` is asked for and the encoder has WavLM's gates.
    """
    groups = _frontend_groups(config)
    for index in range(config.num_layers):
        groups += [replace(group, layer=index) for group in _layer_groups(config, index)]
    return [*groups, _width_group(config)] if width else groups


def _frontend_groups(config: SpeechEncoderConfig) -> list[UnitGroup]:
    groups = []
    for index, channels in enumerate(config.conv_channels):
        name, last = _convolution(index), index + 1 == len(config.conv_channels)
        following = Span(f"{_PROJECTION}.projection.weight" if last else f"{_convolution(index + 1)}.conv.weight", 1)
        own, norms = [f"{name}.conv.weight"], []
        if config.conv_bias:
            own.append(f"{name}.conv.bias")
        if has_norm(config, index):
            own += [f"{name}.layer_norm.weight", f"{name}.layer_norm.bias"]
        if config.frontend_norm == LAYER_NORM:  # the group norm normalises each channel separately
            norms.append(f"{name}.layer_norm")
        if last and config.projection_norm:
            own += [f"{_PROJECTION}.layer_norm.weight", f"{_PROJECTION}.layer_norm.bias"]
            norms.append(f"{_PROJECTION}.layer_norm")
        slices = (*(Span(tensor, 0) for tensor in own), following)
        least = min(2, channels) if norms else 1  # a norm over a single channel makes it constant
        groups.append(UnitGroup(f"{name}.channels", FRONTEND, channels, (following,), slices, minimum=least,
                                norms=tuple(norms)))  # fmt: skip
    return groups


def _layer_groups(config: SpeechEncoderConfig, index: int) -> list[UnitGroup]:
    """Return the groups of a layer; norms before a module are removed with it, norms after a residual stay."""
    layer, groups = _layer(index), []
    norms = {"attention": ["layer_norm"], "feed_forward": ["final_layer_norm"]} if config.pre_norm else {}
    if config.heads[index]:
        d, width = config.d_model, config.head_dim
        parent = module_group(layer, "attention", "attention_module", "out_proj", d, norms.get("attention", []))
        name = parent.name
        following = Span(f"{name}.out_proj.weight", 1, width)
        own = [Span(f"{name}.{part}.{tensor}", 0, width) for part in _PROJECTIONS for tensor in ("weight", "bias")]
        if config.relative_positions:
            own.append(Span(f"{name}.gru_rel_pos_const", 1))
        heads = UnitGroup(f"{name}.heads", "heads", len(config.heads[index]), (following,), (*own, following), name)
        groups += [parent, heads]
    if config.ffn_dim[index]:
        groups += ffn_groups(layer, "feed_forward", config.ffn_dim[index], config.d_model, _LINEARS,
                             norms.get("feed_forward", []))  # fmt: skip
    return groups


def _width_group(config: SpeechEncoderConfig) -> UnitGroup:
    """Return the group of the channels of the residual stream.

    All channels of one group of the positional convolution are a unit, because the convolution stays a grouped one.
    Its masks act on weight and bias of the norms. With norms after the modules, everything reads the stream behind
    one. With norms before the modules, hidden states are the stream itself, so that the masks act on all that write it
    too; the weights of the positional convolution need none, because a closed group of its inputs is 0.
    """
    if config.relative_positions:
        raise UserError("the residual width of WavLM cannot be pruned, because its gates read the stream by heads",
                        f"leave {WIDTH} out of the unit kinds")  # fmt: skip
    each = config.d_model // config.pos_groups
    readers, writers, norms = [], [f"{_PROJECTION}.projection"], []
    for index in range(config.num_layers):
        layer = _layer(index)
        if config.heads[index]:
            readers += [f"{layer}attention.{name}" for name in _PROJECTIONS]
            writers.append(f"{layer}attention.out_proj")
        if config.ffn_dim[index]:
            readers.append(f"{layer}feed_forward.{_LINEARS[0]}")
            writers.append(f"{layer}feed_forward.{_LINEARS[1]}")
        for norm, exists in (("layer_norm", config.heads[index]), ("final_layer_norm", config.ffn_dim[index])):
            norms += [f"{layer}{norm}"] if exists or not config.pre_norm else []
    masked = writers if config.pre_norm else []
    group = stream_group("", config.d_model, ["encoder.layer_norm", *norms], writers, readers, masked, each=each)
    positional = [Span(f"{_POSITIONAL}.{tensor}", 0, each) for tensor in ("weight", "bias")]
    return replace(group, masks=(*group.masks, *positional[1:] * config.pre_norm), slices=(*group.slices, *positional))


def cost_terms(config: SpeechEncoderConfig, samples: int, width: bool = False) -> list[CostTerm]:
    """Return the cost terms for an utterance of ``samples`` samples.

    Kinds: ``frontend``, ``projection``, ``positional``, ``attention``, ``ffn``, ``norm``. MACs count convolutions,
    linear layers and the matrix products of attention, but not norms and activations. With ``width``, the terms
    multiply the count of the residual width instead of ``d_model``.
    """
    each = config.d_model // config.pos_groups
    wide, d = ((WIDTH,), each) if width else ((), config.d_model)
    frames = config.frames(samples)
    terms: list[CostTerm] = []
    previous: tuple[str, ...] = ()
    for index, kernel in enumerate(config.conv_kernels):
        group = f"{_convolution(index)}.channels"
        terms.append(CostTerm(FRONTEND, (*previous, group), kernel, kernel * frames[index]))
        own = int(config.conv_bias) + 2 * int(has_norm(config, index))
        terms.append(CostTerm(FRONTEND, (group,), own, 0))
        previous = (group,)
    t = frames[-1]
    terms += unit_terms("projection", previous, wide, (d, t * d), (2 * int(config.projection_norm), 0))
    terms.append(CostTerm("projection", wide, d, 0))
    positional = d * each * config.pos_kernel
    relative = config.buckets * config.original_heads if config.relative_positions else 0
    terms += unit_terms("positional", (), wide, (positional + d, t * positional), (relative, 0))
    terms.append(CostTerm("norm", wide, 2 * d, 0))
    for index in range(config.num_layers):
        terms += _layer_terms(config, index, t, wide, d)
    return terms


def _layer_terms(config: SpeechEncoderConfig, index: int, t: int, wide: tuple[str, ...], d: int) -> list[CostTerm]:
    """Return the terms of a layer, by the cost formulas of HJ-Pruning; WavLM heads also have a factor and gates.

    ``wide`` is the group of the residual width, of which a unit has ``d`` channels, or empty for ``d`` channels.
    """
    terms: list[CostTerm] = []
    h = config.head_dim
    norm = 2 * d if config.pre_norm else 0
    if config.heads[index]:
        module = f"{_layer(index)}attention"
        gate = GATE_OUTPUTS * h if config.relative_positions else 0
        rest = 3 * h + int(config.relative_positions), 2 * t * t * h + t * gate
        terms += unit_terms("attention", (module, f"{module}.heads"), wide, (4 * d * h, 4 * t * d * h), rest)
        shared = gate + GATE_OUTPUTS if config.relative_positions else 0
        terms += unit_terms("attention", (module,), wide, (d + norm, 0), (shared, 0))  # output bias, norm, gate
    if config.ffn_dim[index]:
        module = f"{_layer(index)}feed_forward"
        terms += unit_terms("ffn", (module, f"{module}.hidden"), wide, (2 * d, 2 * t * d), (1, 0))
        terms.append(CostTerm("ffn", (module, *wide), d + norm, 0))
    if not config.pre_norm:
        terms.append(CostTerm("norm", wide, 4 * d, 0))
    return terms


def linear_layers(config: SpeechEncoderConfig, samples: int) -> list[LinearLayer]:
    """Return the linear layers of the Transformer."""
    t, layers = config.frames(samples)[-1], []
    for index in range(config.num_layers):
        if config.heads[index]:
            names = [f"{_layer(index)}attention.{name}" for name in (*_PROJECTIONS, "out_proj")]
            layers += [LinearLayer(name, "attention", t) for name in names]
        if config.ffn_dim[index]:
            layers += [LinearLayer(f"{_layer(index)}feed_forward.{name}", "ffn", t) for name in _LINEARS]
    return layers


def shrink(config: SpeechEncoderConfig, structure: Structure) -> SpeechEncoderConfig:
    """Return the configuration of the encoder that ``structure`` leaves."""

    def kept_heads(index: int, heads: tuple[int, ...]) -> tuple[int, ...]:
        units = structure.groups[f"{_layer(index)}attention.heads"].kept if heads else ()
        return tuple(heads[unit] for unit in units)

    channels = range(len(config.conv_channels))
    kept = structure.count(WIDTH) if WIDTH in structure.groups else config.pos_groups
    return replace(
        config,
        d_model=kept * (config.d_model // config.pos_groups),
        pos_groups=kept,
        conv_channels=tuple(structure.count(f"{_convolution(index)}.channels") for index in channels),
        heads=tuple(kept_heads(index, heads) for index, heads in enumerate(config.heads)),
        ffn_dim=tuple(
            structure.count(f"{_layer(index)}feed_forward.hidden") if size else 0
            for index, size in enumerate(config.ffn_dim)
        ),
    )
